"""diffusers' own MagCache beside ours: the same decisions, the same clip."""

from __future__ import annotations

import pytest
import torch
from diffusers_runs import Sampler, first_block, host, network, rel
from host_contract import STEPS

from sencache_core import CacheConfig, Guards
from sencache_core.policies.magcache import MagCache, nearest, tables

hooks = pytest.importorskip("diffusers.hooks")
NAME = "Wan 2.1 T2V 1.3B"


@pytest.mark.parity("magcache", "diffusers MagCacheConfig")
@pytest.mark.parametrize(("threshold", "longest"), [(0.03, 3), (0.3, 2)])
def test_decisions_and_clips_are_those_of_diffusers(threshold, longest):
    sampler = Sampler("wan")
    sampler.module = network.__wrapped__("wan")  # diffusers leaves its registry on it
    attention, ran = first_block(sampler.module).attn1, []
    ratios = torch.tensor(nearest(tables()[NAME].cond, STEPS))
    handle = attention.register_forward_hook(lambda *_: ran.append(sampler.asked // 2))
    sampler.module.enable_cache(
        hooks.MagCacheConfig(threshold, longest, 0.2, STEPS, mag_ratios=ratios)
    )
    try:
        clip = sampler()
    finally:
        sampler.module.disable_cache()
        handle.remove()
    config = CacheConfig(
        MagCache(threshold, NAME, 0.2), guards=Guards(1, 0, longest), budget=None, hindsight=False
    )
    with host.attach(sampler.module, config, sampler.scheduler) as cached:
        latent = sampler()
    (report,) = cached.reports
    computed = [k for k, step in enumerate(report.steps) if step.decision != "reused"]
    assert computed == sorted(set(ran))
    assert 0 < report.reused
    assert rel(latent, clip) <= 1e-5
