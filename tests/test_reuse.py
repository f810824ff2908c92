import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import noise

from sencache_core import REUSE_RULES
from sencache_core.forecast.reuse.polynomial import lagrange_weights
from sencache_core.types import Anchor

RULES = [cls() for cls in REUSE_RULES.values()]
by_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)

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
    coefficients = noise(rule.history, 2, 3, seed=seed).double()
    *known, t = times[-rule.history - 1 :]
    anchors = [Anchor(s, polynomial(coefficients, s).float()) for s in known]
    expected = polynomial(coefficients, t)
    # float32 anchors are rounded, and extrapolation magnifies that by the sum of the weights
    slack = 1e-6 * sum(map(abs, lagrange_weights(t, known))) * 10
    assert torch.allclose(rule.predict(t, anchors).double(), expected, atol=slack, rtol=1e-5)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=4, unique=True), st.floats(-1, 2))
def test_weights_sum_to_one(ticks, t):
    weights = lagrange_weights(t, [tick / 50 for tick in ticks])
    assert sum(weights) == pytest.approx(1, abs=1e-9 * max(1, *map(abs, weights)))


def test_equal_times_raise():
    with pytest.raises(ZeroDivisionError):
        lagrange_weights(0.1, [0.5, 0.5])


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
    """One anchor holds, two make a line, whatever the rule would like."""
    first, second = Anchor(1.0, noise(1, 4)), Anchor(0.8, noise(1, 4, seed=1))
    assert torch.equal(rule.predict(0.5, [first]), first.y)
    if rule.history >= 2:
        line = second.y + (second.y - first.y) * (0.5 - 0.8) / (0.8 - 1.0)
        assert torch.allclose(rule.predict(0.5, [first, second]), line, atol=1e-6)


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
