"""Published forecasts beside their formulas, written down a second time."""

from math import sqrt

import numpy as np
import pytest
import torch
from toys import cached_run, noise, schedule

from sencache_core import FAMILIES, CacheConfig, Planned
from sencache_core.forecast.reuse import HiCache, MeanCache, Spectrum, TaylorSeer
from sencache_core.policies.presets import PRESETS
from sencache_core.types import Anchor

#: Uneven in time, so that a step is not a difference of time.
ROUNDS = tuple(0.98 ** (k * (1 + k / 40)) for k in range(50))


def bound(rule):
    return rule.bound(None, ROUNDS)


def weights(rule, known, wanted):
    return bound(rule).weights([ROUNDS[k] for k in known], ROUNDS[wanted])


def test_taylorseer_counts_steps():
    assert weights(TaylorSeer(), [0, 5], 8) == pytest.approx([-3 / 5, 1 + 3 / 5])
    y = [Anchor(ROUNDS[k], torch.full((1, 2), 3.0 - 0.5 * k)) for k in (2, 7)]
    assert torch.allclose(bound(TaylorSeer()).predict(ROUNDS[11], y), torch.tensor(3 - 5.5))


def test_taylorseer_of_order_two_divides_by_the_last_distance_alone():
    """f1 = (y9 - y4) / 5, before it (y4 - y2) / 2; f2 = (f1 - that) / 5; two steps on."""
    f1, before = np.array([0, -1, 1]) / 5, np.array([-1, 1, 0]) / 2
    expected = np.array([0, 0, 1]) + 2 * f1 + 2**2 / 2 * (f1 - before) / 5
    assert weights(TaylorSeer(2), [2, 4, 9], 11) == pytest.approx(expected.tolist())


def test_a_clock_between_and_beyond_the_rounds():
    rule = bound(TaylorSeer())
    between = (ROUNDS[3] + ROUNDS[4]) / 2
    after = 2 * ROUNDS[-1] - ROUNDS[-2]
    assert rule.places(np.array([ROUNDS[7], between, after])).tolist() == pytest.approx(
        [7, 3.5, 50]
    )


@pytest.mark.parity("hicache", "coefficients by hand")
def test_hicache_damps_the_slope():
    """H1(x) = 2 x: order 1 has 2 s^2 of the slope, half of it as published."""
    assert weights(HiCache(), [0, 5], 8) == pytest.approx([-0.3, 1.3])
    assert weights(HiCache(scale=sqrt(0.5)), [0, 5], 8) == pytest.approx([-0.6, 1.6])


def test_hicache_of_order_two():
    """(1/2)^2 H2(k / 2) / 2! = (k^2 - 2) / 8."""
    f1, before = np.array([0, -1, 1]) / 3, np.array([-1, 1, 0]) / 3
    for k in (1, 2, 3):
        expected = np.array([0, 0, 1]) + k / 2 * f1 + (k**2 - 2) / 8 * (f1 - before) / 3
        assert weights(HiCache(order=2), [3, 6, 9], 9 + k) == pytest.approx(expected.tolist())
    # where the size of a step is not known
    assert HiCache(order=2).weights([0.9, 0.8, 0.7], 0.6) == pytest.approx([0, -0.5, 1.5])


def ridge_fit(known, wanted, degree=4, ridge=0.1):
    """Spectrum's forecast weights as its authors have them, one entry at a time."""

    def basis(k):
        x = (k - 25) / 25
        return [np.cos(n * np.arccos(x)) for n in range(degree + 1)]

    seen = np.array([basis(k) for k in known])
    normal = seen.T @ seen + (ridge + 1e-6) * np.eye(degree + 1)
    factor = np.linalg.cholesky(normal)
    columns = [
        np.array(basis(wanted)) @ np.linalg.solve(factor.T, np.linalg.solve(factor, seen.T @ unit))
        for unit in np.eye(len(known))
    ]
    return np.array(columns)


@pytest.mark.parity("spectrum", "the published fit, written down")
def test_spectrum_is_the_published_fit_but_for_what_it_draws_to():
    """Their ridge draws to 0: a constant comes out smaller. What lacks in 1 goes to the newest."""
    known, wanted = [0, 1, 2, 3, 4, 6, 8, 11], 13
    faithful = ridge_fit(known, wanted)
    assert abs(1 - faithful.sum()) > 1e-3
    ours = np.array(weights(Spectrum(blend=1.0), known, wanted))
    assert ours[:-1] == pytest.approx(faithful[:-1], abs=1e-9)
    assert ours[-1] == pytest.approx(faithful[-1] + 1 - faithful.sum(), abs=1e-9)
    line = np.zeros(len(known))
    line[-2:] = -2 / 3, 1 + 2 / 3
    half = np.array(weights(Spectrum(), known, wanted))
    assert half == pytest.approx((ours + line) / 2, abs=1e-9)


def test_spectrum_with_fewer_outputs_than_coefficients_is_a_line():
    assert weights(Spectrum(), [0, 1, 2, 4], 6) == pytest.approx([0, 0, -1, 2])


def euler(rule, mask, velocity):
    """MeanCache as published, on one number: outputs handed out, the latent read for the mean."""
    times = [*ROUNDS, 2 * ROUNDS[-1] - ROUNDS[-2]]
    x, logged, latents = 1.0, [], []
    for k, letter in enumerate(mask):
        latents.append(x)
        if letter == "C":
            v = velocity(times[k])
        else:
            first = k - min(rule.span, k)
            way = times[k] - times[first]
            jump = (logged[first] - (x - latents[first]) / way) / way
            v = logged[-1] - jump * (times[k + 1] - times[k])
        logged.append(v)
        x += v * (times[k + 1] - times[k])
    return logged


@pytest.mark.parity("meancache", "the authors' rule, written down")
@pytest.mark.parametrize("span", [1, 3, 5])
def test_meancache_reads_off_the_outputs_what_its_authors_read_off_the_latent(span):
    rule, mask = MeanCache(span), "CCCCC" + ".CC..C...C" * 3 + "." * 3
    velocity = lambda t: 3 * t**2 - t + 0.2  # noqa: E731
    logged, known = euler(rule, mask, velocity), []
    for k, letter in enumerate(mask):
        if letter == "C":
            known.append(k)
            continue
        every = np.dot(weights(rule, known, k), [velocity(ROUNDS[j]) for j in known])
        assert every == pytest.approx(logged[k], abs=1e-9)
        kept = [Anchor(ROUNDS[j], torch.tensor([velocity(ROUNDS[j])])) for j in known[-span:]]
        # forecasts from before the oldest output that is kept are left out
        assert float(bound(rule).predict(ROUNDS[k], kept)) == pytest.approx(logged[k], rel=0.02)


def test_meancache_by_hand():
    """Even steps of 0.1: u = (a + b) / 2, J = (a - u) / -0.2, and so b + (b - a) / 4."""
    rule = MeanCache().bound(None, [1 - k / 10 for k in range(10)])
    assert rule.weights([0.9, 0.8], 0.7) == pytest.approx([-0.25, 1.25])
    # one step on: a, b and that forecast c have mean (a + b + c) / 3, over 0.3
    c = np.array([-0.25, 1.25])
    mean = (np.array([1, 1]) + c) / 3
    expected = c + (mean - np.array([1, 0])) / 3
    assert rule.weights([0.9, 0.8], 0.6) == pytest.approx(expected.tolist())


RULES = [TaylorSeer(1), TaylorSeer(2), HiCache(1), HiCache(2), Spectrum(), MeanCache()]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_model_that_stands_still_is_forecast_as_it_is(rule):
    y = torch.full((1, 3), 0.7)
    anchors = [Anchor(ROUNDS[k], y) for k in (0, 1, 2, 3, 4, 6, 9)][-rule.history :]
    for k in (10, 12):
        assert torch.allclose(bound(rule).predict(ROUNDS[k], anchors), y, atol=1e-6)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_plans_hold_for_every_rule(rule):
    """The planner takes its weights, and a run spends the budget with it and with hindsight."""
    config = CacheConfig(Planned(), rule=rule, budget=0.5)
    _, report = cached_run(config, schedule(20), x=noise(1, 8, 10, 10))
    assert report.evaluations == 10
    plan = config.plan(FAMILIES["wan"], schedule(20))
    assert 0 < plan.error < 10


def growing(steps, grows, window=2.0, warmup=5):
    """Spectrum's schedule, step by step."""
    mask = ""
    for k in range(steps):
        due = k < warmup or (k - mask.rindex("C")) % int(window) == 0
        if due and k >= warmup:
            window = round(window + grows, 3)
        mask += "C" if due else "."
    return mask


PUBLISHED = {
    "TaylorSeer Wan 2.1": "C...." * 10,
    "HiCache Wan 2.1 slow": "CCC" + "..C" * 15 + "..",
    "HiCache Wan 2.1 fast": "CCC" + ".....C" * 7 + ".....",
    "Spectrum Wan 2.1 slow": growing(50, 0.75),
    "Spectrum Wan 2.1 fast": growing(50, 3.0),
}


def spent(preset):
    """Mask of a run of 50 steps with a preset, as its report has it."""
    config = CacheConfig(preset.policy, preset.rule, preset.guards, budget=None, hindsight=False)
    _, report = cached_run(config, schedule(50))
    return "".join("." if step.decision == "reused" else "C" for step in report.steps)


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_run_the_published_schedules(name):
    assert spent(PRESETS[name]) == PUBLISHED[name]
    assert PRESETS[name].rule.name == name.split()[0].lower()


def test_published_counts():
    """Spectrum: 14 and 10 evaluations; MeanCache: 29, 37 and 41 reuses."""
    assert [growing(50, grows).count("C") for grows in (0.75, 3.0)] == [14, 10]
    found = {name: spent(p) for name, p in PRESETS.items() if "MeanCache" in name}
    assert [mask.count(".") for mask in found.values()] == [29, 37, 41]
    assert all(f" {mask.count('.')} of 50" in name for name, mask in found.items())
