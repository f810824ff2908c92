"""The planner judged by a cost of its own: docs/theory.md written down in plain loops.

Nothing here is shared with the planner but the records that it takes (rounds, moments). Forecasts
are solved for by least squares on the outputs themselves, not on their moments.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sencache_core import Fitted, Hold, Linear, Moments, Quadratic
from sencache_core.policies.planner import Planner, Round

#: Theory, section 3: the power of gain that plans are chosen by, and what hindsight leaves.
POWER, LEFT = 0.75, 0.2
#: Theory, section 2: the ridge, and the largest sum of absolute weights, damped by it or not.
RIDGE, DAMPED, UNDAMPED = 1e-4, 20.0, 5.5
#: Theory, section 9: where within a step its output is looked at, the two points of Gauss.
WITHIN = [(1 - 3**-0.5) / 2, (1 + 3**-0.5) / 2]

some = settings(max_examples=30)
seeds = st.integers(0, 10**6)
rules = st.sampled_from([Fitted, Hold, Linear, Quadratic])
#: Whether forecasts are taken back, and whether the run heads for the exact solution.
aims = st.sampled_from([(False, False), (True, False), (True, True)])


class Case:
    """A model whose outputs are known in full, and a schedule whose rounds it was measured at."""

    def __init__(self, seed: int, count: int, samples: int = 1, gain: bool = True) -> None:
        rng = np.random.default_rng(seed)
        self.count, self.times = count, np.sort(1 + rng.choice(96, count, replace=False))[::-1] / 97
        t = np.append(0.0, self.times[::-1])
        waves = np.stack([np.ones_like(t), t, t**2, np.sin(5 * t), np.cos(9 * t)], axis=1)
        #: ``[S, n, entries]``, and those of the branch on which errors are measured.
        every = [waves @ rng.normal(size=(5, 40)) for _ in range(samples)]
        lead = waves @ rng.normal(size=(5, 40))
        self.y, self.lead = [y[:0:-1] for y in every], lead[:0:-1]
        self._measured = t, every
        gains = np.exp(rng.normal(size=(samples, len(t)))) if gain else None
        #: ``[S, n]`` at the level that each step leads to.
        self.gains = np.ones((samples, count)) if gains is None else gains[:, -2::-1]
        self.weights = rng.uniform(0.1, 1, count)
        self.moments = Moments(
            t,
            np.stack([y @ y.T / 40 for y in every]),
            gains,
            None if gains is None else np.zeros_like(gains),
            lead @ lead.T / 40,
        )
        after = [*self.times[1:], 0.0]
        self.rounds = [Round(*each) for each in zip(self.times, self.weights, after, strict=True)]

    def planner(self, rule, longest: int, hindsight: bool, to_truth: bool = False) -> Planner:
        bound = rule().bound(self.moments)
        return Planner(self.rounds, self.moments, longest, hindsight, 0.0, bound, to_truth)

    def out(self, when: float) -> list[np.ndarray]:
        """Output of each sample at any time: a line between measured ones."""
        t, every = self._measured
        after = min(int(np.searchsorted(t, when, side="right")), len(t) - 1)
        share = (when - t[after - 1]) / (t[after] - t[after - 1])
        return [y[after - 1] + share * (y[after] - y[after - 1]) for y in every]

    def places(self, k: int, to_truth: bool) -> list[float]:
        """Times at which the outputs that round ``k`` moves the latent by are looked at."""
        start, end = self.times[k], self.rounds[k].t_after
        return [start + (end - start) * share for share in WITHIN] if to_truth else [start]

    def guess(self, rule, known: list[int], when: float) -> list[float]:
        """Weights of the outputs ``known`` for the output at a time."""
        times = [self.times[j] for j in known]
        if rule is Fitted:  # all samples at once: their mean moments are those of all entries
            y = np.concatenate(self.y, axis=1)
            steps = np.diff(y[known], axis=0).T
            missing = np.concatenate(self.out(when)) - y[known[-1]]
            normal, size = steps.T @ steps, y[known[-1]] @ y[known[-1]]
            normal = normal + np.diag(RIDGE * np.diag(normal) + 1e-12 * size)
            slopes = np.linalg.solve(normal, steps.T @ missing) if len(known) > 1 else []
            weights = [0.0] * (len(known) - 1) + [1.0]
            for j, slope in enumerate(slopes):
                weights[j], weights[j + 1] = weights[j] - slope, weights[j + 1] + slope
        else:
            weights = []
            for j, own in enumerate(times):
                others = [other for i, other in enumerate(times) if i != j]
                weights.append(np.prod([(when - o) / (own - o) for o in others]))
        most = DAMPED if rule is Fitted else UNDAMPED
        if sum(map(abs, weights)) > (most if when < min(times) else 2 * most):
            return [0.0, *self.guess(rule, known[1:], when)]
        return weights

    def cost(
        self, rule, mask, hindsight, power: float = POWER, least: float = 1.0, to_truth=False
    ) -> list[float]:
        """Expected square error of each sample's final latent: equation (2), run by run."""
        done, history = [k for k in range(self.count) if mask[k]], rule().history
        totals = []
        for sample, (y, gain) in enumerate(zip(self.y, self.gains, strict=True)):
            total = 0.0
            for place, start in enumerate(done):
                close = done[place + 1] if place + 1 < len(done) else None
                known = done[max(0, place + 1 - history) : place + 1]
                first = start if to_truth else start + 1
                missed = range(first, self.count if close is None else close)
                thrown = taken = np.zeros(40)
                for k in missed:
                    wanted = self.places(k, to_truth)
                    weight = self.weights[k] * max(gain[k], least) ** power / len(wanted)
                    for when in wanted:
                        truth = self.out(when)[sample]
                        guess = zip(self.guess(rule, known, when), known, strict=True)
                        thrown = thrown + weight * (sum(w * y[j] for w, j in guess) - truth)
                        if close is not None:
                            around = [*known, close]
                            guess = zip(self.guess(rule, around, when), around, strict=True)
                            taken = taken + weight * (sum(w * y[j] for w, j in guess) - truth)
                square = np.mean(thrown**2)
                if hindsight and close is not None:
                    square = min(square, np.mean(taken**2) + LEFT**2 * square)
                total += square
            totals.append(total)
        return totals


def any_mask(data, count):
    later = data.draw(st.lists(st.booleans(), min_size=count - 1, max_size=count - 1))
    return (True, *later)


def masks(count, evaluations, longest):
    """Every mask of that many evaluations whose runs of reuse are no longer than ``longest``."""
    for chosen in combinations(range(1, count), evaluations - 1):
        done = [0, *chosen, count]
        if max(b - a for a, b in zip(done[:-1], done[1:], strict=True)) <= longest + 1:
            yield tuple(k in done for k in range(count))


@some
@given(data=st.data(), seed=seeds, rule=rules, aim=aims, gain=st.booleans())
def test_what_is_expected_of_a_mask(data, seed, rule, aim, gain):
    """By every rule, with gains in full and with the gains that plans are chosen by."""
    hindsight, to_truth = aim
    case = Case(seed, data.draw(st.integers(2, 12)), samples=2, gain=gain)
    mask = any_mask(data, case.count)
    planner = case.planner(rule, case.count, hindsight, to_truth)
    truth = np.sqrt(case.cost(rule, mask, hindsight, 1.0, 0.0, to_truth))
    assert planner.expected(mask) == pytest.approx(truth, rel=1e-5, abs=1e-7)
    assert planner.describe(mask).error == pytest.approx(
        np.exp(np.log(np.maximum(truth, 1e-12)).mean()), rel=1e-5, abs=1e-7
    )
    if rule is not Quadratic or sum(mask) < 3:  # else the third output is planned with elsewhere
        chosen_by = np.sqrt(case.cost(rule, mask, hindsight, to_truth=to_truth))
        assert planner.errors(mask) == pytest.approx(chosen_by, rel=1e-5, abs=1e-7)


@some
@given(
    data=st.data(),
    seed=seeds,
    rule=st.sampled_from([Fitted, Hold, Linear]),
    aim=aims,
)
def test_no_mask_costs_less_than_the_plan(data, seed, rule, aim):
    hindsight, to_truth = aim
    case, longest = Case(seed, data.draw(st.integers(3, 9))), data.draw(st.integers(1, 5))
    planner = case.planner(rule, longest, hindsight, to_truth)
    evaluations = data.draw(st.integers(planner.fewest(), case.count))
    plan = planner.plan(evaluations)
    (cost,) = case.cost(rule, plan.mask, hindsight, to_truth=to_truth)
    assert plan.evaluations == evaluations
    for mask in masks(case.count, evaluations, longest):
        (other,) = case.cost(rule, mask, hindsight, to_truth=to_truth)
        assert cost <= other * (1 + 1e-5) + 1e-12


def test_a_plan_for_three_outputs_is_near_the_best():
    """The oldest one's place is approximated while planning: half of the room is kept at least."""
    kept = []
    for seed in range(12):
        case = Case(seed, 10)
        plan = case.planner(Quadratic, 5, True).plan(5)
        costs = [case.cost(Quadratic, mask, True)[0] for mask in masks(10, 5, 5)]
        (own,) = case.cost(Quadratic, plan.mask, True)
        kept.append(np.log(np.median(costs) / own) / np.log(np.median(costs) / min(costs)))
    assert np.mean(kept) > 0.5


@some
@given(data=st.data(), seed=seeds, rule=rules)
def test_errors_to_be_expected_are_those_of_the_leading_branch(data, seed, rule):
    """Of the forecast that stands in for every round, whether or not it is computed."""
    case = Case(seed, data.draw(st.integers(2, 12)))
    mask = any_mask(data, case.count)
    errors = case.planner(rule, case.count, True).describe(mask).errors
    assert np.isnan(errors[0])
    for k in range(1, case.count):
        known = [j for j in range(k) if mask[j]][-rule().history :]
        guess = zip(case.guess(rule, known, case.times[k]), known, strict=True)
        missed = sum(w * case.lead[j] for w, j in guess) - case.lead[k]
        truth = np.sqrt(np.mean(missed**2) / np.mean(case.lead[k] ** 2))
        assert errors[k] == pytest.approx(truth, rel=1e-4, abs=1e-6)


def test_several_samples_share_a_plan_by_their_mean_in_decibels():
    """Among the masks of a small run, the plan is near the least mean of log costs."""
    for seed in range(6):
        case = Case(seed, 9, samples=3)
        plan = case.planner(Fitted, 4, False).plan(4)
        logs = {m: np.log(case.cost(Fitted, m, False)).mean() for m in masks(9, 4, 4)}
        ranked = sorted(logs, key=logs.get)
        assert ranked.index(plan.mask) < 0.1 * len(ranked)
