"""What scores share that the first blocks of every round give: FBCache's, DBCache's, DiCache's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ..forecast.reuse import Hold, ReuseRule
from ..model.families import GENERIC, Family
from ..model.signals import FIRST_RESIDUAL
from ..model.taps import Tap
from ..types import Decision, Key, Look, Only, Reason
from ..words import Message
from .accumulating import Accumulated
from .base import Guards, Policy, RunInfo
from .threshold import Budgeted, Threshold


@dataclass
class Probed(Accumulated):
    """Run state of :class:`Probing`.

    Attributes:
        seen: what was seen at the last true evaluation.
    """

    seen: Look | None = None


class Probing(Threshold):
    """A policy whose score is told by the first blocks, which run at every round.

    A round is decided behind them. Where it is reused, so is what the blocks behind them add. That
    costs ``first`` and ``last`` blocks' share of an evaluation, which budgets take into account.

    Attributes:
        first, last: blocks at either end that run at every round.
    """

    tap: ClassVar[str] = "blocks"
    looks: ClassVar[bool] = True
    seen: ClassVar[int] = 2
    opening: ClassVar[float] = 0.0
    learns: ClassVar[bool] = True
    first: int
    last: int = 0

    @property
    def rules(self) -> Mapping[str, ReuseRule]:
        return {self.tap: Hold()}

    def signal(self, family: Family) -> str:
        return FIRST_RESIDUAL

    def tapping(self, tap: Tap) -> Tap:
        return replace(tap, runs=self.behind, first=self.first)

    def behind(self, count: int) -> Sequence[range]:
        """What is reused of ``count`` blocks, which is one place; none where nothing is left."""
        return [range(self.first, count - self.last)] if self.first + self.last < count else []

    @property
    def part(self) -> Only:
        """What runs of a round that is reused."""
        ends = {"first": self.first, "last": self.last}
        named = [f"{end} {n} blocks" if n > 1 else f"{end} block" for end, n in ends.items() if n]
        return Only(" and ".join(named), self._runs, reused=True)

    def _runs(self, key: Key) -> bool:
        return key.site.tap != self.tap

    def reused(
        self, reason: Reason, score: float | None, limit: float | None, state: Accumulated
    ) -> Decision:
        return Decision(self.part, reason, score, limit)

    def share_in(self, run: RunInfo) -> float:
        """Share of an evaluation's block work that runs in a round of reuse; 0: not known."""
        return min((self.first + self.last) / run.blocks, 1.0) if run.blocks else 0.0

    def misfit(self, run: RunInfo) -> Message | None:
        title, always = self.title.partition(" (")[0], self.first + self.last
        if run.family.name == GENERIC.name:
            return Message.of("off.unknown_family", title=title)
        if run.blocks is not None and always >= run.blocks:
            key = "off.all_blocks_first_last" if self.last else "off.all_blocks_first"
            key = key if self.first > 1 else "off.all_blocks"
            return Message.of(key, title=title, count=run.blocks)
        return None

    def start(self, run: RunInfo) -> Probed:
        return Probed(run)

    def expected(self, last_t: float, t: float, state: Accumulated) -> float:
        return (state.rate or 1.0) * abs(t - last_t)

    def fit_guards(self, guards: Guards, evaluations: float, run: RunInfo) -> Guards:
        return super().fit_guards(guards, self._in_full(evaluations, run), run)

    def fewest(self, guards: Guards, run: RunInfo) -> float:
        rounds, forced = len(run.schedule.rounds), super().fewest(guards, run)
        return forced + (rounds - forced) * self.share_in(run)

    def for_budget(self, evaluations: float, run: RunInfo, guards: Guards) -> Policy:
        """Scores within a budget: the evaluations in full that it has room for beside rounds of
        reuse, to the nearest below.
        """
        return Budgeted(self, guards, self._in_full(evaluations, run))

    def _in_full(self, evaluations: float, run: RunInfo) -> int:
        """Evaluations in full of a run that costs as much as ``evaluations`` of them."""
        rounds, share = len(run.schedule.rounds), self.share_in(run)
        if share >= 1:
            return rounds
        return max(1, int((evaluations - rounds * share) / (1 - share) + 1e-9))
