"""Where a run starts, and at which noise levels its scheduler lets it be asked."""

from __future__ import annotations

import pytest
import torch
from diffusers_runs import Sampler, diffusers, host, noise, rel, scheduler_of, text
from host_contract import HALF, STEPS

from sencache_core import CacheConfig, Interval
from sencache_core.forecast.reuse import Fitted, Hold
from sencache_core.hosts._diffusers_schedulers import (
    Clock,
    draws_noise,
    prediction_of,
    sampler_of,
)
from sencache_core.model.families import FAMILIES
from sencache_core.policies import Planned
from sencache_core.sampler.schedule import Schedule
from sencache_core.sampler.solver import transitions
from sencache_core.tiny import COG_SCHEDULER


def test_run_that_starts_in_the_middle(wan):
    """Video-to-video skips the first steps but leaves them on the scheduler's list."""
    wan.scheduler.set_timesteps(2 * STEPS)
    late = wan.scheduler.timesteps[STEPS:]
    x = noise("wan")
    with host.attach(wan.module, HALF, wan.scheduler) as cached, torch.no_grad():
        wan.scheduler.set_begin_index(STEPS)
        for t in late:
            x = wan.scheduler.step(wan._model(x, t, text(0), "cond"), t, x, return_dict=False)[0]
    (report,) = cached.reports
    assert report.num_steps == STEPS
    assert report.evaluations == STEPS // 2
    assert report.completed


def test_timestep_that_is_not_on_the_list_means_full_compute(wan):
    plain = wan()
    stale = scheduler_of("wan")
    stale.set_timesteps(7)
    wan.scheduler.timesteps = None
    with host.attach(wan.module, HALF, stale) as cached, torch.no_grad():
        wan.scheduler.set_timesteps(STEPS)
        for t in wan.scheduler.timesteps[3:]:
            wan._model(noise("wan"), t, text(0), "cond")
    (report,) = cached.reports
    assert report.reused == 0
    assert any("list" in message for message in report.texts)
    assert torch.equal(wan(), plain)


def test_second_order_scheduler(wan):
    """Heun lists every inner timestep twice; both visits are rounds of their own."""
    wan.scheduler = diffusers.FlowMatchHeunDiscreteScheduler(shift=5.0)
    plain = wan()
    rounds = wan.calls // 2
    with host.attach(wan.module, HALF, wan.scheduler) as cached:
        clip = wan()
    (report,) = cached.reports
    assert len(report.steps) == rounds == 2 * STEPS - 1
    assert report.evaluations == (rounds + 1) // 2
    assert (clip - plain).square().mean() < 0.1 * plain.square().mean()


def test_a_first_transformers_last_step_ends_at_the_seconds_first():
    """As the scheduler takes it: not at the boundary between them."""
    scheduler = scheduler_of("wan")
    scheduler.set_timesteps(STEPS)
    times = scheduler.timesteps.tolist()
    _, high = Clock(FAMILIES["wan"], lambda: scheduler, None, low=800.0).ahead(times[0])
    below = max(t for t in times if t < 800)
    _, low = Clock(FAMILIES["wan"], lambda: scheduler, None, high=800.0).ahead(below)
    assert high.sigmas[-1] == low.sigmas[0]
    assert (*high.sigmas, *low.sigmas[1:]) == pytest.approx(scheduler.sigmas.tolist())


@pytest.mark.parametrize(
    ("name", "options", "prediction"),
    [
        ("FlowMatchEulerDiscreteScheduler", {}, "flow"),
        ("FlowMatchHeunDiscreteScheduler", {}, "flow"),
        ("LTXEulerAncestralRFScheduler", {}, "flow"),
        (
            "UniPCMultistepScheduler",
            {"prediction_type": "flow_prediction", "use_flow_sigmas": True},
            "flow",
        ),
        ("UniPCMultistepScheduler", {}, "epsilon"),
        ("CogVideoXDDIMScheduler", {"prediction_type": "v_prediction"}, "v"),
        ("CogVideoXDPMScheduler", {"prediction_type": "sample"}, "sample"),
        ("DDIMScheduler", {"prediction_type": "epsilon"}, "epsilon"),
        ("IPNDMScheduler", {}, "unknown"),
    ],
)
def test_the_prediction_is_what_the_scheduler_takes_it_for(name, options, prediction):
    if not hasattr(diffusers, name):
        pytest.skip(f"this diffusers lacks {name}")
    scheduler = getattr(diffusers, name)(**options)
    assert prediction_of(scheduler) == prediction
    for row in FAMILIES.values():
        clock = Clock(row, lambda: scheduler, None)
        assert (clock.family.name, clock.family.prediction) == (row.name, prediction)
        assert (clock.family == row) == (row.prediction == prediction)


@pytest.mark.parametrize(
    ("name", "options", "stochastic"),
    [
        ("FlowMatchEulerDiscreteScheduler", {}, False),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, True),
        ("FlowMatchLCMScheduler", {}, True),
        ("LTXEulerAncestralRFScheduler", {}, True),
        ("DPMSolverMultistepScheduler", {}, False),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, True),
        ("CogVideoXDPMScheduler", {}, True),
        ("CogVideoXDDIMScheduler", {}, False),
    ],
)
def test_fresh_noise_is_known_by_the_scheduler(name, options, stochastic):
    if not hasattr(diffusers, name):
        pytest.skip(f"this diffusers lacks {name}")
    scheduler = getattr(diffusers, name)(**options)
    assert draws_noise(scheduler) == stochastic
    # Forecasts are taken back through one linear step only, and never through noise.
    steps = transitions(FAMILIES["wan"], Schedule((1.0, 0.5, 0.0), sampler_of(scheduler)))
    assert steps is None or not stochastic


def test_a_list_that_rises_is_one_run(wan):
    """As inversion asks: from less noise to more."""
    wan.scheduler.set_timesteps(STEPS)
    wan.scheduler.timesteps = wan.scheduler.timesteps.flip(0)
    x = noise("wan")
    with host.attach(wan.module, HALF, wan.scheduler) as cached, torch.no_grad():
        after = [*wan.scheduler.timesteps[1:], 1000.0]
        for t, more in zip(wan.scheduler.timesteps, after, strict=True):
            x = x + (more - t) / 1000 * wan._model(x, t, text(0), "cond")
    (report,) = cached.reports
    assert (report.reused, len(report.steps)) == (0, STEPS)
    assert any("fall" in message for message in report.texts)


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_a_scheduler_that_takes_outputs_for_something_else_gets_no_foreign_figures(prediction):
    """CogVideoX is trained on v; a scheduler that was swapped may be fed with another output."""
    sampler = Sampler("cogvideox")
    options = {**COG_SCHEDULER, "prediction_type": prediction}
    options |= {"rescale_betas_zero_snr": False}  # noise alone would be divided by zero
    sampler.scheduler = diffusers.CogVideoXDDIMScheduler(**options)
    plain = sampler()
    errors = {}
    for policy in (Planned(), Interval(2.0)):
        budget = 0.5 if policy.planned else None
        config = CacheConfig(policy=policy, rule=Hold(), budget=budget)
        with host.attach(sampler.module, config, sampler.scheduler) as cached:
            errors[policy.name] = rel(sampler(), plain)
        (report,) = cached.reports
        assert report.completed and report.reused
        assert any(f"predicts {prediction}, not v" in message for message in report.texts)
    assert errors["planned"] < 2 * errors["interval"] + 0.01


@pytest.mark.parametrize(
    ("family", "name", "options"),
    [
        ("wan", "FlowMatchHeunDiscreteScheduler", {"shift": 5.0}),
        ("cogvideox", "KDPM2DiscreteScheduler", {"prediction_type": "v_prediction"}),
        ("cogvideox", "HeunDiscreteScheduler", {"prediction_type": "v_prediction"}),
    ],
)
def test_lists_that_repeat_timesteps_end_with_a_computed_step(family, name, options):
    """Second-order schedulers list their inner evaluations, some of them at the time of a step."""
    sampler = Sampler(family)
    sampler.scheduler = getattr(diffusers, name)(**options)
    sampler.scheduler.set_timesteps(STEPS)
    scale = sampler.scheduler
    model = sampler._model
    if hasattr(scale, "scale_model_input"):
        sampler._model = lambda x, t, *rest: model(scale.scale_model_input(x, t), t, *rest)
    plain = sampler()
    errors = {}
    for rule in (Hold(), Fitted()):
        config = CacheConfig(rule=rule, budget=0.5)
        with host.attach(sampler.module, config, sampler.scheduler) as cached:
            errors[rule.name] = rel(sampler(), plain)
        (report,) = cached.reports
        assert report.completed
        assert len(report.steps) == len(sampler.scheduler.timesteps)
        assert report.steps[-1].decision != "reused"
    assert errors["fitted"] < 2 * errors["hold"] + 0.01
