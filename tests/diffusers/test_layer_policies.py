"""Policies of layers on diffusers' transformers, in calls of their own and in batched pairs."""

from __future__ import annotations

import pytest
import torch
from diffusers_runs import DiffusersDriver, Sampler, first_block, host, rel
from host_contract import STEPS, Job

from sencache_core import POLICIES, CacheConfig, Guards, ProfileHeader
from sencache_core.measure.profile import combine
from sencache_core.policies.layered import LayerSchedule

LAYERED = {name: cls for name, cls in POLICIES.items() if issubclass(cls, LayerSchedule)}
#: The settings of a policy at which any of these budgets can be met.
ROOMY = {"pab": {"low": 0.0, "high": 1.0, "mlp_range": 6}}
STRICTEST = {"threshold": 0.0, "interval": 1.0, "reach": 0.0}
OPEN = Guards(warmup=1, cooldown=0, longest_run=99)


def profile(sampler: Sampler):
    with host.record(sampler.module, sampler.scheduler, layers=True) as measured:
        sampler()
        measured.close()
    return combine(measured.recordings, ProfileHeader(sampler.family))


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("family", ["wan", "ltx", "cogvideox"])
@pytest.mark.parametrize("name", LAYERED)
def test_a_budget_is_met_and_nothing_is_left_behind(name, family, batched):
    """Half, three quarters, all of it: from below, but for what one round spares."""
    driver, job = DiffusersDriver(Sampler(family)), Job(batched=batched)
    plain, curves = driver.one(None, job), profile(driver.sampler)
    errors, policy = [], LAYERED[name](**ROOMY.get(name, {}))
    for budget in (0.6, 0.8, 1.0):
        config = CacheConfig(policy, guards=OPEN, budget=budget, profile=curves)
        cached = driver.one(config, job)
        asked = int(budget * STEPS + 0.5)
        assert asked - 1 < cached.report.cost * STEPS <= asked + 1e-6
        errors.append(rel(cached.latent, plain.latent))
    assert 0 == errors[2] < errors[0] < 0.5
    assert cached.report.reused == 0
    assert not driver.holds_state()


@pytest.mark.parametrize("name", LAYERED)
def test_strictest_is_bit_identical(name):
    driver = DiffusersDriver(Sampler("wan"))
    knob = LAYERED[name].knob
    policy = LAYERED[name](**{knob: STRICTEST[knob]})
    config = CacheConfig(policy, budget=None, profile=profile(driver.sampler))
    assert torch.equal(driver.one(config, Job()).latent, driver.one(None, Job()).latent)


def test_layers_that_are_reused_do_not_run():
    driver, ran = DiffusersDriver(Sampler("wan")), {}
    block = first_block(driver.sampler.module)
    handles = [
        block.get_submodule(layer).register_forward_hook(
            lambda *_, layer=layer: ran.__setitem__(layer, ran.get(layer, 0) + 1)
        )
        for layer in ("attn1.to_q", "attn2.to_q", "ffn.net.0.proj")
    ]
    policy = LAYERED["goc"](interval=3.0, turns="nowhere")
    try:
        cached = driver.one(CacheConfig(policy, guards=OPEN, budget=None), Job())
    finally:
        for handle in handles:
            handle.remove()
    full = sum(step.decision != "partial" for step in cached.report.steps)
    assert full == STEPS // 3
    assert set(ran.values()) == {2 * full}
