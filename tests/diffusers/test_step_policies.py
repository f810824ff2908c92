"""Policies of whole steps on diffusers' transformers: budgets are met, the strictest is exact."""

from __future__ import annotations

import pytest
import torch
from diffusers_runs import DiffusersDriver, Sampler, rel
from host_contract import STEPS, Job

from sencache_core import POLICIES, CacheConfig

STRICTEST = {"tafc": {"threshold": 0.0}, "ra_cfgcache": {"threshold": 0.0}, "bag": {"share": 1.0}}


@pytest.mark.parametrize("place", ["stack", "output"])
@pytest.mark.parametrize("family", ["wan", "ltx", "cogvideox"])
@pytest.mark.parametrize("name", STRICTEST)
def test_half_is_half(name, family, place):
    driver, job = DiffusersDriver(Sampler(family)), Job()
    plain = driver.one(None, job)
    cached = driver.one(CacheConfig(POLICIES[name](place=place), budget=0.5), job)
    assert (cached.report.evaluations, cached.report.tap) == (STEPS // 2, place)
    assert 0 < rel(cached.latent, plain.latent) < 1
    assert not driver.holds_state()


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("name", STRICTEST)
def test_strictest_is_bit_identical(name, batched):
    driver, job = DiffusersDriver(Sampler("wan")), Job(batched=batched)
    strict = CacheConfig(POLICIES[name](**STRICTEST[name]), budget=None)
    assert torch.equal(driver.one(strict, job).latent, driver.one(None, job).latent)
