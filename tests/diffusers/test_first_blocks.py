"""Methods that decide behind the first block, on diffusers' transformers."""

from __future__ import annotations

import pytest
from diffusers_runs import FOUR, Sampler, blocks_of, host, network, rel
from host_contract import STEPS, Job

from sencache_core import CacheConfig
from sencache_core.policies import DBCache, DiCache, FBCache

POLICIES = FBCache(), DBCache(first=1), DiCache()


@pytest.mark.parametrize("family", ["wan", "ltx", "cogvideox"])
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
@pytest.mark.parametrize("batched", [False, True])
def test_the_budget_counts_the_first_block(family, batched, policy):
    """Of 12 steps at a half: 6 = full + (12 - full) / 4 gives 4."""
    sampler, job = Sampler(family), Job(batched=batched)
    sampler.module = network(family, **FOUR)
    plain, ran = sampler(job), [0, 0]

    def count(place):
        return lambda *_: ran.__setitem__(place, ran[place] + 1)

    blocks = blocks_of(sampler.module)
    handles = [blocks[k].register_forward_hook(count(k)) for k in (0, 1)]
    try:
        with host.attach(
            sampler.module, CacheConfig(policy, budget=0.5), sampler.scheduler
        ) as cached:
            latent = sampler(job)
    finally:
        for handle in handles:
            handle.remove()
    (report,) = cached.reports
    calls = 1 if batched else 2
    assert ran == [STEPS * calls, 4 * calls]
    assert report.cost * STEPS == pytest.approx(6)
    assert not any("not found" in said or "asked for" in said for said in report.texts)
    assert 0 < rel(latent, plain) < 0.5
