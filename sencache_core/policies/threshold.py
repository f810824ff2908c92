"""Policies that compare a score with a limit, and the solver that turns a budget into the limit."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from ..model.families import Family
from ..types import ALL, NONE, Decision, Look, Reason, Step
from .base import Guards, Policy, RunInfo
from .plan import Plan

#: Share of the measured-to-expected ratio that one new measurement contributes (ours): a sample's
#: speed along its trajectory changes slowly, single displacements are noisy.
RATIO_MEMORY = 0.3


class Threshold(Policy):
    """A policy with a score: reuse while ``score < limit``.

    The comparison is strict, as in the authors' code (the paper writes <=), so that a limit of 0
    never reuses anything. State is what is known of the run, unless ``start`` says otherwise.

    Attributes:
        learns: whether what it expects changes as the run goes.
    """

    learns: ClassVar[bool] = False

    @abstractmethod
    def score(self, step: Step, last: Step, state: Any) -> float:
        """Figure of merit of reusing ``last``'s outputs at ``step``; ``inf``: nothing is known.

        At most one device sync. Asked once a round that no guard forces.
        """

    @abstractmethod
    def expected(self, last_t: float, t: float, state: Any) -> float:
        """The score to be expected at ``t`` after an evaluation at ``last_t``."""

    @abstractmethod
    def limit(self, share: float) -> float:
        """Limit after ``share`` of the steps."""

    def reused(
        self, reason: Reason, score: float | None, limit: float | None, state: Any
    ) -> Decision:
        """The decision to reuse: what runs all the same, and how the rest is made."""
        return Decision(NONE, reason, score, limit)

    def start(self, run: RunInfo) -> RunInfo:
        return run

    def decide(self, step: Step, last: Step, state: Any) -> tuple[Decision, Any]:
        score, limit = self.score(step, last, state), self.limit(step.share)
        if score < limit:
            return self.reused(Reason.WITHIN, score, limit, state), state
        return Decision(ALL, Reason.OVER, _told(score), limit), state

    def for_budget(self, evaluations: int, run: RunInfo, guards: Guards) -> Policy:
        return Budgeted(self, guards, evaluations)


def relative_change(before: Tensor, now: Tensor) -> Tensor:
    """``mean|now - before| / mean|before|`` over all entries, in float32, 0-d, on its device."""
    was = before.float()
    return (now.float() - was).abs().mean() / was.abs().mean()


def change_of_looks(before: Look | None, now: Look | None) -> float:
    """:func:`relative_change` of one branch's looks; infinite where they cannot be compared. One
    device sync.
    """
    if before is None or now is None or before.branch != now.branch:
        return math.inf
    if before.value.shape != now.value.shape:
        return math.inf
    change = float(relative_change(before.value, now.value))
    return change if math.isfinite(change) else math.inf


def _told(score: float) -> float | None:
    """A score as reports have it."""
    return score if math.isfinite(score) else None


@dataclass
class BudgetState:
    """Run state of :class:`Budgeted`.

    Attributes:
        run: what is known of the run.
        inner: state of the policy inside.
        times, steps: time coordinate and schedule step of every expected round.
        left: evaluations still to spend.
        factor: what the inner policy's limits are multiplied with at present.
        ratio: measured over expected score, averaged over the run so far.
        evaluated: expected round of the last true evaluation.
        expected: scores of the dry run by (evaluated round, later round).
    """

    run: RunInfo
    inner: Any
    times: tuple[float, ...]
    steps: tuple[int, ...]
    left: int
    factor: float = 0.0
    ratio: float = 1.0
    evaluated: int = 0
    expected: dict[tuple[int, int], float] = field(default_factory=dict)


@dataclass(frozen=True)
class Budgeted(Policy):
    """Spends exactly ``evaluations``, where ``inner`` scores highest.

    At every true evaluation the limits of ``inner`` are scaled anew, by bisection over a dry run of
    the rounds to come, such that the expected number of evaluations equals what is left. What the
    run measures corrects what the dry run expects. Two checks keep the count exact whatever the
    scores: never evaluate if the guards would then need more than is left, and never reuse if
    fewer rounds would remain than evaluations.
    """

    name: ClassVar[str] = "budgeted"
    title: ClassVar[str] = "Budgeted"
    inner: Threshold
    guards: Guards
    evaluations: int

    @property
    def looks(self) -> bool:
        return self.inner.looks

    @property
    def reads_outputs(self) -> bool:
        return self.inner.reads_outputs

    def signal(self, family: Family) -> str:
        return self.inner.signal(family)

    def plan(self, run: RunInfo, guards: Guards) -> Plan:
        return self.inner.plan(run, guards)

    def start(self, run: RunInfo) -> BudgetState:
        inner = self.inner.start(run)
        return BudgetState(run, inner, run.times, run.schedule.steps(), self.evaluations)

    def decide(self, step: Step, last: Step, state: BudgetState) -> tuple[Decision, BudgetState]:
        score = self.inner.score(step, last, state.inner)
        expected = self.inner.expected(last.t, step.t, state.inner)
        if expected > 0 and math.isfinite(score):
            state.ratio += RATIO_MEMORY * (score / expected - state.ratio)
        limit = self.inner.limit(step.share) * state.factor
        after = step.ordinal + 1
        if score < limit:
            if len(state.steps) - after >= state.left:
                return self.inner.reused(Reason.WITHIN, score, limit, state.inner), state
            return Decision(ALL, Reason.BUDGET_LEFT, score, limit), state
        needed = 1 + self.guards.fewest(state.steps, step.num_steps, after)
        if state.left < needed and after <= len(state.steps):
            told = _told(score)
            return self.inner.reused(Reason.BUDGET_SPENT, told, limit, state.inner), state
        return Decision(ALL, Reason.OVER, _told(score), limit), state

    def observe(self, step: Step, state: BudgetState) -> BudgetState:
        state.inner = self.inner.observe(step, state.inner)
        if self.inner.learns:
            state.expected.clear()
        state.left -= 1
        state.evaluated = step.ordinal
        state.factor = self._solve(state)
        return state

    def _solve(self, state: BudgetState) -> float:
        """Factor at which a dry run of the rest spends what is left, to the nearest below."""
        low, high = 0.0, 1.0
        while self._dry_run(state, high) > state.left and high < 1e12:
            low, high = high, high * 4
        for _ in range(24):
            middle = (low + high) / 2
            if self._dry_run(state, middle) > state.left:
                low = middle
            else:
                high = middle
        return high

    def _dry_run(self, state: BudgetState, factor: float) -> int:
        times, num_steps = state.times, state.run.schedule.num_steps
        last, count, reused = state.evaluated, 0, 0
        for number in range(state.evaluated + 1, len(times)):
            index = state.steps[number]
            compute = self.guards.forces(number, index, num_steps, reused) is not None
            if not compute:
                key = (last, number)
                if key not in state.expected:
                    expected = self.inner.expected(times[last], times[number], state.inner)
                    state.expected[key] = expected
                limit = self.inner.limit(index / num_steps) * factor
                compute = state.expected[key] * state.ratio >= limit
            if compute:
                last, count, reused = number, count + 1, 0
            else:
                reused += 1
        return count
