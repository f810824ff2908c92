"""diffusers' own First Block Cache beside ours: the same decisions, the same clip."""

from __future__ import annotations

import pytest
from diffusers_runs import FOUR, Sampler, Unguided, blocks_of, network, ours, rel
from host_contract import STEPS

from sencache_core import Guards
from sencache_core.policies import FBCache

hooks = pytest.importorskip("diffusers.hooks")
FREE = Guards(1, 0, 10_000)


def theirs(sampler, threshold):
    """The steps that ran behind the first block, of every branch, and the clip."""
    ran = {"cond": [], "uncond": []}
    sampler.module = network.__wrapped__(sampler.family, **FOUR)  # it is left with a registry
    calls = len(sampler.branches)

    def note(*_):
        ran[sampler.branches[sampler.asked % calls]].append(sampler.asked // calls)

    handle = blocks_of(sampler.module)[1].attn1.register_forward_hook(note)
    sampler.module.enable_cache(hooks.FirstBlockCacheConfig(threshold))
    try:
        return ran, sampler()
    finally:
        sampler.module.disable_cache()
        handle.remove()


@pytest.mark.parity("fbcache", "diffusers FirstBlockCacheConfig")
@pytest.mark.parametrize(
    ("family", "threshold"),
    [("wan", 0.05), ("wan", 0.2), ("ltx", 0.05), ("cogvideox", 0.6), ("cogvideox", 0.9)],
)
def test_decisions_and_clips_are_those_of_diffusers(family, threshold):
    ran, clip = theirs(Unguided(family), threshold)
    computed, latent = ours(Unguided(family), FBCache(threshold), FREE)
    assert computed == ran["cond"]
    assert len(computed) < STEPS
    assert rel(latent, clip) <= 1e-5


def test_one_branch_decides_for_both():
    """In diffusers each branch decides for itself, so that one is computed where the other is not;
    here the conditional one decides."""
    ran, _ = theirs(Sampler("wan"), 0.05)
    assert ran["cond"] != ran["uncond"]
    computed, _ = ours(Sampler("wan"), FBCache(0.05), FREE)
    assert computed == ran["cond"]
