"""Run the conditional branch at every step, the unconditional one now and then."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from ..types import ALL, Decision, Reason, Step
from .base import CONDITIONAL, Guards, Policy, RunInfo
from .interval import Interval


@dataclass(frozen=True)
class CfgCache(Interval):
    """Full evaluations once every ``interval`` rounds, conditional ones in between.

    The guidance axis of FasterCache (Lv et al., arXiv 2410.19355, section 3.3). Each conditional
    round costs half an evaluation, so that a run costs more than half in any case.

    Args:
        interval: mean distance between full evaluations in rounds; 1 computes everything.
    """

    name: ClassVar[str] = "cfg_cache"
    title: ClassVar[str] = "Conditional steps (CFG-Cache)"
    interval: float = field(
        default=5.0,
        metadata={
            "min": 1.0,
            "max": 20.0,
            "step": 0.1,
            "help": "Mean distance between full evaluations. In between only the conditional "
            "branch runs, for half the time. 1 computes everything, 5 is FasterCache's.",
        },
    )

    @property
    def needs_pairs(self) -> bool:
        return True

    def decide(self, step: Step, last: Step, state: float) -> tuple[Decision, float]:
        if self._due(state):
            return Decision(ALL, Reason.SCHEDULED_COMPUTE), state
        if not step.paired:
            return Decision(ALL, Reason.NO_PAIR), state
        return Decision(CONDITIONAL, Reason.SCHEDULED_PART), state + 1

    def fit_guards(self, guards: Guards, evaluations: int, run: RunInfo) -> Guards:
        """Nothing is reused in a row: guards stay as they are."""
        return guards

    def fewest(self, guards: Guards, run: RunInfo) -> float:
        steps, num_steps = run.schedule.steps(), run.schedule.num_steps
        forced = sum(guards.forces(k, i, num_steps, 0) is not None for k, i in enumerate(steps))
        return (len(steps) + forced) / 2

    def for_budget(self, evaluations: float, run: RunInfo, guards: Guards) -> Policy:
        """The interval at which a run spends ``evaluations``, conditional rounds counted by half,
        or the nearest below; a count of an odd number of halves is not met better than by one.
        """
        whole = int(2 * evaluations) - len(run.schedule.rounds)
        return super().for_budget(max(whole, 1), run, replace(guards, longest_run=len(run.times)))
