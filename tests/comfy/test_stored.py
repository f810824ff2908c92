"""Runs answered from the store are what they are without it, bit for bit, and say what ran."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from sencache_core import CacheConfig, Guards, tiny
from sencache_core.measure.learnt_store import LearntStore
from sencache_core.measure.stored import CallStore
from sencache_core.model.digest import of_weights

pytestmark = pytest.mark.comfyui

STEPS = 12


@pytest.fixture(scope="session")
def stored(comfyui):
    from sencache_core.hosts import comfy_stored

    return comfy_stored


@pytest.fixture(scope="module")
def wan(runs):
    """The bundled tiny Wan model, with a prompt of it."""
    import comfy.sd
    from models import Case

    path = str(tiny.weights_path("wan"))
    model = comfy.sd.load_diffusion_model(path, model_options={"dtype": torch.float32})
    latent = torch.zeros(1, *tiny.SPECS["wan"].latent)
    return Case("tiny_wan", model, prompt("a red circle moving left"), prompt(""), latent)


def prompt(text: str) -> list:
    return [[tiny.encode_prompt(text)[None], {}]]


class Both:
    """A model that stores and resumes, and what its last run said."""

    def __init__(self, stored, model, folder, **options) -> None:
        store = CallStore(folder)
        self.counts = []
        kept = stored.keep(model, store)
        self.model = stored.resume(kept, store, **options, told=self.counts.append)

    @property
    def last(self):
        return self.counts[-1]


@pytest.mark.parametrize("sampler", ["euler", "uni_pc", "heun", "euler_ancestral", "dpmpp_sde"])
def test_a_second_run_does_not_ask_the_model(runs, stored, wan, tmp_path, sampler):
    """Also where a sampler remembers steps, or adds noise that its seed makes."""
    plain = runs.sample(wan.model, wan, sampler, steps=4)
    both = Both(stored, wan.model, tmp_path)
    assert runs.same(plain, runs.sample(both.model, wan, sampler, steps=4))
    first = both.last
    assert (first.answered, first.kept, first.first) == (0, first.calls, 0)
    with runs.counted(wan.model) as count:
        assert runs.same(plain, runs.sample(both.model, wan, sampler, steps=4))
    assert count == [0]
    assert (both.last.answered, both.last.kept, both.last.first) == (first.calls, 0, None)


def test_the_original_patcher_is_untouched(runs, stored, wan, tmp_path):
    both = Both(stored, wan.model, tmp_path)
    runs.sample(both.model, wan, steps=2)
    assert "_apply_model" not in vars(wan.model.model)
    assert not any(stored.STORED in by_key for by_key in wan.model.wrappers.values())
    runs.sample(wan.model, wan, steps=2)
    assert len(both.counts) == 1


def test_an_interrupted_run_goes_on(runs, stored, wan, tmp_path):
    plain = runs.sample(wan.model, wan, steps=STEPS)
    both = Both(stored, wan.model, tmp_path)

    def stop(step, *_):
        if step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.sample(both.model, wan, steps=STEPS, callback=stop)
    assert "_apply_model" not in vars(wan.model.model)
    with runs.counted(wan.model) as count:
        assert runs.same(plain, runs.sample(both.model, wan, steps=STEPS))
    assert (count[0], both.last.answered, both.last.first) == (STEPS - 7, 7, 7)


def test_only_what_comes_later_is_computed(runs, stored, wan, tmp_path):
    """A prompt that changes in mid-run: the steps before are the stored ones."""

    def case(second: str):
        model = wan.model.get_model_object("model_sampling")
        early, late = (float(model.percent_to_sigma(p)) for p in (0.0, 0.85))
        ranges = {"start_percent": 0.0, "end_percent": 0.85}, {"start_percent": 0.85}
        assert early > late > 0
        texts = zip(("a red circle moving left", second), ranges, strict=True)
        positive = [[prompt(text)[0][0], span] for text, span in texts]
        return replace(wan, positive=positive)

    both = Both(stored, wan.model, tmp_path)
    runs.sample(both.model, case("a blue square"), steps=STEPS)
    other = case("a green circle")
    plain = runs.sample(wan.model, other, steps=STEPS)
    assert runs.same(plain, runs.sample(both.model, other, steps=STEPS))
    assert 0 < both.last.answered < STEPS
    assert both.last.first == both.last.answered


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"seed": 8}, "latent"),
        ({"cfg": 1.0}, "latent"),
        ({"shape": (-1, -2)}, "latent"),
        ({"prompt": "a red circle moving right"}, "prompt"),
        ({"negative": "a blue square"}, "prompt"),
        ({"lora": 0.5}, "model"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_changes_the_start_is_computed_in_full(runs, stored, wan, tmp_path, change, differs):
    both = Both(stored, wan.model, tmp_path)
    runs.sample(both.model, wan, steps=3)
    case, model, options = wan, wan.model, {k: change[k] for k in ("seed", "cfg") if k in change}
    if "prompt" in change:
        case = replace(case, positive=prompt(change["prompt"]))
    if "negative" in change:
        case = replace(case, negative=prompt(change["negative"]))
    if "shape" in change:
        case = replace(case, latent=case.latent[..., : change["shape"][0], : change["shape"][1]])
    if "lora" in change:
        model = with_lora(model, change["lora"])
    plain = runs.sample(model, case, steps=3, **options)
    other = Both(stored, model, tmp_path)
    assert runs.same(plain, runs.sample(other.model, case, steps=3, **options))
    assert other.last.answered == 0
    assert differs in other.last.differs


def with_lora(model, strength: float):
    name = next(k for k in model.model.state_dict() if k.endswith("ffn.0.weight"))
    weight = model.model.state_dict()[name]
    clone = model.clone()
    diff = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)) * 0.01
    clone.add_patches({name: ("diff", (diff,))}, strength)
    return clone


def test_a_lora_of_the_same_strength_is_recognised(runs, stored, wan, tmp_path):
    """In whatever order models are loaded and patched."""
    clean = runs.sample(wan.model, wan, steps=2)
    for strength, known in ((0.5, 0), (1.0, 0), (0.5, 2)):
        both = Both(stored, with_lora(wan.model, strength), tmp_path)
        runs.sample(both.model, wan, steps=2)
        assert both.last.answered == known
    both = Both(stored, wan.model, tmp_path)
    assert runs.same(clean, runs.sample(both.model, wan, steps=2))
    assert both.last.answered == 0


def test_another_sampler_shares_what_both_ask_for(runs, stored, wan, tmp_path):
    both = Both(stored, wan.model, tmp_path)
    runs.sample(both.model, wan, "euler", steps=4)
    plain = runs.sample(wan.model, wan, "dpmpp_2m", steps=4)
    assert runs.same(plain, runs.sample(both.model, wan, "dpmpp_2m", steps=4))
    assert 1 <= both.last.answered <= 2  # its first step is one of euler's
    assert both.last.first == both.last.answered


def test_more_budget_goes_on_from_the_first_skip(runs, host, stored, wan, tmp_path):
    """Whichever of the nodes comes first: what the cache forecasts is never stored."""
    plain = runs.sample(wan.model, wan, steps=STEPS)
    for number, cached_first in enumerate((True, False)):
        folder, reports = tmp_path / str(number), runs.Reports()
        config = CacheConfig(budget=0.5)

        def cached(model, config=config, reports=reports):
            return host.attach(model, config, reports)

        def kept(model, folder=folder):
            return stored.keep(model, CallStore(folder))

        model = kept(cached(wan.model)) if cached_first else cached(kept(wan.model))
        alone = runs.sample(host.attach(wan.model, config), wan, steps=STEPS)
        assert runs.same(alone, runs.sample(model, wan, steps=STEPS))
        computed = reports.last.evaluations
        assert computed == STEPS // 2
        both = Both(stored, wan.model, folder)
        assert runs.same(plain, runs.sample(both.model, wan, steps=STEPS))
        decisions = [step.decision for step in reports.last.steps]
        assert both.last.first == both.last.answered == decisions.index("reused")


def test_a_cached_run_is_answered_as_it_was(runs, host, stored, wan, tmp_path):
    """The history of the cache fills from the store: plan, forecasts and latent are the same."""
    reports = runs.Reports()
    both = Both(stored, wan.model, tmp_path)
    cached = host.attach(both.model, CacheConfig(budget=0.5), reports)
    first = runs.sample(cached, wan, steps=STEPS)
    with runs.counted(wan.model) as count:
        assert runs.same(first, runs.sample(cached, wan, steps=STEPS))
    assert count == [0]
    one, other = ([s.decision for s in report.steps] for report in reports)
    assert one == other and reports[0].evaluations == reports[1].evaluations == STEPS // 2
    assert not any("answered" in message for message in reports[0].texts)
    assert any("SenCache Resume answered" in message for message in reports[1].texts)
    assert not any("without running the model" in m for r in reports for m in r.texts)


def test_a_learning_cache_is_left_as_it_is(runs, host, stored, wan, tmp_path):
    """Its later plans differ from the first one; a resumed run follows its own."""
    config = CacheConfig(budget=0.5, learn=LearntStore(tmp_path / "learnt"))
    both = Both(stored, wan.model, tmp_path / "calls")
    runs.sample(host.attach(both.model, config), wan, steps=STEPS)
    frozen = replace(config, learn=None)
    alone = runs.sample(host.attach(wan.model, frozen), wan, steps=STEPS)
    assert runs.same(alone, runs.sample(host.attach(both.model, frozen), wan, steps=STEPS))


def test_a_tap_inside_the_model_is_refused_in_words(runs, host, stored, wan, tmp_path):
    config = CacheConfig(budget=0.5, tap="stack", guards=Guards(cooldown=0))
    both = Both(stored, wan.model, tmp_path)
    alone = runs.sample(host.attach(wan.model, config), wan, steps=STEPS)
    assert runs.same(alone, runs.sample(host.attach(both.model, config), wan, steps=STEPS))
    assert both.last.kept == 0
    assert any("output tap" in message for message in both.last.texts)


def test_what_cannot_be_compared_is_neither_stored_nor_resumed(runs, stored, wan, tmp_path):
    import comfy.patcher_extension

    both = Both(stored, wan.model, tmp_path)
    runs.sample(both.model, wan, steps=2)
    replaced, wrapped = both.model.clone(), both.model.clone()
    replaced.set_model_patch_replace(
        lambda args, extra: extra["original_block"](args), "dit", "double_block", 0
    )
    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    wrapped.add_wrapper_with_key(kind, "other", lambda executor, *a, **k: executor(*a, **k))
    for model, named in ((replaced, "patches_replace"), (wrapped, "wrapper of the network")):
        runs.sample(model, wan, steps=2)
        assert (both.last.answered, both.last.kept) == (0, 0)
        assert any(named in message for message in both.last.texts)


def test_a_damaged_store_costs_nothing_but_time(runs, stored, wan, tmp_path):
    both = Both(stored, wan.model, tmp_path)
    plain = runs.sample(both.model, wan, steps=4)
    for number, path in enumerate(sorted(tmp_path.glob("*.safetensors"))):
        path.write_bytes(path.read_bytes()[: 100 * number])
    assert runs.same(plain, runs.sample(both.model, wan, steps=4))
    assert (both.last.answered, both.last.kept) == (0, 4)


def test_a_full_disk_costs_no_sample(runs, stored, wan, tmp_path):
    (tmp_path / "file").write_text("")
    both = Both(stored, wan.model, tmp_path / "file" / "store")
    plain = runs.sample(wan.model, wan, steps=3)
    assert runs.same(plain, runs.sample(both.model, wan, steps=3))
    assert len(both.last.texts) == 1 and "cannot write" in both.last.texts[0]


def test_a_similar_prompt_gives_the_start_if_asked(runs, stored, wan, tmp_path):
    runs.sample(stored.keep(wan.model, CallStore(tmp_path)), wan, steps=STEPS)
    near = replace(wan, positive=prompt("a red circle moving right"))
    far = replace(wan, positive=prompt("a blue square circling on a light background"))
    plain = runs.sample(wan.model, near, steps=STEPS)

    def asked(case, **options):
        counts = []
        model = stored.resume(wan.model, CallStore(tmp_path), told=counts.append, **options)
        return runs.sample(model, case, steps=STEPS), counts[-1]

    out, count = asked(near)
    assert runs.same(plain, out) and count.similar == 0
    out, count = asked(near, least=-1.0, share=0.25)
    assert not runs.same(plain, out) and (count.similar, count.first) == (3, 3)
    assert len(count.cosines) == 3 and len(set(count.cosines)) == 1
    limit = count.cosines[0]
    _, other = asked(far, least=-1.0, share=0.25)
    assert other.cosines[0] < limit < 1
    assert asked(far, least=limit, share=0.25)[1].similar == 0
    assert asked(near, least=limit - 1e-4, share=0.25)[1].similar == 3


def test_what_a_similar_prompt_gave_is_not_stored_as_this_one_s(runs, stored, wan, tmp_path):
    both = Both(stored, wan.model, tmp_path, least=-1.0, share=0.5)
    runs.sample(both.model, wan, steps=4)
    near = replace(wan, positive=prompt("a red circle moving right"))
    runs.sample(both.model, near, steps=4)
    assert (both.last.similar, both.last.kept) == (2, 2)
    exact = Both(stored, wan.model, tmp_path)
    plain = runs.sample(wan.model, near, steps=4)
    assert runs.same(plain, runs.sample(exact.model, near, steps=4))


PROCESS = """
import os, sys
sys.path[:0] = [os.environ["COMFYUI_FOLDER"], os.environ["TESTS"]]
sys.argv = ["x", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import comfy.cli_args, torch
import comfy.sd, runs
from models import Case
from sencache_core import tiny
from sencache_core.hosts import comfy_stored
from sencache_core.measure.stored import CallStore

options = {"dtype": torch.float32}
model = comfy.sd.load_diffusion_model(str(tiny.weights_path("wan")), model_options=options)
positive, negative = (
    [[tiny.encode_prompt(text)[None], {}]] for text in ("a red circle moving left", "")
)
case = Case("wan", model, positive, negative, torch.zeros(1, *tiny.SPECS["wan"].latent))
store, counts = CallStore(os.environ["STORE"]), []
model = comfy_stored.resume(comfy_stored.keep(model, store), store, told=counts.append)
torch.save(runs.sample(model, case, steps=4), os.environ["OUT"])
print(counts[-1].answered)
"""


def test_another_process_resumes(runs, stored, comfyui, wan, tmp_path):
    """As after a restart: digests are the same everywhere."""
    both = Both(stored, wan.model, tmp_path / "store")
    here = runs.sample(both.model, wan, steps=4)
    env = {**os.environ, "COMFYUI_FOLDER": str(comfyui), "TESTS": os.path.dirname(__file__)}
    env |= {"STORE": str(tmp_path / "store"), "OUT": str(tmp_path / "out.pt")}
    done = subprocess.run(
        [sys.executable, "-c", PROCESS], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "4"
    assert runs.same(here, torch.load(tmp_path / "out.pt"))


@pytest.mark.parametrize("name", ["wan_i2v", "wan_vace", "ltxv", "ltxav", "cog_1_5"])
def test_families(runs, stored, tmp_path, name):
    import models

    case = models.load(name)
    plain = runs.sample(case.model, case, steps=2)
    both = Both(stored, case.model, tmp_path)
    for answered in (0, 2):
        assert runs.same(plain, runs.sample(both.model, case, steps=2))
        assert both.last.answered == answered, both.last


def test_context_windows_and_two_lengths_of_text(runs, stored, tmp_path):
    """Several calls a step, of which each is its own."""
    import models

    case = models.load("wan_t2v", tokens=(5, 7))
    model = runs.windowed(case.model, "standard_static", 2, 1)
    plain = runs.sample(model, case, steps=2)
    both = Both(stored, model, tmp_path)
    assert runs.same(plain, runs.sample(both.model, case, steps=2))
    calls = both.last.calls
    assert calls > 4
    assert runs.same(plain, runs.sample(both.model, case, steps=2))
    assert both.last.answered == both.last.calls == calls


def test_a_compiled_model_has_its_own_answers(runs, stored, tmp_path):
    """Compiled code may round otherwise."""
    import comfy_api.torch_helpers
    import models

    case = models.load("wan_t2v")
    compiled = case.model.clone()
    comfy_api.torch_helpers.set_torch_compile_wrapper(compiled, backend="eager")
    for answered in (0, 2):
        both = Both(stored, compiled, tmp_path)
        runs.sample(both.model, case, steps=2)
        assert both.last.answered == answered
    both = Both(stored, case.model, tmp_path)
    runs.sample(both.model, case, steps=2)
    assert both.last.answered == 0 and "model" in both.last.differs


def test_quantised_weights_are_told_apart(comfyui):
    quant = pytest.importorskip("comfy.quant_ops", reason="this ComfyUI has no such weights")
    weight = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    found = [
        of_weights([("a", quant.QuantizedTensor.from_float(value, "TensorCoreFP8E4M3Layout"))])
        for value in (weight, weight.clone(), weight * 1.5)
    ]
    assert found[0] == found[1] != found[2]
    assert of_weights([("a", weight)]) != found[0]


def test_causal_models_are_refused(runs, stored, tmp_path):
    import models

    case = models.load("wan_causal")
    for attach in (stored.keep, stored.resume):
        with pytest.raises(ValueError, match="causal"):
            attach(case.model, CallStore(tmp_path))
