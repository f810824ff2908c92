"""diffusers' own Pyramid Attention Broadcast beside ours: the same layers, the same clip."""

from __future__ import annotations

import pytest
from diffusers_runs import Sampler, first_block, host, network, rel
from host_contract import STEPS, Job

from sencache_core import CacheConfig, Guards
from sencache_core.policies.pab import PAB

hooks = pytest.importorskip("diffusers.hooks")
#: diffusers keeps one output a module: only a batched pair is served as it should be.
JOB = Job(batched=True)


class Told(Sampler):
    """Tells diffusers' hooks the timestep, as its pipelines do."""

    now = 1000.0

    def _model(self, x, t, context, name):
        self.now = float(t)
        return super()._model(x, t, context, name)


def counted(module, run):
    """What ``run`` returns, and how often both attentions of the first block ran."""
    block, ran = first_block(module), {}
    layers = [getattr(block, n) for n in ("attn1", "attn2") if getattr(block, n, None) is not None]
    handles = [
        layer.to_q.register_forward_hook(lambda *_, k=k: ran.__setitem__(k, ran.get(k, 0) + 1))
        for k, layer in enumerate(layers)
    ]
    try:
        return run(), ran
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parity("pab", "diffusers PyramidAttentionBroadcastConfig")
@pytest.mark.parametrize("window", [(100, 800), (50, 970), (-1, 1001)])
@pytest.mark.parametrize("family", ["wan", "ltx", "cogvideox"])
def test_layers_and_clips_are_those_of_diffusers(family, window):
    sampler = Told(family)
    sampler.module = network.__wrapped__(family, num_layers=2)  # diffusers leaves its hooks on it
    config = hooks.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        cross_attention_block_skip_range=6,
        spatial_attention_timestep_skip_range=window,
        cross_attention_timestep_skip_range=window,
        current_timestep_callback=lambda: sampler.now,
    )
    sampler.module.enable_cache(config)
    try:
        theirs, theirs_ran = counted(sampler.module, lambda: sampler(JOB))
    finally:
        sampler.module.disable_cache()
    sampler = Sampler(family)
    sampler.module = network(family, num_layers=2)
    # diffusers takes LTX-Video's cross-attention for spatial self-attention.
    cross = 2 if family == "ltx" else 6
    low, high = max(window[0], 0) / 1000, min(window[1], 1000) / 1000
    guards = Guards(warmup=1, cooldown=0, longest_run=99)
    ours = CacheConfig(PAB(cross_range=cross, low=low, high=high), guards=guards, budget=None)
    with host.attach(sampler.module, ours, sampler.scheduler) as cached:
        clip, ran = counted(sampler.module, lambda: sampler(JOB))
    (report,) = cached.reports
    assert ran == theirs_ran
    assert 0 < report.partial and ran[0] < STEPS
    assert rel(clip, theirs) <= 1e-5
