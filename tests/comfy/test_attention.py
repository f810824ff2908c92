"""The layer taps and FasterCache on ComfyUI's own models."""

from __future__ import annotations

from dataclasses import replace

import models
import pytest
import torch
from test_lifecycle import traces
from test_stack import Answers, Hears

from sencache_core import CacheConfig, Guards
from sencache_core.model.families import FAMILIES
from sencache_core.model.taps import TAPS
from sencache_core.policies.fastercache import FasterCache

pytestmark = pytest.mark.comfyui

STEPS = 12
FAMILY = {"wan": "wan", "ltxv": "ltx", "ltxav": "ltx2", "cog": "cogvideox"}
#: Kinds whose blocks call their self-attention as a module, or spread as CogVideoX's.
REACHED = [name for name in models.CACHED if name != "wan_animate2"]


#: By kind of model, a module that runs in each layer of a block and nowhere else.
WITHIN = {
    "wan_t2v": {"self": "self_attn.q", "cross": "cross_attn.q", "mlp": "ffn.0"},
    "ltxv": {"self": "attn1.to_q", "cross": "attn2.to_q", "mlp": "ff.net.0.proj"},
    "cog_1_0": {"self": "q", "mlp": "ff_proj"},
}


@pytest.mark.parametrize(
    ("name", "tap"),
    [(name, tap) for name in WITHIN for tap in ("attention", "layers")],
)
def test_payload_is_what_a_layer_returns(runs, host, name, tap):
    """One call outside of any sampler: truth replays it, and the layers themselves do not run."""
    case = models.load(name)
    kind, network = models.KINDS[name], case.model.model.diffusion_model
    family = FAMILIES[FAMILY[name.split("_")[0]]]
    blocks = getattr(network, family.comfy_places.blocks)
    x, context = models.noise(1, *kind.shape), models.noise(1, 5, kind.text)
    mask = {"attention_mask": torch.ones(1, 5, dtype=torch.long)} if name == "ltxv" else {}
    within = {k: v for k, v in WITHIN[name].items() if tap == "layers" or k == "self"}
    ran = [0]
    handles = [
        block.get_submodule(layer).register_forward_hook(lambda *_: ran.__setitem__(0, ran[0] + 1))
        for block in blocks
        for layer in within.values()
    ]

    def run(visit=None):
        time = torch.tensor([0.5 if name == "ltxv" else 500.0])
        with torch.inference_mode():
            if visit is None:
                return network(x.clone(), time, context, transformer_options={}, **mask)
            with TAPS[tap].on(network, family.comfy_places, visit):
                return network(x.clone(), time, context, transformer_options={}, **mask)

    try:
        truth, seen = run(), Hears()
        assert torch.equal(run(seen), truth)
        for layer in within:
            numbers = [site.index for site in seen.heard if site.kind == layer]
            assert numbers == list(range(len(blocks)))
        assert {site.kind for site in seen.heard} == within.keys()
        before, replay = ran[0], Answers(seen.heard)
        assert (run(replay) - truth).abs().max() < 1e-5
        assert ran[0] == before
        assert replay.ran_at == []
        assert (0.1 if tap == "attention" else 0.9) < replay.shares <= 1
        assert (run(Answers()) - truth).abs().max() > 1e-2
    finally:
        for handle in handles:
            handle.remove()
    assert not any(m._forward_pre_hooks for m in network.modules())
    assert type(network._modules[family.comfy_places.blocks]) is torch.nn.ModuleList


def test_blocks_that_run_twice_in_a_call_are_left_alone(runs, host):
    """Wan Animate 2 runs its blocks for poses too, whose outputs are other ones."""
    case, seen = models.load("wan_animate2"), Hears()
    network = case.model.model.diffusion_model
    with TAPS["layers"].on(network, FAMILIES["wan"].comfy_places, seen):
        assert list(network.blocks) == list(network._modules["blocks"]._modules.values())
    assert seen.heard == {}


@pytest.mark.parametrize("name", ["wan_t2v", "ltxv", "ltxav", "cog_1_0", "cog_1_5"])
def test_strictest_is_bit_identical(runs, host, name):
    case, reports = models.load(name), runs.Reports()
    plain = runs.sample(case.model, case, steps=6)
    config = CacheConfig(FasterCache(1.0), budget=None, min_steps=1)
    out = runs.sample(host.attach(case.model, config, reports), case, steps=6)
    assert reports.last.reused == reports.last.partial == 0
    assert runs.same(out, plain)


@pytest.mark.parametrize("tokens", [(5, 5), (5, 8)])
@pytest.mark.parametrize("name", REACHED)
def test_attention_and_guidance_at_once(runs, host, name, tokens):
    case, reports = models.load(name, tokens=tokens), runs.Reports()
    before, plain = traces(case.model), runs.sample(case.model, case, steps=STEPS)
    config = CacheConfig(FasterCache(), guards=Guards(warmup=2, cooldown=0), budget=None)
    out = runs.sample(host.attach(case.model, config, reports), case, steps=STEPS)
    report = reports.last
    assert not [said for said in report.texts if "no " in said and "place" in said]
    parts = [step.part for step in report.steps]
    both, alone = "conditional branch, all but self-attention", "conditional branch"
    assert parts == ["", "", alone, both, "", alone, both, both, alone, "", both, alone]
    costs = {part: step.cost for part, step in zip(parts, report.steps, strict=True)}
    assert costs[""] == 1.0 and costs[alone] == 0.5
    assert costs[both] < 0.5
    assert runs.error(out, plain) < 0.5
    assert not runs.same(out, plain)
    assert traces(case.model) == before


def test_without_guidance_attention_alone_is_reused(runs, host):
    case, reports = models.load("wan_t2v"), runs.Reports()
    config = CacheConfig(FasterCache(), guards=Guards(warmup=2, cooldown=0), budget=None)
    runs.sample(host.attach(case.model, config, reports), case, steps=STEPS, cfg=1.0)
    parts = [step.part for step in reports.last.steps]
    part = "all but self-attention"
    assert parts == ["", "", "", part, part, "", part, part, "", part, part, ""]
    assert all(0.1 < step.cost < 0.9 for step in reports.last.steps if step.part)


def test_compiled_blocks_are_left_alone_and_that_is_said(runs, host):
    model = models.build("wan_t2v")
    case, reports = replace(models.load("wan_t2v"), model=model), runs.Reports()
    blocks = model.model.diffusion_model.blocks
    for block in blocks:
        block.compile(backend="eager")
    config = CacheConfig(FasterCache(), guards=Guards(warmup=2, cooldown=0), budget=None)
    runs.sample(host.attach(model, config, reports), case, steps=STEPS, cfg=1.0)
    assert reports.last.cost == 1.0
    assert any("no places to skip" in said for said in reports.last.texts)
