"""What policies share that run a part of the model at every step, and all of it now and then."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ..forecast.reuse import Hold, ReuseRule
from ..model.taps import Tap
from ..types import ALL, Decision, Key, Only, Reason, Step
from .base import Guards, Policy, RunInfo
from .interval import Interval

#: Of a field ``interval``, all but its help.
EVERY = {"strictest": 1.0, "loose": 3.0, "min": 1.0, "max": 20.0, "step": 0.1}


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

    def share_in(self, run: RunInfo) -> float:
        """:attr:`share` of the model at hand, as far as that is known."""
        return self.share

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
        return forced + (len(steps) - forced) * self.share_in(run)

    def for_budget(self, evaluations: float, run: RunInfo, guards: Guards) -> Policy:
        """The interval at which a run spends ``evaluations``, partial rounds counted by their
        share, or the nearest below that whole numbers of full evaluations allow.
        """
        rounds, share = len(run.schedule.rounds), self.share_in(run)
        whole = rounds if share >= 1 else int((evaluations - rounds * share) / (1 - share) + 1e-9)
        return super().for_budget(max(whole, 1), run, replace(guards, longest_run=rounds))


@dataclass(frozen=True)
class PartialBlocks(Partial):
    """Full evaluations once every ``interval`` rounds, some of the blocks in between.

    What the others add, run by run of neighbours, is kept at full evaluations and added again.

    Attributes:
        running: what runs in between, in words.
    """

    tap: ClassVar[str] = "blocks"
    running: ClassVar[str]

    @abstractmethod
    def kept(self, count: int) -> Sequence[range]:
        """Runs of the blocks that do not run in between, of ``count`` in all."""

    @property
    def rules(self) -> Mapping[str, ReuseRule]:
        return {self.tap: Hold()}

    def tapping(self, tap: Tap) -> Tap:
        return replace(tap, runs=self.kept)

    @property
    def part(self) -> Only:
        return Only(self.running, self._runs)

    def _runs(self, key: Key) -> bool:
        return key.site.tap != self.tap

    def share_in(self, run: RunInfo) -> float:
        return 1 - sum(map(len, self.kept(run.blocks))) / run.blocks if run.blocks else self.share
