"""Other caches are found by what they leave on a model, and nothing else is taken for one."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types

import models
import pytest

from sencache_core import CacheConfig

pytestmark = pytest.mark.comfyui


@pytest.fixture
def pack(tmp_path):
    """``(name, source) -> module`` of a custom node, named as ComfyUI names it: by its path."""
    loaded = []

    def load(name, source, root="ComfyUI"):
        folder = tmp_path / root / "custom_nodes" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").write_text("")
        (folder / "nodes.py").write_text(source)
        base = str(folder).replace(".", "_x_")
        for full, file in ((base, "__init__.py"), (f"{base}.nodes", "nodes.py")):
            spec = importlib.util.spec_from_file_location(full, folder / file)
            module = importlib.util.module_from_spec(spec)
            sys.modules[full] = module
            loaded.append(full)
            spec.loader.exec_module(module)
        return module

    yield load
    for name in loaded:
        sys.modules.pop(name, None)


@pytest.fixture
def own(comfyui):
    """A model of one layer that no other test shares."""
    return models.build("wan_t2v", layers=1)


WRAP = """
class Teapot:
    def __init__(self):
        self.last = None


def outer(executor, *args, **kwargs):
    return executor(*args, **kwargs)


class ApplyFBCacheOnModel:
    def patch(self):
        def model_unet_function_wrapper(function, params):
            return function(params["input"], params["timestep"], **params["c"])

        return model_unet_function_wrapper


class FirstBlockCache:
    def decide(self, args):
        return True


def make_patch(state):
    def patch(args, extra):
        return extra["original_block"](args) if state.decide(args) else args

    return patch


def _enable_wan_cache(network):
    before = network.forward

    def forward(*args, **kwargs):
        return before(*args, **kwargs)

    network.forward = forward


class StepCacheConfig:
    interval = 2


class CachedBlocks:
    pass
"""


def with_option(key, value=2):
    def put(model, made):
        model.model_options["transformer_options"][key] = value(made) if callable(value) else value

    return put


def with_wrapper(kind, key, name="outer"):
    def put(model, made):
        model.add_wrapper_with_key(kind, key, getattr(made, name))

    return put


def _slot(model, made):
    model.set_model_unet_function_wrapper(made.ApplyFBCacheOnModel().patch())


def _beside(model, made):
    model.set_model_patch(made.make_patch(made.FirstBlockCache()), "double_block")


def _block_patch(model, made):
    patch = made.make_patch(made.FirstBlockCache())
    model.set_model_patch_replace(patch, "dit", "double_block", 0)


def _object_patch(model, made):
    made._enable_wan_cache(holder := types.SimpleNamespace(forward=print))
    model.add_object_patch("diffusion_model.forward", holder.forward)


CACHES = {
    "wan_cache": (with_option("wan_cache"), "CacheDiT"),
    "ltx2_cache": (with_option("ltx2_cache"), "CacheDiT"),
    "cache_dit_turbo": (with_option("cache_dit_turbo"), "CacheDiT"),
    "teacache": (with_option("rel_l1_thresh", 0.1), "TeaCache"),
    "magcache": (with_option("magcache_K"), "MagCache"),
    "first_block": (with_wrapper("diffusion_model", "first_block_cache"), "First Block Cache"),
    "fbcache": (_slot, "First Block Cache"),
    "by_block": (_block_patch, "First Block Cache"),
    "beside_blocks": (_beside, "First Block Cache"),
    "of_no_name": (with_wrapper("apply_model", "residual_cache"), "The cache 'residual_cache'"),
    "by_value": (with_option("accelerator", lambda made: made.StepCacheConfig()), "A step cache"),
    "object_patch": (_object_patch, "CacheDiT"),
}


@pytest.mark.parametrize("case", CACHES)
def test_caches_are_refused_by_name_at_attach_and_at_the_start(runs, host, pack, own, case):
    put, name = CACHES[case]
    made = pack("ComfyUI-Speed", WRAP)
    before, after = own.clone(), host.attach(own, CacheConfig())
    put(before, made)
    with pytest.raises(host.UnsupportedModel, match=f"^{name}.* is already on this model"):
        host.attach(before, CacheConfig())
    put(after, made)
    shared = models.load("wan_t2v")
    with pytest.raises(host.UnsupportedModel, match="is already on this model"):
        runs.sample(after, shared, steps=2)


def test_a_forward_that_stays_on_the_network_is_refused_with_the_way_out(runs, host, pack, own):
    """The node may be gone: the loaded network still answers from a cache."""
    attached = host.attach(own, CacheConfig())
    pack("ComfyUI-Speed", WRAP)._enable_wan_cache(own.model.diffusion_model)
    with pytest.raises(host.UnsupportedModel, match="restart ComfyUI"):
        host.attach(own, CacheConfig())
    with pytest.raises(host.UnsupportedModel, match="CacheDiT"):
        runs.sample(attached, models.load("wan_t2v"), steps=2)


def test_what_comes_with_the_run_is_refused_in_its_first_round(runs, host, pack, own):
    made = pack("ComfyUI-Speed", WRAP)
    network = own.model.diffusion_model

    def late(executor, *args, **kwargs):
        made._enable_wan_cache(network)
        return executor(*args, **kwargs)

    attached = host.attach(own, CacheConfig())
    attached.add_wrapper_with_key("outer_sample", "accelerate", late)
    with pytest.raises(host.UnsupportedModel, match="CacheDiT"):
        runs.sample(attached, models.load("wan_t2v"), steps=2)


HARMLESS = """
def _forward_with_cached_refs(network, *args, **kwargs):
    return type(network).forward(network, *args, **kwargs)


def reference(network):
    cache_state = {"key": None, "caches": {}}

    def forward(*args, **kwargs):
        cache_state["key"] = 1
        return _forward_with_cached_refs(network, *args, **kwargs)

    return forward


def clear_cache_wrapper(executor, *args, **kwargs):
    return executor(*args, **kwargs)


class RefKVCache:
    pass


class AttentionTuner:
    def __init__(self, before):
        self.before = before

    def __call__(self, *args, **kwargs):
        return self.before(*args, **kwargs)


def sage_attention(function, *args, **kwargs):
    return function(*args, **kwargs)


def usp_forward(self, *args, **kwargs):
    return type(self).forward_orig(self, *args, **kwargs)
"""


def _compiled(model, made):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    set_torch_compile_wrapper(model=model, backend="eager")


def _compiled_block(model, made):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    set_torch_compile_wrapper(model=model, backend="eager", keys=["diffusion_model.blocks.0"])


def _tuned(model, made):
    for path in ("blocks.0", "blocks.0.self_attn", "blocks.0.cross_attn", "blocks.0.ffn"):
        before = model.get_model_object(f"diffusion_model.{path}").forward
        model.add_object_patch(f"diffusion_model.{path}.forward", made.AttentionTuner(before))


def _core_nodes(model, made):
    """Stock guidance and windows, one over the other."""
    import runs
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3, RescaleCFG
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance
    from comfy_extras.nodes_slg import SkipLayerGuidanceDiT

    out = SkipLayerGuidanceDiT.execute(model, 2.0, 0.0, 0.9, "0", "0").result[0]
    out = PerturbedAttentionGuidance.execute(out, 2.0).result[0]
    (out,) = RescaleCFG().patch(out, 0.7)
    (out,) = ModelSamplingSD3().patch(out, 3.0)
    out = runs.windowed(out, "standard_static")
    model.model_options = out.model_options
    model.object_patches = out.object_patches
    model.wrappers = out.wrappers


OTHERS = {
    "compile": _compiled,
    "compiled_block": _compiled_block,
    "attention": with_option(
        "optimized_attention_override", lambda made: lambda f, *a, **k: f(*a, **k)
    ),
    "blocks_and_attention": _tuned,
    "references": lambda model, made: model.add_object_patch(
        "diffusion_model.forward", made.reference(model.model.diffusion_model)
    ),
    "parallel": lambda model, made: model.add_object_patch(
        "diffusion_model.forward_orig",
        types.MethodType(made.usp_forward, model.model.diffusion_model),
    ),
    "memory": with_wrapper("apply_model", "memory", "clear_cache_wrapper"),
    "keys_and_values": with_option("ref_kv_cache", lambda made: made.RefKVCache()),
    "off": with_option("enable_teacache", False),
    "core": _core_nodes,
}


@pytest.mark.parametrize("case", OTHERS)
def test_neighbours_that_are_no_caches_are_left_alone(runs, host, pack, own, case):
    """From a folder of that name, to make sure that no path is taken for a name."""
    made = pack("ComfyUI-Cache-Tools", HARMLESS, root="cache/ComfyUI")
    shared = models.load("wan_t2v")
    model = own.clone()
    OTHERS[case](model, made)
    reports = runs.Reports()
    runs.sample(host.attach(model, CacheConfig(min_steps=4), reports), shared, steps=4)
    over = host.attach(own, CacheConfig(min_steps=4), reports)
    OTHERS[case](over, made)
    runs.sample(over, shared, steps=4)
    assert [report.completed for report in reports] == [True, True]
    noted = [said for said in reports.last.texts if "replaced the model's forward" in said]
    assert len(noted) == (case in ("references", "parallel"))
    assert all("ComfyUI-Cache-Tools" in said for said in noted)


def test_the_cache_of_poses_in_the_core_is_no_cache_of_steps(runs, host):
    """It holds what the pose stream computed from the same inputs once."""
    case = models.load("wan_animate2")
    node = importlib.import_module("comfy_extras.nodes_wan")
    cls = next(v for k, v in vars(node).items() if "Animate2" in k and "Cache" in k)
    model = cls.execute(case.model, "cpu", "default").result[0]
    reports = runs.Reports()
    runs.sample(host.attach(model, CacheConfig(), reports), case, steps=12)
    assert reports.last.reused == 6
