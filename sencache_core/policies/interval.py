"""Compute every n-th round: the baseline that needs no measurement."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from ..types import ALL, NONE, Decision, Reason, Step
from .base import Guards, Policy, RunInfo


@dataclass(frozen=True)
class Interval(Policy):
    """Evaluate evenly: once every ``interval`` rounds, which need not be a whole number.

    Args:
        interval: mean distance between evaluations in rounds; 1 computes everything.
    """

    name: ClassVar[str] = "interval"
    title: ClassVar[str] = "Fixed interval"
    decides: ClassVar[str] = "every n-th evaluation, evenly; n need not be whole"
    interval: float = field(
        default=2.0,
        metadata={
            "strictest": 1.0,
            "loose": 4.0,
            "min": 1.0,
            "max": 20.0,
            "step": 0.1,
            "help": "Mean distance between evaluations, in evaluations. 1 computes everything, "
            "2 every second one. Higher is faster and rougher. 2 is safe on 20 or more steps.",
        },
    )

    def __post_init__(self) -> None:
        if self.interval < 1:
            raise ValueError(f"interval must be at least 1, not {self.interval}")

    def start(self, run: RunInfo) -> float:
        """Rounds passed since evaluations were last due."""
        return 0.0

    def decide(self, step: Step, last: Step, state: float) -> tuple[Decision, float]:
        if self._due(state, step.share):
            return Decision(ALL, Reason.SCHEDULED_COMPUTE), state
        return Decision(NONE, Reason.SCHEDULED_REUSE), state + 1

    def observe(self, step: Step, state: float) -> float:
        return self._carried(state, step.share)

    def distance(self, share: float) -> float:
        """Rounds between evaluations after ``share`` of the steps."""
        return self.interval

    def _due(self, passed: float, share: float) -> bool:
        return passed + 1 >= self.distance(share) - 1e-9

    def _carried(self, passed: float, share: float) -> float:
        """What exceeds the interval is carried on, so that any mean distance is spread evenly."""
        return max(0.0, passed + 1 - self.distance(share))

    def for_budget(self, evaluations: int, run: RunInfo, guards: Guards) -> Policy:
        """The interval whose count, guards included, is ``evaluations`` or the nearest below."""
        steps = run.schedule.steps()
        low, high = 1.0, float(len(steps) + 1)
        while replace(self, interval=high).distance(1.0) <= len(steps):
            high *= 2  # evaluations come closer together towards the end
        for _ in range(40):
            middle = (low + high) / 2
            if replace(self, interval=middle).count(steps, run, guards) > evaluations:
                low = middle
            else:
                high = middle
        return replace(self, interval=high)

    def count(self, steps: tuple[int, ...], run: RunInfo, guards: Guards) -> int:
        """Evaluations of a whole run at this interval."""
        total, reused, passed, num_steps = 0, 0, 0.0, run.schedule.num_steps
        for number, index in enumerate(steps):
            share = index / num_steps
            if guards.forces(number, index, num_steps, reused) or self._due(passed, share):
                total, reused, passed = total + 1, 0, self._carried(passed, share)
            else:
                reused, passed = reused + 1, passed + 1
        return total
