"""Blocks that run now and then, on diffusers' transformers."""

from __future__ import annotations

import pytest
from diffusers_runs import FOUR, Sampler, host, network, rel

from sencache_core import CacheConfig
from sencache_core.policies import DeepCache, DeltaDiT, ProfilingDiT

#: By name: a policy, and the share of four blocks that runs in between.
METHODS = {
    "profilingdit": (ProfilingDiT(3.0), 1 - sum(map(len, ProfilingDiT().kept(4))) / 4),
    "deepcache": (DeepCache(), 0.5),
    "delta_dit": (DeltaDiT(), 0.25),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["wan", "ltx", "cogvideox"])
def test_blocks_are_reused(family, method):
    policy, share = METHODS[method]
    sampler = Sampler(family)
    sampler.module = network(family, **FOUR)
    plain = sampler()
    with host.attach(sampler.module, CacheConfig(policy, budget=None), sampler.scheduler) as cached:
        latent = sampler()
    (report,) = cached.reports
    assert report.partial > 4 and report.reused == 0
    costs = [step.cost for step in report.steps if step.decision == "partial"]
    assert costs == [pytest.approx(share)] * report.partial
    assert 0 < rel(latent, plain) < 0.5
