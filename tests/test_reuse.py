from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from toys import noise

from sencache_core import (
    FAMILIES,
    REUSE_RULES,
    Branch,
    CacheConfig,
    Fitted,
    Linear,
    Off,
    Planned,
    Quadratic,
    Schedule,
    flow_sigmas,
)
from sencache_core.forecast.reuse import HiCache, MeanCache, Spectrum, TaylorSeer
from sencache_core.forecast.reuse.polynomial import lagrange_weights
from sencache_core.measure.prior import prior_moments
from sencache_core.types import Anchor

RULES = [cls() for cls in REUSE_RULES.values()]
by_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)

#: Times of the evaluation rounds that a rule is bound to.
ROUNDS = [0.97, 0.9, 0.8, 0.79, 0.6, 0.5, 0.3, 0.05]
#: Falling times at least 0.01 apart, and a time below them.
falling_times = st.lists(st.integers(2, 100), min_size=4, max_size=4, unique=True).map(
    lambda ticks: [tick / 100 for tick in sorted(ticks, reverse=True)]
)


def polynomial(coefficients, t):
    return sum(c * t**power for power, c in enumerate(coefficients))


@by_rule
@given(falling_times, st.integers(0, 2**31))
def test_exact_on_polynomials_of_its_order(rule, times, seed):
    """Holds at any spacing, per entry, for as many anchors as the rule reads."""
    coefficients = noise(rule.exact + 1, 2, 3, seed=seed).double()
    *known, t = times[-rule.history - 1 :]
    assume(sum(map(abs, lagrange_weights(t, known))) <= rule.most_weight)
    anchors = [Anchor(s, polynomial(coefficients, s).float()) for s in known]
    expected = polynomial(coefficients, t)
    # float32 anchors are rounded, and extrapolation magnifies that by the sum of the weights
    slack = 1e-6 * sum(map(abs, lagrange_weights(t, known))) * 10
    assert torch.allclose(rule.predict(t, anchors).double(), expected, atol=slack, rtol=1e-5)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=4, unique=True), st.floats(-1, 2))
def test_weights_sum_to_one(ticks, t):
    weights = lagrange_weights(t, [tick / 50 for tick in ticks])
    assert sum(weights) == pytest.approx(1, abs=1e-9 * max(1, *map(abs, weights)))


@pytest.mark.parametrize(
    ("times", "alike"),
    [
        ([0.5, 0.5], [0.5]),
        ([0.9, 0.5, 0.5], [0.9, 0.5]),
        ([0.9, 0.5, 0.9], [0.5, 0.9]),
        ([0.5, 0.7, 0.5], [0.7, 0.5]),  # as looking ahead and coming back leaves it
        ([0.4, 0.4, 0.4], [0.4]),
        ([0.5 + 1e-9, 0.5], [0.5]),
    ],
)
def test_of_outputs_at_one_time_the_newest_counts(times, alike):
    known = [max(k for k, t in enumerate(times) if abs(t - own) < 1e-6) for own in alike]
    for t in (0.1, 0.45, 0.6):
        weights = lagrange_weights(t, times)
        assert [weights[k] for k in known] == pytest.approx(lagrange_weights(t, alike), rel=1e-6)
        assert weights.sum() == pytest.approx(1)
        assert np.count_nonzero(weights) <= len(alike)


@by_rule
def test_no_order_of_times_is_too_odd(rule):
    """Lists that rise, samplers that come back: every forecast is a finite one."""
    for times in product((0.2, 0.5, 0.5 + 1e-8, 0.8), repeat=min(rule.history, 4)):
        anchors = [Anchor(t, noise(1, 4, seed=k)) for k, t in enumerate(times)]
        for t in (0.1, 0.5, 0.6, 0.9):
            assert rule.predict(t, anchors).isfinite().all()
            weights = rule.weights(times, t)
            assert sum(weights) == pytest.approx(1)
            assert sum(map(abs, weights)) <= 2 * rule.most_weight


BOUND = [
    Linear(),
    Quadratic(),
    Fitted(),
    *(Fitted().bound(prior_moments(f)) for f in ("wan", "ltx")),
    *(REUSE_RULES[name]() for name in ("taylorseer", "hicache", "spectrum", "meancache")),
    TaylorSeer(order=2),
    HiCache(order=2).bound(None, ROUNDS),
    MeanCache().bound(None, ROUNDS),
    Spectrum(history=3, degree=1, blend=1.0).bound(None, ROUNDS),
]


@pytest.mark.parametrize("rule", BOUND)
@given(
    times=st.lists(st.floats(0.2, 1), min_size=2, max_size=3),
    step=st.sampled_from([1e-7, 1e-4, 1e-2, 0.1]),
    t=st.floats(0, 0.2),
)
def test_no_forecast_magnifies_without_bound(rule, times, step, t):
    """Two outputs near each other and one that is far: held instead of extrapolated."""
    times = [*times[:-1], times[-1], times[-1] - step][-rule.history :]
    weights = rule.weights(times, t)
    assert sum(weights) == pytest.approx(1)
    most = rule.most_weight if t < min(times) else 2 * rule.most_weight  # among them: between
    assert sum(map(abs, weights)) <= most * (1 + 1e-9)
    assert rule.most_weight <= 20


def test_beyond_the_bound_the_oldest_output_is_left_out_until_the_newest_is_held():
    assert Linear().weights([0.9, 0.8], 0.58) == pytest.approx([-2.2, 3.2])
    assert Linear().weights([0.9, 0.8], 0.57) == Fitted().weights([0.9, 0.8], 0.57) == [0.0, 1.0]
    assert Quadratic().weights([0.9, 0.8, 0.7], 0.6) == pytest.approx([0.0, -1.0, 2.0])
    assert Quadratic().weights([0.9, 0.899, 0.898], 0.5) == [0.0, 0.0, 1.0]
    between = Quadratic().weights([0.9, 0.899, 0.898, 0.5], 0.699)  # hindsight interpolates
    assert between == pytest.approx([0.0, 0.0, 0.5, 0.5])
    even = Quadratic().weights([0.9, 0.8, 0.7, 0.3], 0.5)  # 7.4 in all: not too much for it
    assert even == pytest.approx(lagrange_weights(0.5, [0.9, 0.8, 0.7, 0.3]))
    held = Anchor(0.899, noise(1, 4, seed=1))
    assert torch.equal(Linear().predict(0.5, [Anchor(0.9, noise(1, 4)), held]), held.y)


@by_rule
def test_many_forecasts_at_once_are_those_one_by_one(rule):
    rule = rule.bound(prior_moments("wan"), ROUNDS)
    times = [0.97, 0.9, 0.8, 0.79, 0.6, 0.6, 0.3, 0.05]
    known = np.array([[0, 1, 2], [1, 1, 2], [3, 4, 5], [2, 4, 6]])[:, -rule.history :]
    wanted = np.array([[3, 4], [6, 7], [6, 7], [5, 7]])
    together = rule.among(times)(known, wanted)
    for row, places, targets in zip(together, known, wanted, strict=True):
        for weights, k in zip(row, targets, strict=True):
            alone = rule.weights([times[i] for i in places], times[k])
            assert weights.tolist() == pytest.approx(alone, abs=1e-9)


@by_rule
def test_result_is_new_and_anchors_stay(rule):
    anchors = [Anchor(1 - k / 10, noise(1, 2, 3, seed=k)) for k in range(rule.history)]
    before = [a.y.clone() for a in anchors]
    out = rule.predict(0.3, anchors)
    out.add_(100)
    assert out.shape == anchors[0].y.shape
    assert all(torch.equal(a.y, b) for a, b in zip(anchors, before, strict=True))


@by_rule
def test_fewer_anchors_fall_back(rule):
    """One anchor holds, two make a line or a damped one, whatever the rule would like."""
    first, second = Anchor(1.0, noise(1, 4)), Anchor(0.8, noise(1, 4, seed=1))
    assert torch.equal(rule.predict(0.5, [first]), first.y)
    if rule.history >= 2:
        line = second.y + (second.y - first.y) * (0.5 - 0.8) / (0.8 - 1.0)
        out = rule.predict(0.5, [first, second])
        share = (out - second.y) / (line - second.y)
        assert share.max() - share.min() < 1e-5
        assert 0 < share.mean() <= 1 + 1e-6
        assert rule.exact == 0 or torch.allclose(out, line, atol=1e-6)


@by_rule
def test_only_the_latest_anchors_count(rule):
    latest = [Anchor(0.5 - k / 10, noise(1, 4, seed=k)) for k in range(rule.history)]
    older = Anchor(0.9, torch.full((1, 4), 1e6))
    assert torch.equal(rule.predict(0.1, [older, *latest]), rule.predict(0.1, latest))


@by_rule
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_summed_in_float32(rule, dtype):
    """Equal to the float32 forecast of the rounded anchors, rounded once."""
    anchors = [
        Anchor(1 - k / 7, noise(1, 64, seed=k).mul(100).to(dtype)) for k in range(rule.history)
    ]
    precise = [Anchor(a.t, a.y.float()) for a in anchors]
    out = rule.predict(0.2, anchors)
    assert out.dtype == dtype
    assert torch.equal(out, rule.predict(0.2, precise).to(dtype))


@by_rule
def test_rules_are_values(rule):
    assert rule == type(rule)()
    with pytest.raises(AttributeError):
        rule.history = 7


@pytest.mark.parametrize("policy", [Planned(), Off()], ids=lambda policy: policy.name)
@pytest.mark.parametrize(
    "sched",
    [
        Schedule(flow_sigmas(12), "heunpp2"),
        Schedule((1.0, 0.6, 0.8, 0.6, 0.4, 0.6, *(0.3 - k / 50 for k in range(12)), 0.0), "euler"),
    ],
    ids=["looks ahead", "rises"],
)
def test_runs_that_come_back_to_a_noise_level_end(policy, sched):
    """Whatever order a sampler asks in, caching or not."""
    for rule in RULES:
        session = CacheConfig(policy, rule=rule, budget=0.5).start(FAMILIES["wan"], sched)
        for k, sigma in enumerate(sched.rounds):
            session.begin((noise(1, 4, seed=k),), sigma)
            assert session.predict((Branch("cond"),), (1, 4)) is None
            session.observe((Branch("cond"),), noise(1, 4, seed=50 + k), None)
        assert session.finish(True).reused == 0
