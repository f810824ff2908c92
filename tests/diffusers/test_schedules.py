"""Where a run starts, and at which noise levels its scheduler lets it be asked."""

from __future__ import annotations

import pytest
import torch
from diffusers_runs import diffusers, host, noise, scheduler_of, text
from host_contract import HALF, STEPS

from sencache_core.hosts._diffusers import Clock
from sencache_core.model.families import FAMILIES


def test_run_that_starts_in_the_middle(wan):
    """Video-to-video skips the first steps but leaves them on the scheduler's list."""
    wan.scheduler.set_timesteps(2 * STEPS)
    late = wan.scheduler.timesteps[STEPS:]
    with host.attach(wan.module, HALF, wan.scheduler) as cached, torch.no_grad():
        for k, t in enumerate(late):
            wan._model(noise("wan", k), t, text(0), "cond")
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
    assert any("list" in message for message in report.messages)
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
    assert report.evaluations == round(rounds / 2)
    assert (clip - plain).square().mean() < 0.1 * plain.square().mean()


def test_a_first_transformers_last_step_ends_at_the_seconds_first():
    """As the scheduler takes it: not at the boundary between them."""
    scheduler = scheduler_of("wan")
    scheduler.set_timesteps(STEPS)
    times = scheduler.timesteps.tolist()
    high = Clock(FAMILIES["wan"], lambda: scheduler, None, low=800.0).schedule(times[0])
    low = Clock(FAMILIES["wan"], lambda: scheduler, None, high=800.0).schedule(
        max(t for t in times if t < 800)
    )
    assert high.sigmas[-1] == low.sigmas[0]
    assert (*high.sigmas, *low.sigmas[1:]) == pytest.approx(scheduler.sigmas.tolist())
