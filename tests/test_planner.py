"""The planner finds what trying every schedule finds, and only what the rounds allow."""

import tracemalloc
from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import schedule

from sencache_core import FAMILIES, Moments
from sencache_core.forecast.moments import fitted_weights
from sencache_core.measure.prior import prior_moments
from sencache_core.policies import Guards, Planned, Prior, RunInfo, planner
from sencache_core.policies.plan import Plan
from sencache_core.policies.planned import rounds_of
from sencache_core.policies.planner import Planner, Round

small = settings(max_examples=40)


def moments(seed, samples=1, smooth=True):
    """Of random outputs that change smoothly, or not at all, along the run."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, 9)
    waves = np.stack([np.ones(9), t, t**2, np.sin(5 * t), np.cos(9 * t)]) if smooth else np.eye(9)
    y = np.stack([waves.T @ rng.normal(size=(len(waves), 30)) for _ in range(samples)])
    gain, response = np.exp(rng.normal(size=(samples, 9))), rng.normal(size=(samples, 9))
    return Moments(t, y @ y.transpose(0, 2, 1) / 30, gain, response)


def rounds_at(times, forced=(), seed=0):
    weights = np.random.default_rng(seed).uniform(0.1, 1, len(times))
    after = [*times[1:], 0.0]
    return [
        Round(t, w, a, k in forced)
        for k, (t, w, a) in enumerate(zip(times, weights, after, strict=True))
    ]


def falling(count, seed=0):
    return np.sort(np.random.default_rng(seed).uniform(0, 1, count))[::-1].tolist()


def masks(count, evaluations, done=(0,)):
    """Every mask of that many evaluations that begins with what is done."""
    later = range(done[-1] + 1, count)
    for chosen in combinations(later, evaluations - len(done)):
        yield tuple(k in done or k in chosen for k in range(count))


def cost(made, mask, hardness=None):
    """Expected square error of a mask; each run's worst sample's where there are several."""
    rounds, done = made.rounds, [k for k, compute in enumerate(mask) if compute]
    if any(r.forced and not compute for r, compute in zip(rounds, mask, strict=True)):
        return np.inf
    if hardness is None:
        return np.square(made.errors(mask)).max()
    gaps = [0, *np.diff(done), len(mask) - done[-1]]
    if max(gaps) > made.longest + 1:
        return np.inf
    return sum(
        hardness[i] * made._squares[:, i, a, b].max() for i, a, b in zip(done, gaps, gaps[1:])
    )


def assert_best(made, evaluations, done=(0,), hardness=None):
    price = partial(cost, made, hardness=hardness)
    best = min(map(price, masks(len(made.rounds), evaluations, done)), default=np.inf)
    if not np.isfinite(best):
        with pytest.raises(ValueError, match="no plan of"):
            made.plan(evaluations, done, hardness)
        return
    plan = made.plan(evaluations, done, hardness)
    assert plan.evaluations == evaluations
    assert [k for k, on in enumerate(plan.mask) if on and k <= done[-1]] == list(done)
    assert price(plan.mask) == pytest.approx(best, rel=1e-6, abs=1e-15)


@small
@given(data=st.data(), seed=st.integers(0, 10**6), hindsight=st.booleans(), smooth=st.booleans())
def test_equals_trying_every_schedule(data, seed, hindsight, smooth):
    count = data.draw(st.integers(2, 9))
    forced = data.draw(st.sets(st.integers(0, count - 1), max_size=3))
    longest = data.draw(st.integers(0, 4))
    rounds = rounds_at(falling(count, seed), forced, seed)
    made = Planner(rounds, moments(seed, smooth=smooth), longest, hindsight)
    assert_best(made, data.draw(st.integers(1, count)))


@small
@given(data=st.data(), seed=st.integers(0, 10**6), hindsight=st.booleans())
def test_replanning_equals_trying_every_ending(data, seed, hindsight):
    """From what is done, with runs of reuse that have proved harder than expected."""
    longest = data.draw(st.integers(1, 4))
    gaps = data.draw(st.lists(st.integers(1, longest + 1), max_size=2))
    done = tuple(int(k) for k in np.cumsum([0, *gaps]))
    count = done[-1] + data.draw(st.integers(1, 6))
    made = Planner(rounds_at(falling(count, seed)), moments(seed), longest, hindsight)
    hardness = np.exp(np.random.default_rng(seed).normal(size=count))
    hardness[: done[-1]] = 1.0  # the past costs the same whatever comes
    evaluations = data.draw(st.integers(len(done), count))
    assert_best(made, evaluations, done, hardness)


@small
@given(seed=st.integers(0, 10**6), first=st.integers(1, 4), evaluations=st.integers(1, 5))
def test_where_one_output_is_known_the_rest_is_planned_as_a_run_of_its_own(
    seed, first, evaluations
):
    rounds = rounds_at(falling(first + 6, seed))
    made, alone = (Planner(r, moments(seed), 3, True) for r in (rounds, rounds[first:]))
    if evaluations < alone.fewest():
        return
    plan = made.plan(evaluations + 1, (first - 1, first), anew=True)
    assert plan.mask[first:] == alone.plan(evaluations).mask


@small
@given(seed=st.integers(0, 10**6))
def test_several_samples_are_planned_for_in_decibels(seed):
    """Never worse, in the mean of log errors, than the plan for the mean square."""
    made = Planner(rounds_at(falling(14, seed)), moments(seed, samples=4), 5)
    planned = made.plan(6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "REWEIGHTED", 0)
        plain = made.plan(6)
    logs, others = (np.log(made.errors(plan.mask)).mean() for plan in (planned, plain))
    assert logs <= others + 1e-9
    assert planned.error == pytest.approx(np.exp(np.log(made.expected(planned.mask)).mean()))


@small
@given(seed=st.integers(0, 10**6), evaluations=st.integers(3, 9))
def test_full_risk_plans_for_the_worst_sample(seed, evaluations):
    made = Planner(rounds_at(falling(9, seed)), moments(seed, samples=3), 4, risk=1.0)
    assert_best(made, evaluations, hardness=np.ones(9))
    half = Planner(made.rounds, moments(seed, samples=3), 4, risk=0.5)
    assert half.plan(evaluations).evaluations == evaluations


def test_expected_error_is_the_weighted_sum_of_forecast_errors():
    """One run of reuse, by hand: errors of one run add up before they are squared."""
    rounds, model = rounds_at([0.9, 0.8, 0.7, 0.6, 0.5], seed=3), moments(4)
    made = Planner(rounds, model, 3)
    gram = model.at([r.t for r in rounds])[0]
    mask = (True, True, False, False, True)
    again = Planner(rounds, model, 3, hindsight=True)
    for found, power, least in ((made.errors, planner.GAIN_POWER, 1), (made.expected, 1, 0)):
        missed = np.zeros(5)
        for k in (2, 3):
            weight = rounds[k].weight * max(model.gain_at(rounds[k].t_after), least) ** power
            missed[:2] += weight * fitted_weights(gram, np.array([0, 1]), np.array([k]))[0]
            missed[k] -= weight
        assert found(mask)[0] == pytest.approx(np.sqrt(missed @ gram @ missed))
    assert again.errors(mask)[0] <= made.errors(mask)[0]
    assert again.expected(mask)[0] <= made.expected(mask)[0]


def test_expected_forecast_errors_of_a_plan():
    """Relative to the output, and there for every round but the first."""
    rounds = rounds_at([0.9, 0.7, 0.5, 0.3])
    slope = np.linspace(0, 1, 11)[:, None]
    line = Moments(slope[:, 0], (slope @ slope.T)[None])  # y = t, of one entry
    errors = Planner(rounds, line, 3).describe((True, True, False, True)).errors
    assert np.isnan(errors[0])
    assert errors[1] == pytest.approx(0.2 / 0.7)  # a single output is held
    assert errors[2:] == pytest.approx((0, 0), abs=1e-3)  # two make the line


@given(st.integers(1, 8), st.integers(1, 12), st.integers(0, 8))
def test_counts_are_exact_or_refused(evaluations, count, longest):
    made = Planner(rounds_at(falling(count)), moments(1), longest)
    fewest = -(-count // (longest + 1))
    assert made.fewest() == fewest
    if fewest <= evaluations <= count:
        assert made.plan(evaluations).evaluations == evaluations
        return
    with pytest.raises(ValueError, match=f"no plan of {evaluations} evaluations in {count}"):
        made.plan(evaluations)


def test_more_done_than_asked_is_refused():
    made = Planner(rounds_at(falling(6)), moments(1), 3)
    with pytest.raises(ValueError, match="no plan of 2"):
        made.plan(2, done=(0, 1, 2))


def test_equal_times_are_planned():
    """Heun asks twice at one noise level, each for half a step."""
    run = RunInfo(FAMILIES["wan"], schedule(12, sampler="heun"), Prior(FAMILIES["wan"]))
    rounds = rounds_of(run, Guards(longest_run=8))
    assert len({r.t for r in rounds}) < len(rounds) == 23
    for hindsight in (False, True):
        made = Planner(rounds, prior_moments("wan"), 8, hindsight)
        for evaluations in range(made.fewest(), 24):
            plan = made.plan(evaluations)
            assert plan.evaluations == evaluations
            assert np.isfinite(plan.error)
            assert np.isfinite(plan.errors[1:]).all()


@given(st.text("Ch.", max_size=60))
def test_masks_are_written_and_read_back(rest):
    plan = Plan.parse(f"C{rest}")
    assert str(plan) == f"C{rest}"
    assert plan.cost == 1 + rest.count("C") + rest.count("h") / 2
    assert plan.evaluations == 1 + rest.count("C") + rest.count("h")


def test_masks_may_be_written_loosely():
    assert str(Plan.parse(" C.c, xX1H\n0rR-h")) == "C.CCCCh....h"


@pytest.mark.parametrize("text", ["", " ", ".C", "0", "C.?", "hC", "compute"])
def test_wrong_masks_are_refused(text):
    with pytest.raises(ValueError, match="mask"):
        Plan.parse(text)
    if text:
        with pytest.raises(ValueError, match="mask"):
            Planned(mask=text)


@pytest.mark.parametrize("risk", [-0.1, 1.1])
def test_wrong_risk_is_refused(risk):
    with pytest.raises(ValueError, match="risk"):
        Planned(risk=risk)


def test_memory_grows_with_the_length_of_a_run_only():
    """No array of rounds x rounds, and none of runs of reuse beyond a block of them."""
    made = Planner(rounds_at(falling(600)), moments(1, samples=3), 8, hindsight=True)
    tracemalloc.start()
    made._squares  # noqa: B018 - priced when first asked for
    priced = tracemalloc.get_traced_memory()[1]
    made.describe((True, *(k % 3 == 0 for k in range(1, 600))))
    described = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    table = made._squares.nbytes
    assert table == 3 * 600 * 10 * 10 * 8
    assert priced < 6 * table
    assert described < 6 * table


def test_the_fewest_evaluations_need_no_search():
    """As many as the search finds a plan for, whatever is forced."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        forced = set(np.flatnonzero(rng.uniform(size=12) < 0.25))
        made = Planner(rounds_at(falling(12, seed), forced), moments(seed), int(rng.integers(0, 5)))
        fewest = made.fewest()
        assert made.plan(fewest).evaluations == fewest
        if fewest > 1:
            with pytest.raises(ValueError, match="no plan of"):
                made.plan(fewest - 1)


def test_a_mask_of_the_users_own_obeys_the_guards_that_the_user_set():
    policy, default = Planned(mask="CC......CCCC.......C"), Guards(warmup=2, start=None)
    free = policy.own_guards(default, default)
    steps = range(20)
    wanted = [k for k, compute in enumerate(Plan.parse(policy.mask).mask) if compute]
    assert [k for k in steps if free.forces(k, k, 20, 7)] == [0]
    assert free.fewest(tuple(steps), 20) <= len(wanted)
    own = policy.own_guards(replace(default, longest_run=4, cooldown=3), default)
    assert (own.longest_run, own.cooldown, own.warmup) == (4, 3, 1)
