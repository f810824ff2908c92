"""The exact solution and the rows of fewer steps: all of them solve one equation.

The equation's right side is that of Gaussian data, whose exact solution has a formula.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import Regime, find_methods
from benchmarks.case import make_case
from benchmarks.measures import psnr, rms
from benchmarks.models import Model
from benchmarks.solvers import exact, extrapolate, solve
from benchmarks.store import Store

pytest.importorskip("diffusers", reason="the schedulers are those of diffusers")

FAMILIES = ("wan", "cogvideox")  # one of each prediction
SMOOTH = Regime("smooth", steps=20, shift=3.0, guidance=3.0)
MEAN, SPREAD = 2.0, 0.4


class Gaussian(Model):
    """What a network says that knows data of independent entries, N(MEAN, SPREAD^2)."""

    def call(self, x, t, context):
        signal, noise = self.signal_and_noise(float(torch.as_tensor(t).flatten()[0]))
        away = (x - signal * MEAN) / (signal**2 * SPREAD**2 + noise**2)
        clean, dirt = MEAN + signal * SPREAD**2 * away, noise * away
        flow = self.spec.prediction == "flow"
        return dirt - clean if flow else signal * dirt - noise * clean

    def signal_and_noise(self, t):
        if self.spec.prediction == "flow":
            return 1 - t, t
        alphas = self.scheduler(SMOOTH).alphas_cumprod.double()
        angle = np.interp(t, np.arange(len(alphas)), alphas.sqrt().acos().numpy())
        return np.cos(angle), np.sin(angle)


@pytest.fixture(params=FAMILIES)
def case(request, small, tmp_path):
    facts = {name: getattr(small[request.param], name) for name in Model.__dataclass_fields__}
    model = Gaussian(**facts | {"overrides": {}})
    made = make_case(model, SMOOTH, "diffusers", Store(tmp_path, model), 2, 1, 1)
    yield made
    made.host.close()


def truths(case):
    """The exact solutions of the test clips, ``[B, C, F, H, W]``."""
    noise, _, _ = case.host.start(case.tests)
    if case.model.spec.prediction == "flow":
        return MEAN + SPREAD * noise
    # Below the lowest timestep the network is held: there dx/dt = a (x - signal MEAN) - dirt MEAN.
    signal, dirt = case.model.signal_and_noise(0)
    spread2 = signal**2 * SPREAD**2 + dirt**2
    a = signal * dirt * (1 - SPREAD**2) / spread2
    rest = dirt * MEAN / a
    return signal * MEAN + rest + (spread2**0.5 * noise - rest) * np.exp(-a * np.arcsin(dirt))


@torch.no_grad()
def test_errors_fall_with_the_square_of_the_steps_at_least(case):
    runs = [solve(case.host, case.tests, steps) for steps in (40, 80, 160, 320)]
    errors = [rms(run - truths(case)) for run in runs]
    assert all(a / b > 3.5 for a, b in zip(errors, errors[1:])), errors
    better = [rms(extrapolate(*pair) - truths(case)) for pair in zip(runs, runs[1:])]
    assert all(a / b > 4 for a, b in zip(better, better[1:])), better


def test_exact_solutions_are_as_exact_as_they_say(case):
    for good in (40.0, 50.0):
        found = {k: (latent, own) for k, latent, own in exact(case.host, case.tests, good)}
        assert found.keys() == {0, 1}
        for k, truth in enumerate(truths(case)):
            latent, own = found[k]
            assert own >= good
            peak = float(truth.max() - truth.min())
            assert psnr(latent[0], truth, peak) > own


def test_the_exact_solution_is_of_the_equation_not_of_the_schedule(case):
    case.host.regime = replace(case.regime, steps=3, shift=9.0)
    (_, one, _), *_ = exact(case.host, case.tests)
    assert rms(one - truths(case)[:1]) < 1e-2


def test_fewer_steps_converge_to_it_and_better_solvers_faster(case):
    errors = {}
    for method in find_methods(["fewer-steps", "unipc", "dpmpp-2m"]):
        for steps in (7, 10, 40, 160):  # 7 does not divide 1000
            clips = case.clips(method, {"steps": steps}, case.tests)
            latents = torch.cat([clip.latent for clip in clips])
            errors[method.name, steps] = rms(latents - truths(case))
    euler = {steps: errors["fewer-steps", steps] for steps in (7, 10, 40, 160)}
    assert euler[7] < 1.5 * euler[10] and euler[160] < euler[40] / 3, errors
    for name in ("unipc", "dpmpp-2m"):
        for steps, share in ((7, 0.95), (10, 0.9), (40, 0.7), (160, 0.5)):
            assert errors[name, steps] < share * euler[steps], errors
        assert errors[name, 160] < errors[name, 10] / 15, errors


def test_all_steps_of_the_same_sampler_are_the_uncached_run(case):
    (method,) = find_methods(["fewer-steps"])
    clips = case.clips(method, {"steps": SMOOTH.steps}, case.tests)
    for clip, reference in zip(clips, case.references):
        torch.testing.assert_close(clip.latent, reference.latent, rtol=1e-4, atol=1e-4)
