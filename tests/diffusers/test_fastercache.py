"""FasterCache on diffusers' transformers, in calls of their own and in batched pairs."""

from __future__ import annotations

import pytest
import torch
from diffusers_runs import DiffusersDriver, Sampler, first_block, host, network, rel
from host_contract import STEPS, Job

from sencache_core import CacheConfig, Guards
from sencache_core.policies.fastercache import FasterCache

CONFIG = CacheConfig(FasterCache(), guards=Guards(warmup=2, cooldown=0), budget=None)
BOTH, ALONE = "conditional branch, all but self-attention", "conditional branch"


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("family", ["wan", "ltx", "cogvideox"])
def test_attention_and_guidance_at_once(family, batched):
    driver, job = DiffusersDriver(Sampler(family)), Job(batched=batched)
    plain, ran = driver.one(None, job), [0]
    layer = first_block(driver.sampler.module).attn1.to_q
    handle = layer.register_forward_hook(lambda *_: ran.__setitem__(0, ran[0] + 1))
    try:
        cached = driver.one(CONFIG, job)
    finally:
        handle.remove()
    parts = [step.part for step in cached.report.steps]
    assert parts == ["", "", ALONE, BOTH, "", ALONE, BOTH, BOTH, ALONE, "", BOTH, ALONE]
    assert cached.report.partial == STEPS - 4
    full = 1 if batched else 2
    assert ran[0] == 4 * full + 4  # conditional rounds that attend, alone
    costs = {part: step.cost for part, step in zip(parts, cached.report.steps, strict=True)}
    assert costs[""] == 1.0 and costs[ALONE] == 0.5 and costs[BOTH] < 0.5
    assert 0 < rel(cached.latent, plain.latent) < 0.5
    assert not driver.holds_state()


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("family", ["wan", "ltx", "cogvideox"])
def test_strictest_is_bit_identical(family, batched):
    driver, job = DiffusersDriver(Sampler(family)), Job(batched=batched)
    strict = CacheConfig(FasterCache(1.0), budget=None)
    assert torch.equal(driver.one(strict, job).latent, driver.one(None, job).latent)


def test_compiled_blocks_are_left_alone_and_that_is_said():
    sampler = Sampler("wan")
    sampler.module = network("wan", num_layers=3)
    for block in sampler.module.blocks:
        block.compile(backend="eager")
    try:
        with host.attach(sampler.module, CONFIG, sampler.scheduler) as cached:
            sampler(Job())
    finally:
        for block in sampler.module.blocks:
            block._compiled_call_impl = None
    (report,) = cached.reports
    assert {step.cost for step in report.steps} == {0.5, 1.0}  # pairs are rebuilt all the same
