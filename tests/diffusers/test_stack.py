"""The stack tap in diffusers: the residual of the block stack is kept, head and embeddings run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers_runs import (
    TEXT,
    DiffusersDriver,
    Sampler,
    diffusers,
    first_block,
    host,
    network,
    noise,
    rel,
    text,
)
from host_contract import HALF, HostContract

from sencache_core import CacheConfig, Guards, Interval
from sencache_core.forecast.reuse import Hold
from sencache_core.policies import MiddleBlocks
from sencache_core.types import STACK

STACKED = replace(HALF, tap="stack")


class StackDriver(DiffusersDriver):
    """Runs every configuration of the contract at the stack tap."""

    def run(self, config, jobs):
        return super().run(config and replace(config, tap="stack"), jobs)


class TestWanStack(HostContract):
    @pytest.fixture
    def driver(self):
        return StackDriver(Sampler("wan"))


class TestCogVideoXStack(HostContract):
    @pytest.fixture
    def driver(self):
        return StackDriver(Sampler("cogvideox"))


@pytest.mark.parametrize("family", ["wan", "ltx", "cogvideox"])
def test_what_is_kept_is_the_residual_of_the_stack(family):
    """Where time embeddings and heads change little, so do outputs that are put together again."""
    sampler, config = Sampler(family), CacheConfig(policy=Interval(2.0), budget=None, tap="stack")
    sampler.scheduler.set_timesteps(200)
    times, x, ran = sampler.scheduler.timesteps[60:100], noise(family), []
    with torch.no_grad():
        plain = [sampler._model(x, t, text(0), "cond") for t in times]
        hook = first_block(sampler.module).register_forward_pre_hook(lambda *_: ran.append(1))
        with host.attach(sampler.module, config, sampler.scheduler) as cached:
            outputs = [sampler._model(x, t, text(0), "cond") for t in times]
        hook.remove()
    (report,) = cached.reports
    assert (report.tap, len(ran)) == (STACK.tap, report.evaluations)
    assert report.reused > 5
    assert max(map(rel, outputs, plain)) < 0.02


@pytest.fixture(scope="module")
def ltx2():
    """A small LTX-2 transformer and the arguments of a call at ``t``."""
    if not hasattr(diffusers, "LTX2VideoTransformer3DModel"):
        pytest.skip("this diffusers lacks LTX-2")
    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "attention_head_dim": 32}
    audio = {f"audio_{name}": size for name, size in heads.items()}
    module = diffusers.LTX2VideoTransformer3DModel(
        **heads,
        **audio,
        in_channels=8,
        out_channels=8,
        audio_in_channels=8,
        audio_out_channels=8,
        cross_attention_dim=64,
        audio_cross_attention_dim=64,
        caption_channels=TEXT,
        num_layers=2,
    )
    draw = torch.Generator().manual_seed(0)
    video, sound = (torch.randn(1, n, 8, generator=draw) for n in (32, 12))

    def arguments(t):
        return {
            "hidden_states": video,
            "audio_hidden_states": sound,
            "encoder_hidden_states": text(0),
            "audio_encoder_hidden_states": text(1),
            "timestep": t.expand(1),
            "num_frames": 2,
            "height": 4,
            "width": 4,
            "audio_num_frames": 12,
            "return_dict": False,
        }

    return module.eval().requires_grad_(False), arguments


@pytest.mark.parametrize("tap", ["output", "stack"])
def test_both_streams_of_ltx2_are_spared_together(ltx2, tap):
    """Where time embeddings and heads change little, so do outputs that are put together again."""
    module, arguments = ltx2
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(1000)
    times = scheduler.timesteps[500:520]
    config = CacheConfig(Interval(2.0), Hold(), Guards(start=0.0), budget=None, tap=tap)
    with torch.no_grad():
        plain = [module(**arguments(t)) for t in times]
        with host.attach(module, config, scheduler) as cached:
            outputs = [module(**arguments(t)) for t in times]
    assert cached.reports[0].reused > 5
    for got, truth in zip(outputs, plain, strict=True):
        for stream, expected in zip(got, truth, strict=True):
            assert rel(stream, expected) < 0.1


def test_a_policy_of_single_blocks_works_here_too():
    """The blocks tap and its policy are the core's; no host knows of them."""
    sampler = Sampler("wan")
    sampler.module = network("wan", num_layers=4)
    config = CacheConfig(policy=MiddleBlocks(), budget=None)
    plain = sampler()
    with host.attach(sampler.module, config, sampler.scheduler) as cached:
        latent = sampler()
    assert cached.reports[0].tap == "blocks"
    assert 0 < cached.reports[0].partial
    assert 0 < rel(latent, plain) < 0.5
