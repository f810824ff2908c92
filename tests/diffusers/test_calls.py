"""What is read from one model call: containers, channels, timesteps, noise levels."""

from __future__ import annotations

import pytest
import torch
from diffusers_runs import Sampler, host, network, noise, scheduler_of, text
from host_contract import HALF, STEPS

from sencache_core import CacheConfig, Interval
from sencache_core.hosts._diffusers import at_timestep, noisy_channels
from sencache_core.hosts._diffusers_schedulers import Clock
from sencache_core.model.families import FAMILIES


@pytest.mark.parametrize("return_dict", [True, False])
def test_reused_output_comes_in_the_models_own_container(wan, return_dict):
    config = CacheConfig(policy=Interval(2.0), budget=None, min_steps=1)
    wan.scheduler.set_timesteps(STEPS)
    kinds = set()
    with host.attach(wan.module, config, wan.scheduler) as cached, torch.no_grad():
        for t in wan.scheduler.timesteps:
            out = wan.module(noise("wan"), t.expand(1), text(0), return_dict=return_dict)
            kinds.add(type(out))
            sample = out.sample if return_dict else out[0]
            assert sample.shape == noise("wan").shape
    assert cached.reports[0].reused > 0
    assert len(kinds) == 1
    assert kinds.pop() is not tuple or not return_dict


def test_image_channels_do_not_count_as_displacement():
    module, scheduler = network("wan", in_channels=36), scheduler_of("wan")
    scheduler.set_timesteps(STEPS)
    still, scores = noise("wan"), []
    with host.attach(module, HALF.with_tolerance(1e9), scheduler) as cached, torch.no_grad():
        for k, t in enumerate(scheduler.timesteps):
            image = torch.randn(1, 20, *still.shape[2:], generator=torch.Generator().manual_seed(k))
            module(torch.cat([still, image], 1), t.expand(1), text(0))
    prior, times = FAMILIES["wan"].prior, [float(t) / 1000 for t in scheduler.timesteps]
    scores = [step.score for step in cached.reports[0].steps]
    assert scores[1] == pytest.approx(prior(times[0])[1] * (times[0] - times[1]), rel=1e-4)


def test_image_channels_of_cogvideox_lie_in_dimension_two():
    module = network("cogvideox", in_channels=32)
    frames = torch.randn(1, 3, 32, 4, 4)
    noisy = noisy_channels(FAMILIES["cogvideox"], module, frames)
    assert torch.equal(noisy, frames[:, :, :16])


def test_timestep_of_each_token(wan):
    """Wan 2.2 5B and LTX image-to-video give clean tokens timestep 0."""
    wan.scheduler.set_timesteps(STEPS)
    module = network("ltx")
    with host.attach(module, HALF, wan.scheduler) as cached, torch.no_grad():
        for t in wan.scheduler.timesteps:
            times = t.expand(1, 32).clone()
            times[:, :16] = 0
            module(noise("ltx").flatten(2).transpose(1, 2), text(0), times, None, 2, 4, 4)
    (report,) = cached.reports
    assert [s.sigma for s in report.steps] == pytest.approx(
        [float(t) / 1000 for t in wan.scheduler.timesteps]
    )
    moved = at_timestep({"timestep": times, "other": 1}, 7.0)
    assert moved["timestep"].unique().tolist() == [0.0, 7.0]
    assert moved["other"] == 1


def test_noise_levels_of_the_v_family():
    sampler = Sampler("cogvideox")
    with host.attach(sampler.module, HALF, sampler.scheduler) as cached:
        sampler()
    steps = cached.reports[0].steps
    alphas = sampler.scheduler.alphas_cumprod[sampler.scheduler.timesteps].double()
    sigmas = ((1 - alphas) / alphas.clamp_min(1e-12)).sqrt()
    assert [s.sigma for s in steps] == pytest.approx(sigmas.tolist(), rel=1e-6)
    clock = Clock(FAMILIES["cogvideox"], lambda: sampler.scheduler, None)
    for timestep in (999, 500, 20, 1):
        assert clock.timestep(clock.sigma(timestep)) == timestep


class Called(Sampler):
    """A Wan sampler that calls its transformer in a way of its own."""

    def __init__(self, call):
        super().__init__("wan")
        self.call = call

    def _model(self, x, t, context, name):
        return self.call(self.module, x, t.expand(1), context)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda m, x, t, c: m(x, t, c, None, False)[0], id="by place"),
        pytest.param(lambda m, x, t, c: m(x, t, c, return_dict=True)[0], id="dict"),
        pytest.param(lambda m, x, t, c: m(x, t.bfloat16(), c).sample, id="bfloat16 timesteps"),
        pytest.param(
            lambda m, x, t, c: (
                m(
                    hidden_states=x, timestep=t, encoder_hidden_states=c, attention_kwargs=None
                ).sample
            ),
            id="by name",
        ),
    ],
)
def test_however_a_transformer_is_called(call):
    """Modular pipelines cast timesteps to bfloat16: 994 is 992 then."""
    sampler = Called(call)
    with host.attach(sampler.module, HALF, sampler.scheduler) as cached:
        sampler()
    (report,) = cached.reports
    assert (report.evaluations, report.completed) == (STEPS // 2, True)
    times = sampler.scheduler.timesteps
    assert [s.sigma for s in report.steps] == pytest.approx([float(t) / 1000 for t in times])
    assert sampler.calls == STEPS


def test_a_call_that_shows_no_latent_gets_the_models_own_error(wan):
    """Unknown arguments, or none: what the model would say is said, and no run begins."""
    x, t = noise("wan"), torch.ones(1)
    with host.attach(wan.module, HALF, wan.scheduler) as cached, torch.no_grad():
        with pytest.raises(TypeError, match="unknown"), pytest.warns(UserWarning, match="latents"):
            wan.module(x, t, text(0), unknown=1)
        with pytest.raises(AttributeError, match="shape"):
            wan.module(None, t, text(0))
    assert not cached.reports


def test_a_call_without_latents_is_passed_on_once_warned():
    """A wrapper below may take what the transformer does not."""
    module, seen = network.__wrapped__("wan"), []
    plain = module.forward

    def packed(batch):
        seen.append(batch)
        return plain(*batch, return_dict=False)

    module.forward = packed
    batch = noise("wan"), torch.ones(1), text(0)
    with torch.no_grad():
        expected = plain(*batch, return_dict=False)[0]
        with host.attach(module, HALF, num_steps=STEPS), pytest.warns(UserWarning) as warned:
            outputs = [module(batch)[0] for _ in range(3)]
    assert all(torch.equal(output, expected) for output in outputs)
    assert len(seen) == 3
    assert len(warned) == 1
