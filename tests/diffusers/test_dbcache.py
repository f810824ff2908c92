"""cache-dit's own DBCache beside ours: the same decisions, the same clip."""

from __future__ import annotations

import logging

import pytest
from diffusers_runs import FOUR, Unguided, blocks_of, network, ours, rel
from host_contract import STEPS

from sencache_core import Guards
from sencache_core.policies import DBCache

ANY = 10_000


def theirs(sampler, **settings):
    """The steps that ran all blocks, and the clip."""
    cache_dit = pytest.importorskip("cache_dit")
    for name in [name for name in logging.root.manager.loggerDict if "cache_dit" in name]:
        logging.getLogger(name).setLevel(logging.ERROR)
    sampler.module, ran = network.__wrapped__(sampler.family, **FOUR), []
    config = cache_dit.DBCacheConfig(
        num_inference_steps=STEPS, enable_separate_cfg=False, **settings
    )
    middle = blocks_of(sampler.module)[settings["Fn_compute_blocks"]]
    handle = middle.attn1.register_forward_hook(lambda *_: ran.append(sampler.asked))
    cache_dit.enable_cache(sampler.module, cache_config=config)
    try:
        return ran, sampler()
    finally:
        cache_dit.disable_cache(sampler.module)
        handle.remove()


@pytest.mark.parity("dbcache", "cache-dit DBCacheConfig")
@pytest.mark.parametrize(
    ("family", "threshold", "first", "last", "warmup", "row", "most", "change"),
    [
        ("wan", 0.08, 1, 0, 2, 0, 0, 0.0),
        ("wan", 0.05, 2, 1, 1, 2, 0, 0.0),
        ("wan", 0.3, 1, 1, 3, 0, 4, 0.0),
        ("wan", 0.2, 1, 0, 1, 0, 0, 0.25),
        ("wan", 1.0, 2, 0, 1, 3, 0, 0.0),
        ("ltx", 0.05, 1, 1, 2, 0, 0, 0.0),
        ("cogvideox", 0.6, 1, 1, 2, 0, 0, 0.0),
    ],
)
def test_decisions_and_clips_are_those_of_cache_dit(
    family, threshold, first, last, warmup, row, most, change
):
    ran, clip = theirs(
        Unguided(family),
        residual_diff_threshold=threshold,
        Fn_compute_blocks=first,
        Bn_compute_blocks=last,
        max_warmup_steps=warmup,
        max_continuous_cached_steps=row or -1,
        max_cached_steps=most or -1,
        max_accumulated_residual_diff_threshold=change or None,
    )
    policy = DBCache(threshold, first, last, most, change)
    computed, latent = ours(Unguided(family), policy, Guards(warmup, 0, row or ANY))
    assert computed == ran
    assert len(computed) < STEPS
    assert rel(latent, clip) <= 1e-5


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("name", ["slow", "ultra"])
def test_masks_of_steps_are_followed_alike(name, static):
    cache_dit = pytest.importorskip("cache_dit")
    ran, clip = theirs(
        Unguided("wan"),
        residual_diff_threshold=0.05,
        Fn_compute_blocks=1,
        Bn_compute_blocks=0,
        max_warmup_steps=2,
        steps_computation_mask=cache_dit.steps_mask(total_steps=STEPS, mask_policy=name),
        steps_computation_policy="static" if static else "dynamic",
    )
    policy = DBCache(0.05, 1, steps=name, static=static)
    computed, latent = ours(Unguided("wan"), policy, Guards())
    assert computed == ran
    assert len(computed) < STEPS
    assert rel(latent, clip) <= 1e-5
