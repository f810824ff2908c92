"""The diffusers host keeps the contract of all hosts."""

from __future__ import annotations

import pytest
import torch
from diffusers_runs import DiffusersDriver, Sampler, host
from host_contract import HALF, STEPS, HostContract, Job

from sencache_core.tiny import SPECS


class TestWan(HostContract):
    @pytest.fixture
    def driver(self):
        return DiffusersDriver(Sampler("wan"))


class TestWanUnnamed(HostContract):
    @pytest.fixture
    def driver(self):
        return DiffusersDriver(Sampler("wan", names=None))


class TestCogVideoXNamed(HostContract):
    @pytest.fixture
    def driver(self):
        return DiffusersDriver(Sampler("cogvideox"))


class TestLTX(HostContract):
    @pytest.fixture
    def driver(self):
        return DiffusersDriver(Sampler("ltx"))


class TestCogVideoX(HostContract):
    @pytest.fixture
    def driver(self):
        return DiffusersDriver(Sampler("cogvideox", names=None))


@pytest.mark.parametrize("family", sorted(SPECS))
def test_unnamed_guidance_equals_named(family):
    results = []
    for names in (None, ("cond", "uncond")):
        (result,) = DiffusersDriver(Sampler(family, names)).run(HALF, [Job()])
        results.append(result)
    unnamed, named = results
    assert torch.equal(unnamed.latent, named.latent)
    assert unnamed.calls == named.calls
    assert [s.score for s in unnamed.report.steps] == [s.score for s in named.report.steps]


@pytest.mark.parametrize("names", [None, ("cond", "uncond")], ids=["unnamed", "named"])
def test_third_call_with_equal_conditioning_is_a_branch_of_its_own(names):
    """Skipped-layer and perturbed guidance ask twice with equal x, t and text."""
    truth = Sampler("wan", ("cond", "uncond", "perturbed"))
    with host.attach(truth.module, HALF, truth.scheduler):
        expected = truth(extra=True)
    sampler = Sampler("wan", names)
    with host.attach(sampler.module, HALF, sampler.scheduler):
        assert torch.equal(sampler(extra=True), expected)
    assert sampler.calls == STEPS // 2 * 3
