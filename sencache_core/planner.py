"""From measured moments to a schedule with exactly the evaluations asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .moments import Moments, fitted_weights

#: Share of a forecast's error that taking it back leaves in the latent: the evaluation in between
#: saw the wrong latent, and its first-order correction is only measured on average (ours, measured
#: on the bundled models: 0.1 to 0.5 give the same plans but for a step or two).
AFTER_HINDSIGHT = 0.3

COMPUTE, REUSE = "C", "."


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
        error: expected RMS error of the final latent, by the planner's first-order model.
        errors: expected RMS of (forecast - truth) / RMS of truth for each round that an output
            could be forecast for from the evaluations before it; ``nan`` where there are none.
    """

    mask: tuple[bool, ...]
    error: float = float("nan")
    errors: tuple[float, ...] = ()

    @property
    def evaluations(self) -> int:
        return sum(self.mask)

    def __str__(self) -> str:
        """``C`` for an evaluation, ``.`` for reuse."""
        return "".join(COMPUTE if compute else REUSE for compute in self.mask)


def parse_mask(text: str) -> tuple[bool, ...]:
    """A mask from its string; ``C``, ``1`` and ``x`` compute, ``.``, ``0``, ``r`` and ``-`` reuse.

    White space and commas are skipped.

    Raises:
        ValueError: another character, no character at all, or a first round that is not computed.
    """
    letters = [c for c in text if not c.isspace() and c != ","]
    if bad := sorted({c for c in letters if c.lower() not in "c1x.0r-"}):
        raise ValueError(
            f"a mask is written with C (compute) and . (reuse), not {' '.join(bad)}: {text!r}"
        )
    mask = tuple(c.lower() in "c1x" for c in letters)
    if not mask or not mask[0]:
        raise ValueError("a mask must begin with C: the first evaluation has nothing to reuse")
    return mask


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
        risk: 0 weighs samples alike, 1 plans for the worst measured one.
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
        self._gram = self._grams.mean(axis=0)
        self._weights = np.array([r.weight * moments.gain_at(r.t_after) for r in rounds])
        self._risk = risk
        count, reach = len(rounds), longest + 1
        #: ``[n, R + 1, R + 2]``: run after evaluation i, whose predecessor lies ``back`` rounds
        #: earlier (0: has none), ended by an evaluation ``ahead`` rounds later.
        self.costs = np.full((count, reach + 1, reach + 1), np.inf)
        self.costs[:, :, 1] = 0.0
        for back in range(reach + 1):
            for ahead in range(2, reach + 1):
                self._price(back, ahead, hindsight)

    def _price(self, back: int, ahead: int, hindsight: bool) -> None:
        count = len(self.rounds)
        forced = np.array([r.forced for r in self.rounds])
        last = np.arange(back, count - ahead + 1)
        free = np.array([not forced[i + 1 : i + ahead].any() for i in last], dtype=bool)
        last = last[free]
        if not last.size:
            return
        known = self._known(last, back)
        missed = np.zeros((len(last), count))
        remaining = np.zeros_like(missed)
        for offset in range(1, ahead):
            wanted, weight = last + offset, self._weights[last + offset]
            self._add(missed, known, wanted, weight)
            inside = last + ahead < count
            if hindsight and inside.any():
                both = np.concatenate([known, (last + ahead)[:, None]], axis=1)[inside]
                part = np.zeros((inside.sum(), count))
                self._add(part, both, wanted[inside], weight[inside])
                remaining[inside] += part
        cost = self._square(missed)
        if hindsight:
            ended = last + ahead < count
            kept = self._square(remaining) + AFTER_HINDSIGHT**2 * cost
            cost = np.where(ended, np.minimum(kept, cost), cost)
        self.costs[last, back, ahead] = cost

    def _known(self, last: np.ndarray, back: int) -> np.ndarray:
        """Rows that a forecast after ``last`` reads: equal times count once."""
        if back == 0:
            return last[:, None]
        same = np.array([self.rounds[i].t == self.rounds[i - back].t for i in last])
        return last[:, None] if same.any() else np.stack([last - back, last], axis=1)

    def _add(self, rows: np.ndarray, known: np.ndarray, wanted: np.ndarray, weight: np.ndarray):
        """Add weighted forecast errors, as coefficients over the rounds' outputs, to ``rows``."""
        numbers = np.arange(len(rows))
        fitted = fitted_weights(self._gram, known, wanted)
        for column in range(known.shape[1]):
            rows[numbers, known[:, column]] += weight * fitted[:, column]
        rows[numbers, wanted] -= weight

    def _square(self, rows: np.ndarray) -> np.ndarray:
        """Mean square of each row's error, averaged over samples or leaning to the worst."""
        each = np.maximum(np.einsum("pn,snm,pm->sp", rows, self._grams, rows, optimize=True), 0)
        return (1 - self._risk) * each.mean(axis=0) + self._risk * each.max(axis=0)

    def fewest(self) -> int:
        """Evaluations that forced rounds and the longest run leave no way around."""
        ends, _ = self._ways((0,), len(self.rounds), None)
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
        ends, trail = self._ways(done, left, hardness) if left > 0 else (np.array([np.inf]), [])
        if not np.isfinite(ends[-1]):
            raise ValueError(
                f"no plan of {evaluations} evaluations in {len(self.rounds)} rounds obeys the "
                f"forced rounds and runs of at most {self.longest} reuses"
            )
        mask = [False] * len(self.rounds)
        for i in done:
            mask[i] = True
        _, (i, back) = self._end(trail[left][0], hardness)
        for layer in range(left, 1, -1):
            mask[i] = True
            i, back = i - back, int(trail[layer][1][i, back])
        return self.describe(mask, float(np.sqrt(ends[left])))

    def _ways(self, done: Sequence[int], most: int, hardness: np.ndarray | None):
        """Cheapest cost from the last evaluation of ``done`` to the end, by evaluations from there.

        Also the trail to it: for each number the costs of all states (last evaluation, distance
        before it) and, for each state, the distance before the evaluation that it came from.
        """
        costs = self._scaled(hardness)
        count, reach = len(self.rounds), self.longest + 1
        state = np.full((count, reach + 1), np.inf)
        state[done[-1], min(done[-1] - done[-2], reach) if len(done) > 1 else 0] = 0.0
        ends, trail = np.full(most + 1, np.inf), [None]
        before = np.zeros((count, reach + 1), dtype=np.int64)
        for number in range(1, most + 1):
            trail.append((state, before))
            ends[number] = self._end(state, hardness)[0]
            following = np.full_like(state, np.inf)
            before = np.zeros_like(before)
            for ahead in range(1, min(reach, count - 1) + 1):
                ways = state[:-ahead] + costs[:-ahead, :, ahead]
                before[ahead:, ahead] = ways.argmin(axis=1)
                following[ahead:, ahead] = ways.min(axis=1)
            state = following
        return ends, trail

    def _scaled(self, hardness: np.ndarray | None) -> np.ndarray:
        return self.costs if hardness is None else self.costs * hardness[:, None, None]

    def _end(self, state: np.ndarray, hardness: np.ndarray | None) -> tuple[float, tuple[int, int]]:
        """Cheapest way to the end of the run from any (last evaluation, distance before it)."""
        costs, count, reach = self._scaled(hardness), len(self.rounds), self.longest + 1
        best, where = np.inf, (0, 0)
        for i in range(max(0, count - reach), count):
            ways = state[i] + costs[i, :, count - i]
            if ways.min() < best:
                best, where = float(ways.min()), (i, int(ways.argmin()))
        return best, where

    def cost(self, mask: Sequence[bool]) -> float:
        """Expected mean square error of the final latent under a given mask; may be infinite."""
        done = [i for i, compute in enumerate(mask) if compute]
        backs = [0, *(b - a for a, b in zip(done[:-1], done[1:], strict=True))]
        aheads = [*backs[1:], len(mask) - done[-1]]
        if max(aheads) > self.longest + 1:
            return float("inf")
        runs = zip(done, backs, aheads, strict=True)
        return float(sum(self.costs[i, back, ahead] for i, back, ahead in runs))

    def describe(self, mask: Sequence[bool], error: float) -> Plan:
        """A plan with the relative forecast errors to be expected along ``mask``."""
        errors, done = [], []
        size = np.sqrt(np.maximum(np.diag(self._gram), 1e-300))
        for k, compute in enumerate(mask):
            errors.append(float("nan"))
            if done:
                row = np.zeros((1, len(mask)))
                known = self._known(np.array(done[-1:]), done[-1] - done[-2] if done[1:] else 0)
                self._add(row, known, np.array([k]), np.ones(1))
                square = np.maximum(row[0] @ self._gram @ row[0], 0)
                errors[-1] = float(np.sqrt(square) / size[k])
            if compute:
                done.append(k)
        return Plan(tuple(mask), error, tuple(errors))
