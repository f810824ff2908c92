"""Taps inside the model: silent while it computes, exact when they replay, gone after."""

from __future__ import annotations

from dataclasses import replace

import models
import pytest
import torch

from sencache_core import CacheConfig
from sencache_core.model.families import FAMILIES
from sencache_core.model.taps import TAPS, Listener
from sencache_core.policies import MiddleBlocks

pytestmark = pytest.mark.comfyui


@pytest.mark.parametrize("name", models.CACHED)
def test_stack(runs, host, name):
    case = models.load(name)
    network = case.model.model.diffusion_model
    stack = getattr(network, "transformer_blocks", None) or network.blocks
    sigmas, plain = runs.truth(name)
    last = stack[len(stack) - 1]
    ran = [0]
    # Animate 2 calls its blocks by another name, so count a part that every block has.
    part = next(m for n, m in last.named_modules() if n in ("norm2", "ff", "ffn"))
    handle = part.register_forward_hook(lambda *_: ran.__setitem__(0, ran[0] + 1))
    try:
        full = host.attach(case.model, CacheConfig(tap="stack", budget=1.0, min_steps=1))
        assert runs.same(runs.sample(full, case, sigmas=sigmas), plain)
        everything, ran[0] = ran[0], 0
        reports = runs.Reports()
        config = replace(runs.REPLAY, tap="stack")
        out = runs.sample(host.attach(case.model, config, reports), case, sigmas=sigmas)
    finally:
        handle.remove()
    assert not any("no block stack" in message for message in reports.last.texts)
    assert reports.last.evaluations == 2
    assert ran[0] == everything / 2
    assert runs.error(out, plain) <= 1e-5
    found = getattr(network, "transformer_blocks", None) or network.blocks
    assert found is stack and type(stack) is torch.nn.ModuleList
    assert not any(m._forward_pre_hooks for m in network.modules())
    assert "_process_transformer_blocks" not in vars(network)


class Answers:
    """Answers every place from what was heard there, or with zeros."""

    awaits = ""

    def __init__(self, heard=None):
        self.heard, self.ran_at, self.shares = heard, [], 0.0

    def skip(self, site, shape, share=1.0):
        self.shares += share
        return torch.zeros(shape) if self.heard is None else self.heard[site].clone()

    def ran(self, site, y):
        self.ran_at.append(site)


class Hears(Listener):
    """Keeps what ran at every place."""

    def __init__(self):
        super().__init__()
        self.heard = {}

    def ran(self, site, y):
        self.heard[site] = y


@pytest.mark.parametrize("tap", ["stack", "blocks"])
@pytest.mark.parametrize("name", ["wan_t2v", "ltxv", "cog_1_0"])
def test_payload_is_the_residual(runs, host, name, tap):
    """One call outside of any sampler: predicted zeros skip the stack, truth replays it."""
    case = models.load(name)
    kind, network = models.KINDS[name], case.model.model.diffusion_model
    family = FAMILIES[{"wan": "wan", "ltxv": "ltx", "cog": "cogvideox"}[name.split("_")[0]]]
    x, context = models.noise(1, *kind.shape), models.noise(1, 5, kind.text)
    mask = {"attention_mask": torch.ones(1, 5, dtype=torch.long)} if name == "ltxv" else {}

    def run(call=None):
        time = torch.tensor([0.5 if name == "ltxv" else 500.0])
        with torch.inference_mode():
            if call is None:
                return network(x.clone(), time, context, transformer_options={}, **mask)
            with TAPS[tap].on(network, family.comfy_places, call):
                return network(x.clone(), time, context, transformer_options={}, **mask)

    truth = run()
    seen = Hears()
    assert torch.equal(run(seen), truth)
    blocks = getattr(network, family.comfy_places.blocks)
    assert type(blocks) is torch.nn.ModuleList
    assert len(seen.heard) == (len(blocks) if tap == "blocks" else 1)
    replay = Answers(seen.heard)
    assert (run(replay) - truth).abs().max() < 1e-4
    assert replay.ran_at == [] and replay.shares == pytest.approx(1.0)
    assert (run(Answers()) - truth).abs().max() > 1e-2


@pytest.mark.parametrize("name", models.CACHED)
def test_middle_blocks_are_replayed(runs, host, name):
    """On paired sigmas every partial round has a truth: the full one before it."""
    case, reports = models.load(name), runs.Reports()
    network = case.model.model.diffusion_model
    blocks = getattr(network, "transformer_blocks", None) or network.blocks
    sigmas, plain = runs.truth(name)
    config = replace(runs.REPLAY, policy=MiddleBlocks(2.0, outer=0.5))
    ran = [0] * len(blocks)

    def count(number):
        part = next(m for n, m in blocks[number].named_modules() if n in ("norm2", "ff", "ffn"))
        counted = lambda *_: ran.__setitem__(number, ran[number] + 1)  # noqa: E731
        return part.register_forward_hook(counted)

    handles = [count(number) for number in range(len(blocks))]
    try:
        out = runs.sample(host.attach(case.model, config, reports), case, sigmas=sigmas)
    finally:
        for handle in handles:
            handle.remove()
    report = reports.last
    spared = [b for b in range(len(blocks)) if 0.25 <= (b + 0.5) / len(blocks) < 0.75]
    kept = [b for b in range(len(blocks)) if b not in spared]
    assert (report.evaluations, report.partial, report.reused) == (4, 2, 0)
    assert report.steps[1].cost == pytest.approx(len(kept) / len(blocks))
    assert report.steps[1].part == "outer blocks"
    assert all(ran[b] < max(ran) for b in spared)
    assert runs.error(out, plain) <= 1e-5


@pytest.mark.parametrize("tap", TAPS)
def test_a_module_without_a_stack_runs_untapped(comfyui, tap):
    module = torch.nn.Linear(3, 3)
    call = Listener()
    with TAPS[tap].on(module, FAMILIES["wan"].comfy_places, call):
        module(torch.zeros(1, 3))
    assert call.payload is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["wan_t2v", "ltxv"])
def test_half_precision_weights(runs, host, name, dtype):
    if name == "ltxv" and dtype is torch.float16:
        pytest.skip("LTX-Video runs in bfloat16 or float32")
    shared = models.load(name)
    model = models.build(name, dtype=dtype)
    case = replace(shared, model=model)
    kept = []
    from sencache_core.run import history

    anchor = history.Anchor
    sigmas = runs.paired(model, 4)
    plain = runs.sample(model, case, sigmas=sigmas)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "Anchor", lambda t, y: kept.append(y.dtype) or anchor(t, y))
        output = runs.sample(host.attach(model, runs.REPLAY), case, sigmas=sigmas)
        assert set(kept) == {torch.float32}
        kept.clear()
        tapped = host.attach(model, replace(runs.REPLAY, tap="stack"))
        stack = runs.sample(tapped, case, sigmas=sigmas)
        assert set(kept) == {model.model.manual_cast_dtype or dtype}
    assert runs.error(output, plain) <= 1e-5
    # The residual itself is rounded to the weights' precision.
    assert runs.error(stack, plain) <= 0.1
