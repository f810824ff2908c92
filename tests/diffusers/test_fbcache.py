"""diffusers' own First Block Cache beside ours: the same decisions, the same clip."""

from __future__ import annotations

import pytest
from diffusers_runs import FOUR, Sampler, Unguided, blocks_of, host, network, ours, rel
from host_contract import STEPS, Job

from sencache_core import CacheConfig, Guards
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


@pytest.mark.parametrize("family", ["wan", "ltx", "cogvideox"])
@pytest.mark.parametrize("batched", [False, True])
def test_the_budget_counts_the_first_block(family, batched):
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
            sampler.module, CacheConfig(FBCache(), budget=0.5), sampler.scheduler
        ) as cached:
            latent = sampler(job)
    finally:
        for handle in handles:
            handle.remove()
    (report,) = cached.reports
    calls = 1 if batched else 2
    assert ran == [STEPS * calls, 4 * calls]
    assert report.cost * STEPS == pytest.approx(6)
    assert not any("not found" in said or "asked for" in said for said in report.messages)
    assert 0 < rel(latent, plain) < 0.5
