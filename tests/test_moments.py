"""Second moments: least-squares forecasts, and what lies between measured times."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sencache_core import Fitted, Moments, ProfileHeader
from sencache_core.forecast.moments import RIDGE, fitted_weights
from sencache_core.measure.prior import prior_moments
from sencache_core.measure.profile import Recording, combine

seeds = st.integers(0, 2**31)


def outputs(seed, count, entries=40):
    return np.random.default_rng(seed).normal(size=(count, entries))


def gram_of(y):
    return y @ y.T / y.shape[1]


def weights_of(gram, known, wanted):
    """Of one forecast."""
    return fitted_weights(gram, np.array(known), np.array([wanted]))[0]


@given(seeds, st.integers(1, 4))
def test_weights_sum_to_one(seed, known):
    gram = gram_of(outputs(seed, known + 1))
    weights = weights_of(gram, range(known), known)
    assert weights.shape == (known,)
    assert weights.sum() == pytest.approx(1, abs=1e-9)


@given(seeds, st.integers(2, 4))
def test_weights_are_the_least_squares_solution(seed, known):
    """Newest output plus the multiples of the steps before it that miss least."""
    y = outputs(seed, known + 1)
    steps = np.diff(y[:known], axis=0)
    slopes = np.linalg.lstsq(steps.T, y[known] - y[known - 1], rcond=None)[0]
    expected = y[known - 1] + slopes @ steps
    fitted = weights_of(gram_of(y), range(known), known) @ y[:known]
    floor = np.square(expected - y[known]).mean()
    assert np.square(fitted - y[known]).mean() <= floor + 100 * RIDGE * np.square(y).mean()
    assert np.allclose(fitted, expected, atol=100 * RIDGE * np.abs(y).max())


@given(seeds, st.lists(st.integers(0, 60), min_size=3, max_size=3, unique=True))
def test_linear_outputs_get_the_exact_line(seed, ticks):
    """On one side of the wanted time and between two."""
    t = np.array(ticks) / 60
    start, slope = outputs(seed, 2)
    y = start + t[:, None] * slope
    weights = weights_of(gram_of(y), [0, 1], 2)
    line = (t[2] - t[0]) / (t[1] - t[0])
    assert weights[1] == pytest.approx(line, rel=3 * RIDGE, abs=3 * RIDGE * (1 + abs(line)))


def test_nothing_moved_is_held():
    y = np.ones((3, 5))
    assert np.allclose(weights_of(gram_of(y), [0, 1], 2), [0, 1])
    twice = outputs(1, 3)[[0, 0, 1]]  # the same output known twice, as Heun leaves it
    assert np.allclose(weights_of(gram_of(twice), [0, 1], 2).sum(), 1)
    zero = np.zeros((3, 3))
    assert np.array_equal(weights_of(zero, [0, 1], 2), [0, 1])


def test_one_known_output_is_held_and_rows_broadcast():
    gram = gram_of(outputs(0, 6))
    assert np.array_equal(weights_of(gram, [2], 5), [1])
    known, wanted = np.array([[0, 1], [1, 3], [2, 5]]), np.array([[2, 4], [4, 0], [4, 3]])
    together = fitted_weights(gram, known, wanted)
    for row, column in np.ndindex(wanted.shape):
        alone = weights_of(gram, known[row], wanted[row, column])
        assert np.allclose(together[row, column], alone)


def moments(seed, samples=3, size=6):
    y = [outputs(seed + s, size, 4) for s in range(samples)]
    t = np.sort(np.random.default_rng(seed).choice(100, size, replace=False) / 100)
    return Moments(t, np.stack([gram_of(part) for part in y]))


@given(seeds, st.lists(st.floats(-0.2, 1.2), min_size=1, max_size=8))
def test_interpolation_keeps_moments_moments(seed, times):
    """At other times the matrices stay symmetric and have no negative eigenvalue."""
    measured = moments(seed)
    for gram in measured.at(times):
        assert np.allclose(gram, gram.T)
        assert np.linalg.eigvalsh(gram).min() >= -1e-9 * max(np.trace(gram), 1)
    assert np.allclose(measured.at(times).mean(axis=0), measured.mean_at(times))


def test_interpolation_is_that_of_outputs():
    y = outputs(3, 4)
    measured = Moments(np.array([0.1, 0.2, 0.6, 1.0]), gram_of(y)[None])
    wanted = [0.2, 0.3, 0.05, 2.0]
    there = np.stack([y[1], 0.75 * y[1] + 0.25 * y[2], y[0], y[3]])
    assert np.allclose(measured.at(wanted)[0], gram_of(there))


def test_a_single_time_is_held():
    assert Moments(np.array([0.5]), np.full((2, 1, 1), 3.0)).mean_at([0.1, 0.9]).tolist() == [
        [3.0, 3.0],
        [3.0, 3.0],
    ]


def test_gain_and_response_between_measured_times():
    t, gram = np.array([0.0, 1.0]), np.ones((1, 2, 2))
    plain = Moments(t, gram)
    assert (plain.gain_at(0.3), plain.response_at(0.3)) == (1.0, 0.0)
    gain, response = np.array([[1.0, 4.0], [1.0, 16.0]]), np.array([[0.0, 2.0], [0.0, 4.0]])
    measured = Moments(t, gram.repeat(2, 0), gain, response)
    assert measured.gain_at(1.0) == pytest.approx(8)  # geometric mean over samples
    assert measured.gain_at(0.5) == pytest.approx(8**0.5)
    assert measured.response_at(0.5) == pytest.approx(1.5)


_T, _GRAM = np.array([0.1, 0.9]), np.ones((1, 2, 2))


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ((_T[::-1], _GRAM), "strictly rising"),
        ((np.array([0.5, 0.5]), _GRAM), "strictly rising"),
        ((np.zeros(0), np.ones((1, 0, 0))), "strictly rising"),
        ((_T, np.ones((2, 2))), "matrices of that size"),
        ((_T, np.ones((1, 2, 3))), "matrices of that size"),
        ((_T, _GRAM, np.ones((1, 2))), "together"),
        ((_T, _GRAM, np.ones((1, 3)), np.ones((1, 2))), "long for each sample"),
        ((_T, _GRAM, np.ones(2), np.ones(2)), "long for each sample"),
        ((_T, _GRAM * np.nan), "finite"),
        ((_T, _GRAM, np.ones((1, 2)), np.full((1, 2), np.inf)), "finite"),
    ],
)
def test_wrong_moments_are_refused(parts, says):
    with pytest.raises(ValueError, match=says):
        Moments(*parts)


def test_the_fitted_rule_is_the_line_without_moments_and_damped_with_them():
    times, t = [0.9, 0.7], 0.4
    assert Fitted().weights(times, t) == pytest.approx([-1.5, 2.5])
    assert Fitted().bound(moments(0)).weights([0.9], t) == pytest.approx([1.0])
    jumpy = Moments(np.linspace(0, 1, 11), np.eye(11)[None])  # outputs that share nothing
    newest = Fitted().bound(jumpy).weights(times, t)[1]
    assert newest == pytest.approx(0.5, abs=1e-2)  # the mean of both misses least


@pytest.mark.parametrize("family", ["wan", "ltx", "ltx2", "cogvideox"])
def test_bundled_priors(family):
    """Every family has moments, with gains, that forecasts can be fitted to."""
    prior = prior_moments(family)
    assert prior.gain is not None
    assert (prior.gain > 0).all()
    assert prior is prior_moments(family)
    near, far = (Fitted().bound(prior).weights([0.8, 0.7], t) for t in (0.65, 0.3))
    assert sum(near) == pytest.approx(1)
    assert sum(far) == pytest.approx(1)


def test_leading_moments_stand_for_errors_that_a_session_measures():
    t, gram, lead = np.array([0.0, 1.0]), np.eye(2)[None], np.array([[4.0, 1.0], [1.0, 9.0]])
    assert np.array_equal(Moments(t, gram, lead=lead).lead_at([0.0, 1.0]), lead)
    assert np.array_equal(Moments(t, gram).lead_at([0.0, 1.0]), gram[0])


def test_a_displacement_at_the_end_of_the_run_is_the_final_latents_own():
    """Gains run to 1 at the end, whatever the probes found before it."""
    times, curves = (0.8, 0.4, 0.0), {"alpha_x": np.ones(3), "alpha_t": np.ones(3)}
    travels = [(0.8, 9.0, 0.4, 0.5), (0.4, 4.0, 0.0, 0.25)]
    recording = Recording(times, curves, times, np.eye(3), np.eye(3), None, travels)
    measured = combine([recording], ProfileHeader("wan")).moments
    assert [measured.gain_at(t) for t in (0.0, 0.2, 0.4, 0.8)] == pytest.approx([1, 2, 4, 9])
    assert [measured.response_at(t) for t in (0.0, 0.4)] == pytest.approx([0.25, 0.5])


def test_likeness_is_that_of_both_branches_changes():
    """From outputs of a pair at four times: what guidance adds, and the cosines themselves."""
    cond, gap, guidance = outputs(0, 4), outputs(1, 4), 3.5
    uncond = cond - 0.4 * gap
    added = (guidance - 1) * (cond - uncond)
    grams = [gram_of(y) for y in (cond + added, cond, added)]
    moments = Moments(np.array([0.1, 0.2, 0.5, 0.9]), grams[0][None], None, None, *grams[1:])
    assert moments.likeness_at(moments.t) is None  # at which scale is not known
    found = replace(moments, guidance=guidance).likeness_at(moments.t)
    for a, b in itertools.permutations(range(4), 2):
        one, other = cond[a] - cond[b], uncond[a] - uncond[b]
        cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert found[a, b] == pytest.approx(cosine, rel=1e-6)
    assert (found.diagonal() == 1).all()
    assert prior_moments("wan").guidance == 4.0
