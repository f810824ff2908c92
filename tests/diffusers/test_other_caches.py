"""Two caches on one model are refused, at attach and at the start of a run."""

from __future__ import annotations

import pytest
import torch
from diffusers_runs import Sampler, diffusers, host, network, wan_pipeline
from host_contract import HALF, STEPS, Job


def where(name: str, **options):
    """A cache config of diffusers, or a skip where this version lacks it."""
    if not hasattr(diffusers, name):
        pytest.skip(f"this diffusers lacks {name}")
    return getattr(diffusers, name)(**options)


def pyramid(transformer):
    broadcast = where(
        "PyramidAttentionBroadcastConfig",
        spatial_attention_block_skip_range=2,
        current_timestep_callback=lambda: 500,
    )
    transformer.enable_cache(broadcast)


def faster(transformer):
    transformer.enable_cache(
        where(
            "FasterCacheConfig",
            spatial_attention_block_skip_range=2,
            current_timestep_callback=lambda: 500,
        )
    )


def first_block(transformer):
    transformer.enable_cache(where("FirstBlockCacheConfig", threshold=0.1))


def taylor(transformer):
    transformer.enable_cache(where("TaylorSeerCacheConfig"))


def mag(transformer):
    ratios = torch.ones(STEPS)
    transformer.enable_cache(where("MagCacheConfig", mag_ratios=ratios, num_inference_steps=STEPS))


def hooks_without_a_config(transformer):
    """The function that ``enable_cache`` calls, without its note of it."""
    diffusers.hooks.apply_first_block_cache(
        transformer, diffusers.FirstBlockCacheConfig(threshold=0.1)
    )


def replaced_forward(transformer):
    plain = transformer.forward

    def teacache_forward(*args, **kwargs):
        return plain(*args, **kwargs)

    transformer.forward = teacache_forward


def cache_dit(transformer):
    library = pytest.importorskip("cache_dit")
    pipe = wan_pipeline(transformer=transformer)
    # It leaves marks on a pipeline's class, which other tests share.
    pipe.__class__ = type("WanPipeline", (type(pipe),), {})
    library.enable_cache(pipe)


CACHES = [
    pytest.param(pyramid, "PyramidAttentionBroadcast.*disable_cache", id="pab"),
    pytest.param(faster, "FasterCache.*disable_cache", id="fastercache"),
    pytest.param(first_block, "FirstBlockCache.*disable_cache", id="fbcache"),
    pytest.param(taylor, "TaylorSeerCache.*disable_cache", id="taylorseer"),
    pytest.param(mag, "MagCache.*disable_cache", id="magcache"),
    pytest.param(hooks_without_a_config, "FBC.*remove that hook", id="hooks"),
    pytest.param(replaced_forward, "teacache_forward.*restore", id="forward"),
    pytest.param(cache_dit, r"cache-dit.*cache_dit.disable_cache\(pipe\)", id="cache-dit"),
]


@pytest.fixture
def sampler():
    """With a transformer of its own, since some caches cannot be taken off again."""
    sampler = Sampler("wan")
    sampler.module = network.__wrapped__("wan")
    return sampler


@pytest.mark.parametrize(("enable", "message"), CACHES)
def test_another_cache_is_refused_by_name(sampler, enable, message):
    enable(sampler.module)
    before = sampler.module.forward
    with pytest.raises(ValueError, match=message):
        host.attach(sampler.module, HALF, sampler.scheduler)
    assert sampler.module.forward is before or sampler.module.forward == before


@pytest.mark.parametrize(("enable", "message"), CACHES)
def test_a_cache_that_comes_later_is_refused_at_the_start_of_a_run(sampler, enable, message):
    plain = sampler()
    attachment = host.attach(sampler.module, HALF, sampler.scheduler)
    assert not torch.equal(sampler(), plain)
    enable(sampler.module)
    with pytest.raises(ValueError, match=message):
        sampler(Job(seed=1))
    attachment.detach()


def test_a_class_whose_forward_was_replaced(sampler):
    """As TeaCache's scripts do it."""
    cls = type(sampler.module)

    class Patched(cls):
        def forward(self, *args, **kwargs):
            self.accumulated_rel_l1_distance = 0.0
            return cls.forward(self, *args, **kwargs)

    sampler.module.__class__ = Patched
    with pytest.raises(ValueError, match=r"caches \(.*Patched.forward\)"):
        host.attach(sampler.module, HALF, sampler.scheduler)


def test_plain_wrappers_and_disabled_caches_are_none(sampler):
    first_block(sampler.module)
    sampler.module.disable_cache()
    plain, seen = sampler.module.forward, []

    def noted(*args, **kwargs):
        seen.append(args)
        return plain(*args, **kwargs)

    sampler.module.forward = noted
    with host.attach(sampler.module, HALF, sampler.scheduler) as cached:
        sampler()
    assert cached.reports[0].evaluations == STEPS // 2
    assert len(seen) == STEPS
