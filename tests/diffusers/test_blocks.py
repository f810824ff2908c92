"""Profiling of blocks on diffusers' transformers."""

from __future__ import annotations

import pytest
import torch
from diffusers_runs import Sampler, host, network
from host_contract import Job

from sencache_core.policies.profilingdit import ProfilingDiT


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("family", ["wan", "ltx", "cogvideox"])
def test_watching_changes_nothing_and_gives_lists(family, batched):
    sampler, found = Sampler(family), []
    sampler.module = network(family, num_layers=3)
    plain = sampler(Job(batched=batched))
    with host.watch_blocks(sampler.module, found.append, sampler.scheduler):
        assert torch.equal(sampler(Job(batched=batched)), plain)
    assert torch.overrides._get_current_function_mode() is None
    profile = found[0].profile()
    assert profile.changes.shape == (3, 3)
    assert (profile.changes.diagonal() > 0).all()
    assert profile.foreground.shape == (3,)
    assert ((profile.foreground >= 0) & (profile.foreground <= 1)).all()
    for by in ("change", "attention"):
        runs = ProfilingDiT(blocks=profile.listed(by)).kept(3)
        assert sum(map(len, runs)) == 2
