"""What policies share that run a part of the model at every step, and all of it now and then."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

from ..types import ALL, Decision, Only, Reason, Step
from .base import Guards, Policy, RunInfo
from .interval import Interval


@dataclass(frozen=True)
class Partial(Interval):
    """Full evaluations once every ``interval`` rounds, those of a part in between."""

    @property
    @abstractmethod
    def part(self) -> Only:
        """What runs in between."""

    @property
    @abstractmethod
    def share(self) -> float:
        """Share of a full evaluation's block work that ``part`` is, 0..1."""

    def decide(self, step: Step, last: Step, state: float) -> tuple[Decision, float]:
        if self._due(state, step.share):
            return Decision(ALL, Reason.SCHEDULED_COMPUTE), state
        if self.needs_pairs and not step.paired:
            return Decision(ALL, Reason.NO_PAIR), state
        return Decision(self.part, Reason.SCHEDULED_PART), state + 1

    def fit_guards(self, guards: Guards, evaluations: int, run: RunInfo) -> Guards:
        """Nothing is reused in a row: guards stay as they are."""
        return guards

    def fewest(self, guards: Guards, run: RunInfo) -> float:
        steps, num_steps = run.schedule.steps(), run.schedule.num_steps
        forced = sum(guards.forces(k, i, num_steps, 0) is not None for k, i in enumerate(steps))
        return forced + (len(steps) - forced) * self.share

    def for_budget(self, evaluations: float, run: RunInfo, guards: Guards) -> Policy:
        """The interval at which a run spends ``evaluations``, partial rounds counted by their
        share, or the nearest below that whole numbers of full evaluations allow.
        """
        rounds = len(run.schedule.rounds)
        whole = int((evaluations - rounds * self.share) / (1 - self.share) + 1e-9)
        return super().for_budget(max(whole, 1), run, replace(guards, longest_run=rounds))
