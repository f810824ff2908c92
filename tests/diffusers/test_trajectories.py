"""Calls of several samples through one transformer: each belongs to the run that it continues."""

from __future__ import annotations

import torch
from diffusers_runs import host, noise, text
from host_contract import HALF, STEPS, Job


def test_same_noise_after_an_aborted_first_step_forgets_the_old_prompt(wan):
    """The pipeline was stopped outside the model, so nothing told the host."""
    with host.attach(wan.module, HALF, wan.scheduler):
        fresh = wan(Job(prompt=1))
    with host.attach(wan.module, HALF, wan.scheduler), torch.no_grad():
        wan.scheduler.set_timesteps(STEPS)
        t = wan.scheduler.timesteps[0]
        wan._model(noise("wan"), t, text(0), "cond")
        torch.testing.assert_close(wan(Job(prompt=1)), fresh)
