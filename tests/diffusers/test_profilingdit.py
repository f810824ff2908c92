"""ProfilingDiT on diffusers' transformers."""

from __future__ import annotations

import pytest
from diffusers_runs import Sampler, host, network, rel

from sencache_core import CacheConfig
from sencache_core.policies.profilingdit import ProfilingDiT


@pytest.mark.parametrize("family", ["wan", "ltx", "cogvideox"])
def test_background_blocks_are_reused(family):
    sampler = Sampler(family)
    sampler.module = network(family, num_layers=4)
    plain = sampler()
    with host.attach(
        sampler.module, CacheConfig(ProfilingDiT(3.0), budget=None), sampler.scheduler
    ) as cached:
        latent = sampler()
    (report,) = cached.reports
    background = sum(map(len, ProfilingDiT().kept(4)))
    assert report.partial > 4 and report.reused == 0
    costs = [step.cost for step in report.steps if step.decision == "partial"]
    assert costs == [pytest.approx(1 - background / 4)] * report.partial
    assert 0 < rel(latent, plain) < 0.5
