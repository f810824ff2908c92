"""EasyCache on diffusers' transformers: outputs lie on the latent, in pairs or one by one."""

from __future__ import annotations

import pytest
from diffusers_runs import Sampler, host, rel
from host_contract import Job

from sencache_core import CacheConfig
from sencache_core.policies import EasyCache


@pytest.mark.parametrize(
    ("family", "batched"),
    [("wan", False), ("wan", True), ("cogvideox", False), ("cogvideox", True), ("ltx", False)],
)
def test_every_family_is_served(family, batched):
    sampler, job = Sampler(family), Job(batched=batched)
    plain = sampler(job)
    with host.attach(
        sampler.module, CacheConfig(EasyCache(), budget=0.5), sampler.scheduler
    ) as cached:
        latent = sampler(job)
    (report,) = cached.reports
    assert report.evaluations == 6
    assert not any("which part of the latent" in said for said in report.texts)
    assert 0 < rel(latent, plain) < 1
