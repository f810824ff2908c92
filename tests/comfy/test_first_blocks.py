"""Methods that decide behind the first blocks, on ComfyUI's own models."""

from __future__ import annotations

from dataclasses import replace

import models
import pytest
from test_lifecycle import traces

from sencache_core import CacheConfig, Guards
from sencache_core.policies import DBCache, DiCache, FBCache

pytestmark = pytest.mark.comfyui

#: By name: at its strictest, and at a setting that reuses only what has not changed.
METHODS = {
    "fbcache": (FBCache(0.0), FBCache(1e-6)),
    "dbcache": (DBCache(0.0, 1, 1), DBCache(1e-6, 1, 1)),
    "dicache": (DiCache(0.0), DiCache(1e-6)),
}
by_method = pytest.mark.parametrize("method", METHODS)


def depth(case):
    network = case.model.model.diffusion_model
    return len(getattr(network, "transformer_blocks", None) or network.blocks)


@by_method
@pytest.mark.parametrize("name", models.CACHED)
def test_what_has_not_changed_is_reused(runs, host, name, method):
    """On paired sigmas every second round shows what the first has shown, and has its output."""
    case, reports = models.load(name), runs.Reports()
    (sigmas, plain), before = runs.truth(name), traces(case.model)
    policy = METHODS[method][1]
    patched = host.attach(case.model, replace(runs.REPLAY, policy=policy), reports)
    out = runs.sample(patched, case, sigmas=sigmas)
    report = reports.last
    assert not any("not found" in said for said in report.texts)
    assert [step.decision == "partial" for step in report.steps] == [False, True] * 2
    always = policy.first + policy.last
    assert report.steps[1].cost == pytest.approx(always / depth(case))
    assert runs.error(out, plain) <= 1e-5
    assert traces(case.model) == before


@by_method
@pytest.mark.parametrize("name", ["wan_t2v", "ltxv", "ltxav", "cog_1_0"])
def test_strictest_is_bit_identical(runs, host, name, method):
    case, reports = models.load(name), runs.Reports()
    plain = runs.sample(case.model, case, steps=6)
    config = CacheConfig(METHODS[method][0], budget=None, min_steps=1)
    out = runs.sample(host.attach(case.model, config, reports), case, steps=6)
    assert reports.last.partial == reports.last.reused == 0
    assert runs.same(out, plain)


@by_method
@pytest.mark.parametrize("tokens", [(5, 5), (5, 8)])
def test_a_budget_counts_the_blocks_that_always_run(runs, host, method, tokens):
    """One batched call or two a round: both halves obey what the first has shown."""
    case, reports = models.load("wan_t2v", tokens=tokens), runs.Reports()
    network, ran = case.model.model.diffusion_model, [0] * depth(case)

    def counting(number):
        return lambda *_: ran.__setitem__(number, ran[number] + 1)

    policy = METHODS[method][1]
    config = CacheConfig(policy, budget=0.85)
    handles = [b.register_forward_hook(counting(k)) for k, b in enumerate(network.blocks)]
    try:
        runs.sample(host.attach(case.model, config, reports), case, steps=12)
    finally:
        for handle in handles:
            handle.remove()
    calls = 1 if tokens == (5, 5) else 2
    share = (policy.first + policy.last) / len(ran)
    full = int((10 - 12 * share) / (1 - share) + 1e-9)
    assert ran[0] == 12 * calls and ran[policy.first] == full * calls
    assert reports.last.evaluations - reports.last.partial == full
    assert reports.last.cost * 12 == pytest.approx(sum(ran) / len(ran) / calls)


@by_method
def test_few_blocks_are_told(runs, host, method):
    """A model that has no block beyond those that always run is computed in full."""
    case, reports = models.load("wan_t2v"), runs.Reports()
    policy = METHODS[method][1]
    network = case.model.model.diffusion_model
    blocks, network.blocks = network.blocks, network.blocks[: policy.first + policy.last]
    try:
        plain = runs.sample(case.model, case, steps=12)
        config = CacheConfig(policy, guards=Guards(1, 0, 99), budget=0.5)
        out = runs.sample(host.attach(case.model, config, reports), case, steps=12)
    finally:
        network.blocks = blocks
    assert any("of this model at every step" in said for said in reports.last.texts)
    assert runs.same(out, plain)
