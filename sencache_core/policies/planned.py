"""Spend an exact number of evaluations where the final latent needs them."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import ClassVar

import numpy as np

from ..sampler.solver import round_weights
from ..types import ALL, NONE, Decision, Reason, Step
from ..words import Message
from .base import CONDITIONAL, LONGEST_RUN, Guards, Policy, RunInfo
from .correction import Hardness
from .even import even_mask
from .plan import Plan, evaluations_of, longest_run
from .planner import Planner, Round

#: Most of (rounds) x (longest run + 1)^2, which the time of a plan goes by, that longer runs of
#: reuse than :data:`LONGEST_RUN` are weighed for (ours): 20 reuses in a row up to 147 rounds. Plans
#: of finer schedules are the same to 0.5 % of their expected error.
MOST_WEIGHED = 65_000

#: Numbers of evaluations that are planned to learn what a stage gains by one more; of a stage with
#: more rounds the others are interpolated (ours: a second of planning at 100 rounds without).
MOST_TRIED = 24

#: Budget of a plan that nobody gave one, as ``CacheConfig``'s.
DEFAULT_BUDGET = 0.5


@dataclass
class PlanState:
    """Run state of :class:`Planned`.

    Attributes:
        planner: costs of this run's schedule, ``None`` under a mask of the user's.
        plan: the schedule in force.
        evaluations: of the whole run, as planned now.
        hardness: what the run has shown so far.
        asked: evaluations of the whole run that the budget allows.
        promised: expected error of the final latent when the run began.
        done: rounds evaluated.
        charged: evaluations given up for calls that ran in rounds of reuse.
    """

    planner: Planner | None
    plan: Plan
    evaluations: int
    hardness: Hardness
    asked: int = 0
    promised: float = 0.0
    done: list[int] = field(default_factory=list)
    charged: int = 0


@dataclass(frozen=True)
class Planned(Policy):
    """A schedule planned from terminal sensitivity, corrected by what each evaluation reveals.

    Args:
        correct: move the remaining evaluations to where this sample proves harder than expected.
        risk: 0 plans for the mean over the calibration samples, 1 for the worst of them.
        may_save: share of the evaluations that a clip may leave unspent which proves easier than
            the calibration clips, down to the error that was expected for those.
        mask: a schedule of one's own, ``C`` to compute, ``h`` to compute the conditional branch
            alone and ``.`` to reuse, one letter a round; it rules instead of the budget. Empty:
            plan one.
        evaluations: of the whole run; 0: half of the rounds. Set by :meth:`for_budget`.
        guards: forced rounds and longest run that the plan obeys.
    """

    name: ClassVar[str] = "planned"
    title: ClassVar[str] = "Planned (exact budget)"
    decides: ClassVar[str] = (
        "a schedule of exactly the budget's evaluations, planned from measured forecast "
        "errors and terminal sensitivity, adjusted where a clip proves much harder; with "
        "`may_save`, fewer for an easy clip; or your own mask"
    )
    opening: ClassVar[float] = 0.0  # how much of the start is worth computing is in the plan
    correct: bool = field(
        default=True,
        metadata={
            "help": "Move the remaining evaluations to where this very clip proves harder than "
            "the calibration clips. The total stays as asked."
        },
    )
    risk: float = field(
        default=0.0,
        metadata={
            "min": 0.0,
            "max": 1.0,
            "step": 0.05,
            "help": "0 plans for the average of the calibration clips, 1 for the worst of them.",
        },
    )
    mask: str = field(
        default="",
        metadata={
            "strictest": "C",  # once for every round
            "help": "Your own schedule instead of a budget: one letter per evaluation, C computes, "
            "h computes the conditional branch alone (half the time), a dot reuses, as the stats "
            "show it. Empty: plan one.",
        },
    )
    may_save: float = field(
        default=0.0,
        metadata={
            "min": 0.0,
            "max": 0.5,
            "step": 0.05,
            "help": "Share of the budget that a clip may leave unspent if it proves easier than "
            "the calibration clips, where correct is on. 0 spends the budget on every clip.",
        },
    )
    evaluations: int = field(default=0, metadata={"hidden": True})
    guards: Guards = field(default=Guards(longest_run=LONGEST_RUN), metadata={"hidden": True})

    def __post_init__(self) -> None:
        if not 0 <= self.risk <= 1:
            raise ValueError(f"risk must lie in 0..1, not {self.risk}")
        if not 0 <= self.may_save < 1:
            raise ValueError(f"may_save must lie in [0, 1), not {self.may_save}")
        if self.mask:
            Plan.parse(self.mask)

    def start(self, run: RunInfo) -> PlanState:
        rounds = rounds_of(run, self.guards)
        hardness = Hardness(len(rounds))
        if self.mask:
            plan = self.fit_mask(len(rounds))
            return PlanState(None, plan, plan.evaluations, hardness)
        if run.moments is None:  # nothing is known of this model
            plan = self._even(rounds)
            return PlanState(None, plan, plan.evaluations, hardness)
        planner = _planner_of(run, self.guards, self.risk)
        wanted = self.evaluations or evaluations_of(DEFAULT_BUDGET, len(rounds))
        wanted = max(wanted, planner.fewest())
        plan = planner.plan(wanted)
        return PlanState(planner, plan, wanted, hardness, wanted, plan.error)

    @property
    def needs_pairs(self) -> bool:
        return bool(self.mask and Plan.parse(self.mask).half)

    @property
    def fixed(self) -> bool:
        return bool(self.mask)

    @property
    def planned(self) -> bool:
        return not self.mask

    def misfit(self, run: RunInfo) -> Message | None:
        letters, evaluations = len(Plan.parse(self.mask).mask) if self.mask else 0, len(run.times)
        if letters in (0, evaluations):
            return None
        return Message.of("off.mask", letters=letters, evaluations=evaluations)

    def plan(self, run: RunInfo, guards: Guards) -> Plan:
        if not self.mask:
            return self.start(run).plan
        rounds, wanted = rounds_of(run, guards), self.fit_mask(len(run.times))
        pairs = zip(wanted.mask, rounds, strict=True)
        mask = [compute or one.forced for compute, one in pairs]
        half = frozenset(k for k in wanted.half if not rounds[k].forced)
        if run.moments is None:
            return Plan(tuple(mask), half=half)
        taken_back = run.transitions is not None
        longest, truth = longest_run(mask), run.to_truth
        planner = Planner(rounds, run.moments, longest, taken_back, self.risk, run.rule, truth)
        return replace(planner.describe(mask), half=half)

    def ahead(self, state: PlanState) -> Plan:
        return state.plan

    def _even(self, rounds: list[Round]) -> Plan:
        wanted = self.evaluations or evaluations_of(DEFAULT_BUDGET, len(rounds))
        return Plan(even_mask([one.forced for one in rounds], wanted))

    def fit_mask(self, rounds: int) -> Plan:
        """The user's mask, for a run of ``rounds`` rounds.

        Raises:
            ValueError: the mask has another length.
        """
        plan = Plan.parse(self.mask)
        if len(plan.mask) != rounds:
            raise ValueError(
                f"The mask has {len(plan.mask)} letters, but this run has {rounds} evaluations: "
                "plan anew, or write one letter for each."
            )
        return plan

    def own_guards(self, guards: Guards, default: Guards) -> Guards:
        """A mask of the user's own is run as it is written, but for what he has set."""
        if not self.mask:
            return guards
        free = Guards(cooldown=0, longest_run=len(Plan.parse(self.mask).mask))
        names = (
            f.name for f in fields(Guards) if getattr(guards, f.name) != getattr(default, f.name)
        )
        return replace(free, **{name: getattr(guards, name) for name in names})

    def decide(self, step: Step, last: Step, state: PlanState) -> tuple[Decision, PlanState]:
        if step.streak == 0 and state.planner is not None:  # in a run of reuse the next is not free
            self._charge(step, state)
            if step.anew and len(state.done) > 1:
                self._replan(state, anew=True)
            elif self.correct:
                self._correct(step, state)
        mask, errors = state.plan.mask, state.plan.errors
        expected = errors[step.ordinal] if step.ordinal < len(errors) else None
        if step.ordinal < len(mask) and not mask[step.ordinal]:
            return Decision(NONE, Reason.SCHEDULED_REUSE, expected), state
        if step.ordinal in state.plan.half:
            if not step.paired:
                return Decision(ALL, Reason.NO_PAIR, expected), state
            return Decision(CONDITIONAL, Reason.SCHEDULED_PART, expected), state
        return Decision(ALL, Reason.SCHEDULED_COMPUTE, expected), state

    def _correct(self, step: Step, state: PlanState) -> None:
        """Replan what is left, once the last evaluation has shown how its forecast erred."""
        last = state.done[-1]
        expected = state.plan.errors[last]
        if state.hardness.learn(step.error, expected) and last + 1 < len(state.plan.mask):
            self._replan(state)

    def _charge(self, step: Step, state: PlanState) -> None:
        """Pay for what ran in rounds of reuse: context windows that move, prompts that change."""
        owed = int(step.extra) - state.charged
        if owed <= 0:
            return
        before = state.asked, state.evaluations
        state.asked, state.evaluations = state.asked - owed, state.evaluations - owed
        if self._replan(state):
            state.charged += owed
        else:
            state.asked, state.evaluations = before

    def _replan(self, state: PlanState, anew: bool = False) -> bool:
        """Plan again what is left; whether there was room to. ``anew``: see :class:`Step`."""
        factors = state.hardness.factors(state.done[-1])
        if self.may_save:
            state.evaluations = self._enough(state, factors)
        try:
            state.plan = state.planner.plan(state.evaluations, state.done, factors, anew)
        except ValueError:
            return False  # forced rounds have used up the room: the plan in force stays
        return True

    def _enough(self, state: PlanState, factors: np.ndarray) -> int:
        """Fewest evaluations that promise this clip the error expected of the others.

        What has been saved is spent again only on a clip that proves harder than those.
        """
        if state.hardness.log_ratio >= 0:
            return state.asked
        ease = math.exp(state.hardness.log_ratio)
        fewest = math.ceil((1 - self.may_save) * state.asked)
        counts = range(max(fewest, len(state.done) + 1), state.evaluations)

        def keeps_the_promise(count: int) -> bool:
            try:
                plan = state.planner.plan(count, state.done, factors)
            except ValueError:
                return False
            return plan.error * ease <= state.promised

        place = bisect_left(counts, True, key=keeps_the_promise)
        return counts[place] if place < len(counts) else state.evaluations

    def observe(self, step: Step, state: PlanState) -> PlanState:
        if step.ordinal < len(state.plan.mask):
            state.done.append(step.ordinal)
            if not state.plan.mask[step.ordinal] and state.planner is not None:
                self._replan(state)  # a guard asked for this one: it is paid for elsewhere
        return state

    def fit_guards(self, guards: Guards, evaluations: int, run: RunInfo) -> Guards:
        """The planner weighs long runs of reuse itself: they are only capped, on long schedules to
        what can be weighed in a moment (:data:`MOST_WEIGHED`).

        A limit below the default is the user's word, and holds as far as the budget leaves room.
        """
        needed = super().fit_guards(guards, evaluations, run).longest_run
        wanted = guards.longest_run
        if not _lowered(guards):
            places = len(run.schedule.rounds) * (4 if run.to_truth else 1)  # each step has two
            weighed = math.isqrt(MOST_WEIGHED // places) - 1
            wanted = max(min(wanted, weighed), LONGEST_RUN)
        return replace(guards, longest_run=max(needed, wanted))

    def raised(self, guards: Guards, fitted: Guards) -> bool:
        return _lowered(guards) and super().raised(guards, fitted)

    def for_budget(self, evaluations: int, run: RunInfo, guards: Guards) -> Policy:
        return replace(self, evaluations=evaluations, guards=guards)

    def share(self, evaluations: int, stages: Sequence[tuple[RunInfo, Guards]]) -> int:
        """Evaluations that the first of a clip's stages is to spend.

        Errors of different stages are taken as independent, as those of different runs of reuse.

        Args:
            evaluations: of all stages together.
            stages: what is known of each, and its guards.

        Raises:
            ValueError: no division leaves every stage what its guards force.
        """
        first, *rest = (self._by_count(*stage, evaluations) for stage in stages)
        others = np.full(evaluations + 1, np.inf)
        others[0] = 0.0
        for squares in rest:
            others = np.array(
                [(others[: n + 1] + squares[n::-1]).min() for n in range(len(others))]
            )
        totals = first + others[::-1]
        if not np.isfinite(totals).any():
            raise ValueError(f"{evaluations} evaluations are fewer than the stages' guards force")
        return int(totals.argmin())

    def _by_count(self, run: RunInfo, guards: Guards, most: int) -> np.ndarray:
        """``[most + 1]`` expected square error of the final latent from one stage, by its number of
        evaluations; infinite where there is no such plan.
        """
        rounds = rounds_of(run, guards)
        planner = _planner_of(run, guards, self.risk)
        counts = np.arange(planner.fewest(), min(most, len(rounds)) + 1)
        squares = np.full(most + 1, np.inf)
        if not len(counts):
            return squares
        tried = counts[np.unique(np.linspace(0, len(counts) - 1, MOST_TRIED).round().astype(int))]
        errors = [planner.plan(int(count)).error for count in tried]
        squares[counts] = np.exp(2 * np.interp(counts, tried, np.log(errors)))
        return squares


def _lowered(guards: Guards) -> bool:
    """Whether the user has set a limit of his own: lower than the default."""
    return guards.longest_run < Guards().longest_run


def _planner_of(run: RunInfo, guards: Guards, risk: float) -> Planner:
    taken_back, rounds = run.transitions is not None, tuple(rounds_of(run, guards))
    known = run.moments, guards.longest_run, taken_back, risk, run.rule, run.to_truth
    return _planner(rounds, *known)


@lru_cache(maxsize=8)
def _planner(rounds, moments, longest, hindsight, risk, rule, to_truth) -> Planner:
    """A planner, kept for the next run of the same settings: its costs take a moment to price."""
    return Planner(rounds, moments, longest, hindsight, risk, rule, to_truth)


def rounds_of(run: RunInfo, guards: Guards) -> list[Round]:
    """The run's expected rounds as the planner needs them."""
    steps, num_steps = run.schedule.steps(), run.schedule.num_steps
    weights = round_weights(run.family, run.schedule)
    out = []
    for number, (t, step, (weight, after)) in enumerate(
        zip(run.times, steps, weights, strict=True)
    ):
        forced = guards.forces(number, step, num_steps, 0) is not None
        out.append(Round(t, weight, after, forced))
    return out
