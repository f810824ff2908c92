"""The exact solution and the rows of fewer steps: all of them solve one equation."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from benchmarks import Regime, find_methods
from benchmarks.case import make_case
from benchmarks.host import DiffusersHost
from benchmarks.measures import rms
from benchmarks.solvers import exact, extrapolate, integrate, solve
from benchmarks.store import Store

pytest.importorskip("diffusers", reason="the models are those of diffusers")

SHOTS = [("a red circle moving left", 0), ("a blue star", 1)]
SMOOTH = Regime("smooth", steps=16, shift=3.0, guidance=2.0)
FAMILIES = ("wan", "cogvideox")  # one of each prediction


def falls(solved):
    """By what factor the error falls each time the steps double; the last is taken for exact."""
    *coarse, last = solved
    errors = [rms(x - last) for x in coarse]
    return [a / b for a, b in zip(errors, errors[1:])]


def test_integration_is_of_second_order_and_extrapolation_of_third():
    def slope(x, t):
        return -x * math.cos(3 * t)

    x, truth = torch.ones(1, dtype=torch.float64), math.exp(math.sin(3.0) / 3)

    def solved(steps):
        return integrate(slope, x, [1 - k / steps for k in range(steps + 1)])

    runs = [solved(steps) for steps in (8, 16, 32, 64)]
    errors = [abs(float(run) - truth) for run in runs]
    assert all(3.5 < a / b < 4.5 for a, b in zip(errors, errors[1:]))
    better = [abs(float(extrapolate(*pair)) - truth) for pair in zip(runs, runs[1:])]
    assert all(a / b > 7 for a, b in zip(better, better[1:]))
    assert float(x) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_error_of_the_exact_solution_falls_with_its_steps(small, family):
    host = DiffusersHost(small[family], SMOOTH)
    try:
        with torch.no_grad():
            runs = [solve(host, SHOTS[:1], steps) for steps in (8, 16, 32, 256)]
    finally:
        host.close()
    assert min(falls(runs)) > 3.5


@pytest.mark.parametrize("family", FAMILIES)
def test_exact_solutions_say_how_exact_they_are(small, family):
    host = DiffusersHost(small[family], SMOOTH)
    rough = DiffusersHost(small[family], replace(SMOOTH, steps=3, shift=9.0))
    try:
        found = {k: (latent, own) for k, latent, own in exact(host, SHOTS, good=45.0)}
        (again,) = exact(rough, SHOTS[1:], good=60.0)
    finally:
        host.close()
        rough.close()
    assert found.keys() == {0, 1}
    assert all(own >= 45 for _, own in found.values())
    # Steps and shift are not the equation's; the better solution confirms what the other says.
    _, latent, own = again
    assert own >= 60
    assert rms(latent - found[1][0]) < 10 ** (-45 / 20) * float(latent.max() - latent.min())


@pytest.mark.parametrize("family", FAMILIES)
def test_solvers_converge_to_the_exact_solution_and_beat_euler(small, family, tmp_path):
    model = small[family]
    case = make_case(model, SMOOTH, "diffusers", Store(tmp_path, model), 1, 1, 1)
    try:
        ((truth, _),) = case.truths
        errors = {}
        for method in find_methods(["fewer-steps", "unipc", "dpmpp-2m"]):
            for steps in (10, 40, 200):
                (clip,) = case.clips(method, {"steps": steps}, case.tests)
                errors[method.name, steps] = rms(clip.latent - truth) / rms(truth)
    finally:
        case.host.close()
    for name in ("unipc", "dpmpp-2m"):
        assert errors[name, 10] < errors["fewer-steps", 10]
        assert errors[name, 40] < errors["fewer-steps", 40] / 2
        assert errors[name, 200] < 2e-3
    assert errors["fewer-steps", 200] < errors["fewer-steps", 40] / 3
