"""From measured moments to a schedule with exactly the evaluations asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..forecast.moments import Moments, fitted_weights

#: Share of a forecast's error that taking it back leaves in the latent: the evaluation in between
#: saw the wrong latent, and its first-order correction is only measured on average (ours: with 0.2
#: what arrives per unit is the same for runs of one, two and three reuses on the bundled models).
AFTER_HINDSIGHT = 0.2

#: Power at which terminal gain enters (ours). Gains differ from clip to clip by more than the few
#: samples of a calibration tell, and large errors saturate. Chosen on clips that no table holds;
#: the rows ``planned-gain-*`` and ``planned-no-gain`` of benchmarks/RESULTS.md have other powers.
#: That errors die out, a gain below 1, is not counted on: it would ask for long runs of reuse.
GAIN_POWER = 0.75

#: Most times that a plan is made anew with each sample weighed by the inverse of its own error,
#: which turns the mean square into the mean in decibels (majorise-minimise for the sum of
#: logarithms); a plan that stays the same ends it (ours; not tuned).
REWEIGHTED = 3

COMPUTE, HALF, REUSE = "C", "h", "."


def evaluations_of(budget: float, rounds: int) -> int:
    """Evaluations that ``budget``, a share of ``rounds``, comes to: halves go up, at least one."""
    return max(1, math.floor(budget * rounds + 0.5 + 1e-9))


@dataclass(frozen=True)
class Round:
    """One evaluation round as the planner sees it.

    Attributes:
        t: time coordinate of the evaluation.
        weight: RMS by which the latent moves per RMS of output error, solver weight alone.
        t_after: time coordinate that the step leads to.
        forced: must be computed.
    """

    t: float
    weight: float
    t_after: float
    forced: bool = False


@dataclass(frozen=True)
class Plan:
    """Which rounds to compute.

    Attributes:
        mask: ``True`` where the model runs, one entry a round.
        error: expected RMS error of the final latent, by the planner's first-order model;
            geometric mean over the calibration samples.
        errors: expected RMS of (forecast - truth) / RMS of truth, on the leading branch, of a
            forecast for each round from the evaluations before it; ``nan`` where there are none.
        half: rounds of ``mask`` that run the conditional branch alone.
    """

    mask: tuple[bool, ...]
    error: float = float("nan")
    errors: tuple[float, ...] = ()
    half: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Plan:
        """A plan from its string: ``C``, ``1`` and ``x`` compute, ``h`` computes the conditional
        branch alone, ``.``, ``0``, ``r`` and ``-`` reuse.

        White space and commas are skipped.

        Raises:
            ValueError: another character, no character at all, or a first round that is not
                computed in full.
        """
        letters = [c for c in text.lower() if not c.isspace() and c != ","]
        if bad := sorted(set(letters) - set("c1xh.0r-")):
            raise ValueError(
                "a mask is written with C (compute), h (conditional branch alone) and . (reuse), "
                f"not {' '.join(bad)}: {text!r}"
            )
        if not letters or letters[0] not in "c1x":
            raise ValueError("a mask must begin with C: the first evaluation has nothing to reuse")
        half = frozenset(k for k, letter in enumerate(letters) if letter == "h")
        return cls(tuple(letter in "c1xh" for letter in letters), half=half)

    @property
    def evaluations(self) -> int:
        return sum(self.mask)

    @property
    def cost(self) -> float:
        """Evaluations, those of the conditional branch alone counted by half."""
        return sum(self.mask) - len(self.half) / 2

    def __str__(self) -> str:
        """``C`` for an evaluation, ``h`` for one of the conditional branch, ``.`` for reuse."""
        return "".join(
            REUSE if not compute else HALF if k in self.half else COMPUTE
            for k, compute in enumerate(self.mask)
        )


class Planner:
    """Costs of all runs of reuse between the rounds of one schedule, and the best way through.

    With output errors ``e_k`` the final latent errs, to first order, by the sum over reused rounds
    of (solver weight) x (gain) x ``e_k``. Within a run of reuse the errors add up as vectors, since
    they share the outputs they are forecast from; different runs are taken as independent, so that
    the cost of a schedule is a sum over its runs, each depending on the two evaluations before it
    and the one after. Dynamic programming over (previous, last) evaluation finds the optimum.

    Args:
        rounds: of the sampler, in order.
        moments: of the model.
        longest: reuses allowed in a row.
        hindsight: whether runs of reuse are taken back by interpolation.
        risk: 0 plans for the mean over samples in decibels, 1 for the worst of them.
    """

    def __init__(
        self,
        rounds: Sequence[Round],
        moments: Moments,
        longest: int,
        hindsight: bool = False,
        risk: float = 0.0,
    ) -> None:
        self.rounds, self.longest = tuple(rounds), longest
        times = [r.t for r in rounds]
        self._grams = moments.at(times)
        self._gram, self._lead = self._grams.mean(axis=0), moments.lead_at(times)
        solver = np.array([r.weight for r in rounds])
        gains = moments.gains_at([r.t_after for r in rounds])
        self._weights = solver * gains
        self._plan_weights = solver * np.maximum(gains, 1.0) ** GAIN_POWER
        self._hindsight = hindsight
        count, reach = len(rounds), longest + 1
        self._squares = np.full((len(self._grams), count, reach + 1, reach + 1), np.inf)
        self._squares[:, :, :, 1] = 0.0
        for back in range(reach + 1):
            for ahead in range(2, reach + 1):
                self._fill(back, ahead)
        self._risk = risk

    def _costs(self, share: np.ndarray) -> np.ndarray:
        """``[n, R + 1, R + 1]``: expected square error of the final latent from the run of reuse
        after evaluation ``i``, whose predecessor lies ``back`` rounds earlier (0: it has none),
        ended by an evaluation ``ahead`` rounds later; infinite where it is not allowed.
        """
        mean = np.tensordot(share, self._squares, axes=1)
        if self._risk == 0:
            return mean
        worst = self._squares.max(axis=0)  # alone at risk 1: nothing times infinity is no number
        return worst if self._risk == 1 else (1 - self._risk) * mean + self._risk * worst

    def _fill(self, back: int, ahead: int) -> None:
        """Square errors from all runs of reuse of one shape that no forced round forbids."""
        count = len(self.rounds)
        forced = np.array([r.forced for r in self.rounds])
        last = np.arange(back, count - ahead + 1)
        free = np.array([not forced[i + 1 : i + ahead].any() for i in last], dtype=bool)
        last = last[free]
        if last.size:
            self._squares[:, last, back, ahead] = self._square_of_runs(
                self._plan_weights, last, back, ahead
            )

    def _square_of_runs(
        self, weights: np.ndarray, last: np.ndarray, back: int, ahead: int
    ) -> np.ndarray:
        """``[S, P]`` square error from runs of reuse of one shape, after the evaluations ``last``.

        Args:
            weights: ``[S, n]`` of each round's forecast error in the final latent.
            last: ``[P]`` rounds.
            back, ahead: as for :meth:`_costs`.
        """
        count = len(self.rounds)
        # Everything happens between the evaluation before ``last`` and the one that ends the run.
        window = np.minimum((last - back)[:, None] + np.arange(back + ahead + 1), count - 1)
        known = [0, back] if back else [0]
        missed = self._error(weights, window, known, back, ahead)
        cost = self._square(window, missed)
        if self._hindsight:
            taken_back = self._error(weights, window, [*known, back + ahead], back, ahead)
            kept = self._square(window, taken_back) + AFTER_HINDSIGHT**2 * cost
            cost = np.where(last + ahead < count, np.minimum(kept, cost), cost)
        return cost

    def _error(
        self, weights: np.ndarray, window: np.ndarray, known: list[int], back: int, ahead: int
    ) -> np.ndarray:
        """``[S, P, w]``: the weighted sum of a run's forecast errors, as coefficients over outputs.

        Args:
            weights: ``[S, n]`` of each round's forecast error.
            window: ``[P, w]`` rounds of each run, from the evaluation before it.
            known: columns of the outputs that it is forecast, or interpolated, from.
            back, ahead: column of its evaluation, and distance from there to its end.
        """
        rows = np.zeros((len(weights), *window.shape))
        for column in range(back + 1, back + ahead):
            weight = weights[:, window[:, column]]
            rows[:, :, column] -= weight
            fitted = fitted_weights(self._gram, window[:, known], window[:, column])
            rows[:, :, known] += weight[:, :, None] * fitted
        return rows

    def _square(self, window: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """``[S, P]`` mean square of the errors ``[S, P, w]``."""
        grams = self._grams[:, window[:, :, None], window[:, None, :]]
        return np.maximum(np.einsum("spn,spnm,spm->sp", rows, grams, rows, optimize=True), 0)

    def fewest(self) -> int:
        """Evaluations that forced rounds and the longest run leave no way around."""
        costs = self._costs(self._alike())
        ends, _ = self._ways(costs, (0,), len(self.rounds))
        return int(np.flatnonzero(np.isfinite(ends))[0])

    def plan(
        self,
        evaluations: int,
        done: Sequence[int] = (0,),
        hardness: np.ndarray | None = None,
    ) -> Plan:
        """The best schedule of exactly ``evaluations`` evaluations.

        Args:
            evaluations: of the whole run, those of ``done`` among them.
            done: rounds evaluated so far; everything up to the last of them has happened.
            hardness: ``[n]`` factor on the cost of the run of reuse after each round, from what the
                run has shown; ``None``: as measured in calibration.

        Raises:
            ValueError: no schedule of that many evaluations obeys forced rounds and longest run.
        """
        left = evaluations - len(done) + 1  # the last one of ``done`` is where the search starts
        share, mask = self._alike(), None
        for _ in range(REWEIGHTED + 1):
            costs = self._costs(share)
            if hardness is not None:
                costs = costs * hardness[:, None, None]
            ends, trail = self._ways(costs, done, left) if left > 0 else (np.array([np.inf]), [])
            if not np.isfinite(ends[-1]):
                raise ValueError(
                    f"no plan of {evaluations} evaluations in {len(self.rounds)} rounds obeys the "
                    f"forced rounds and runs of at most {self.longest} reuses"
                )
            before, mask = mask, self._back(costs, trail, left, done)
            if mask == before:
                break
            each = np.maximum(self.errors(mask), 1e-12) ** -2
            share = each / each.sum()
        return self.describe(mask)

    def _alike(self) -> np.ndarray:
        return np.full(len(self._squares), 1 / len(self._squares))

    def _back(self, costs: np.ndarray, trail: list, left: int, done: Sequence[int]) -> list[bool]:
        """The mask at the end of a trail."""
        mask = [False] * len(self.rounds)
        for i in done:
            mask[i] = True
        _, (i, back) = self._end(costs, trail[left][0])
        for layer in range(left, 1, -1):
            mask[i] = True
            i, back = i - back, int(trail[layer][1][i, back])
        return mask

    def _ways(self, costs: np.ndarray, done: Sequence[int], most: int):
        """Cheapest cost from the last evaluation of ``done`` to the end, by evaluations from there.

        Also the trail to it: for each number the costs of all states (last evaluation, distance
        before it) and, for each state, the distance before the evaluation that it came from.
        """
        count, reach = len(self.rounds), self.longest + 1
        state = np.full((count, reach + 1), np.inf)
        state[done[-1], min(done[-1] - done[-2], reach) if len(done) > 1 else 0] = 0.0
        ahead = np.arange(1, reach + 1)
        source = np.arange(count)[:, None] - ahead
        outside, source = source < 0, np.maximum(source, 0)
        onward = np.where(outside[:, :, None], np.inf, costs[source, :, ahead])
        ends, trail = np.full(most + 1, np.inf), [None]
        before = np.zeros((count, reach + 1), dtype=np.int64)
        for number in range(1, most + 1):
            trail.append((state, before))
            ends[number] = self._end(costs, state)[0]
            ways = state[source] + onward
            state, before = np.full_like(state, np.inf), np.zeros_like(before)
            before[:, 1:] = ways.argmin(axis=2)
            state[:, 1:] = np.take_along_axis(ways, before[:, 1:, None], axis=2)[:, :, 0]
        return ends, trail

    def _end(self, costs: np.ndarray, state: np.ndarray) -> tuple[float, tuple[int, int]]:
        """Cheapest way to the end of the run from any (last evaluation, distance before it)."""
        count = len(self.rounds)
        last = np.arange(max(0, count - self.longest - 1), count)
        ways = state[last] + costs[last, :, count - last]
        place, back = np.unravel_index(ways.argmin(), ways.shape)
        return float(ways[place, back]), (int(last[place]), int(back))

    def errors(self, mask: Sequence[bool]) -> np.ndarray:
        """``[S]`` RMS errors that plans are chosen by; infinite if the mask is not allowed."""
        done, backs, aheads = _runs(mask)
        if longest_run(mask) > self.longest:
            return np.full(len(self._squares), np.inf)
        return np.sqrt(self._squares[:, done, backs, aheads].sum(axis=1))

    def expected(self, mask: Sequence[bool]) -> np.ndarray:
        """``[S]`` expected RMS error of each sample's final latent, gains in full."""
        squares = np.zeros(len(self._weights))
        done, backs, aheads = map(np.array, _runs(mask))
        for back, ahead in sorted({*zip(backs, aheads, strict=True)}):  # runs of one shape at once
            if ahead > 1:
                last = done[(backs == back) & (aheads == ahead)]
                squares += self._square_of_runs(self._weights, last, back, ahead).sum(axis=1)
        return np.sqrt(squares)

    def describe(self, mask: Sequence[bool]) -> Plan:
        """A plan with the relative forecast errors to be expected along ``mask``."""
        done, wanted = np.flatnonzero(mask), np.arange(1, len(mask))
        newest = np.searchsorted(done, wanted) - 1
        known = done[np.stack([np.maximum(newest - 1, 0), newest], axis=1)]  # one twice: held
        weights = fitted_weights(self._gram, known, wanted)
        rows = np.concatenate([weights, -np.ones((len(wanted), 1))], axis=1)
        window = np.concatenate([known, wanted[:, None]], axis=1)
        lead = self._lead[window[:, :, None], window[:, None, :]]
        squares = np.einsum("pn,pnm,pm->p", rows, lead, rows)
        size = np.sqrt(np.maximum(np.diag(self._lead)[1:], 1e-300))
        errors = (float("nan"), *(np.sqrt(np.maximum(squares, 0)) / size).tolist())
        error = float(np.exp(np.log(np.maximum(self.expected(mask), 1e-12)).mean()))
        return Plan(tuple(mask), error, errors)


def longest_run(mask: Sequence[bool]) -> int:
    """Most reuses in a row."""
    return max(_runs(mask)[2]) - 1


def _runs(mask: Sequence[bool]) -> tuple[list[int], list[int], list[int]]:
    """Every evaluation of a mask, its distance from the one before and to the next, or the end."""
    done = [i for i, compute in enumerate(mask) if compute]
    backs = [0, *(b - a for a, b in zip(done[:-1], done[1:], strict=True))]
    return done, backs, [*backs[1:], len(mask) - done[-1]]
