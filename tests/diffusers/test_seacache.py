"""diffusers' own SeaCache beside ours: the same decisions, the same clip."""

from __future__ import annotations

import pytest
from diffusers_runs import Sampler, first_block, forward, host, network, rel
from host_contract import STEPS

from sencache_core import CacheConfig, Guards
from sencache_core.policies import SeaCache

hooks = pytest.importorskip("diffusers.hooks")
pytestmark = pytest.mark.skipif(
    not hasattr(hooks, "SeaCacheConfig"), reason="diffusers has SeaCache from 0.42 on"
)


class Told(Sampler):
    """Tells diffusers' cache where it is, as its pipelines do."""

    def _model(self, x, t, context, name):
        step, time = self.asked // 2, t / 1000
        with self.module.cache_context(
            name, step_index=step, sigma=float(time), num_inference_steps=STEPS
        ):
            output = forward(self.family, self.module, x, time, context)
        self.asked += 1
        return output


@pytest.mark.parity("seacache", "diffusers SeaCacheConfig")
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("threshold", [0.12, 0.4])
def test_decisions_and_clips_are_those_of_diffusers(threshold, order):
    """Residuals are held, or go on along a line over step numbers."""
    sampler = Told("wan")
    sampler.module = network.__wrapped__("wan")  # diffusers leaves its registry on it
    attention, ran = first_block(sampler.module).attn1, []
    handle = attention.register_forward_hook(lambda *_: ran.append(sampler.asked // 2))
    sampler.module.enable_cache(hooks.SeaCacheConfig(threshold, residual_order=order))
    try:
        clip = sampler()
    finally:
        sampler.module.disable_cache()
        handle.remove()
    sampler = Sampler("wan")
    config = CacheConfig(
        SeaCache(threshold, line=bool(order)),
        guards=Guards(1, 1, 2),
        budget=None,
        hindsight=False,
    )
    with host.attach(sampler.module, config, sampler.scheduler) as cached:
        latent = sampler()
    (report,) = cached.reports
    computed = [k for k, step in enumerate(report.steps) if step.decision != "reused"]
    assert computed == sorted(set(ran))
    assert 0 < report.reused
    assert rel(latent, clip) <= 1e-5


@pytest.mark.parametrize("family", ["cogvideox", "ltx"])
def test_other_families_are_served_or_told(family):
    sampler = Sampler(family)
    with host.attach(
        sampler.module, CacheConfig(SeaCache(), budget=0.5), sampler.scheduler
    ) as cached:
        sampler()
    (report,) = cached.reports
    told = any("list of tokens" in said for said in report.texts)
    assert (told, report.reused > 0) == (family == "ltx", family != "ltx")
