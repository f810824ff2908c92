"""The log of a run's rounds, which every runner writes: records, costs and times."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

from ..types import ALL, Branch, Decision, Reason
from .stats import RunReport, StepRecord


class RoundLog:
    """Writes one record a round into a report.

    Args:
        report: the run's.
        clock: seconds, rising; for tests.
    """

    def __init__(self, report: RunReport, clock: Callable[[], float] = time.perf_counter) -> None:
        self.report, self._clock = report, clock
        self._ran = self._asked = 0.0  # branches of the present round, by the share that ran
        self._shares: list[tuple[str, float]] = []  # by role
        self._started = 0.0

    @property
    def record(self) -> StepRecord | None:
        """Of the newest round."""
        return self.report.steps[-1] if self.report.steps else None

    @property
    def asked(self) -> bool:
        """Whether the model was asked in the present round."""
        return self._asked > 0

    @property
    def spared(self) -> bool:
        """Whether any of what the model was asked for in the present round did not run."""
        return self._ran < self._asked

    def tick(self) -> None:
        """One round's time ends, the next one's begins.

        To be called right after a device-to-host copy: it waits for the device, so that a round's
        time holds its own work and not just the launch of it.
        """
        now = self._clock()
        if self.record is not None:
            self.record.seconds = now - self._started
        self._started = now

    def open(self, record: StepRecord) -> None:
        """A round begins."""
        self._ran = self._asked = 0.0
        self._shares.clear()
        self.report.steps.append(record)

    def decided(self, decision: Decision) -> None:
        """The present round has been decided after it began."""
        self.record.decided(decision)

    def called(self, branches: Sequence[Branch], share: float) -> None:
        """See ``Runner.called``."""
        self._asked += len(branches)
        self._ran += share * len(branches)
        self._shares += [(branch.role, share) for branch in branches]
        if share:
            self.report.calls += 1
            self.record.calls += 1
        else:
            self.report.calls_saved += 1

    def came_to(self, decision: Decision, in_pairs: bool, missed: bool = False) -> Decision:
        """What the present round has come to: a full one, if nothing could be spared of what was
        asked for (context windows that rotate, a tap that finds no place).

        Args:
            decision: what was wanted of it.
            in_pairs: whether a part of it spares one output of guidance pairs.
            missed: whether places were found, but nothing fresh that they could be forecast from.
        """
        if decision.compute is not ALL and self.asked and not self.spared:
            paired = decision.partial and in_pairs
            if decision.partial and not paired and not missed:
                self.report.say("no_place", part=decision.compute.name)
            decision = Decision(ALL, Reason.NO_PAIR if paired else Reason.NO_HISTORY)
            self._became("forced", decision.reason)
        if decision.reason is Reason.NO_PAIR:
            self.report.say("no_pair")
        return decision

    def close(self) -> None:
        """The present round has ended: what it cost is known."""
        self.record.cost = self._ran / self._asked if self._asked else 0.0
        if len({share for _, share in self._shares}) > 1:
            self.record.branches = _named(self._shares)
        if not self.asked:
            self._became("idle", Reason.IDLE)

    def _became(self, decision: str, reason: Reason) -> None:
        record = self.record
        record.decision, record.reason, record.part = decision, reason.value, ""
        record.score = record.limit = None

    def finish(self, completed: bool) -> None:
        """The run has ended. A round that was cut short before the model was asked is no round."""
        self.tick()
        if not completed and self.record is not None and self.record.decision == "idle":
            self.report.steps.pop()
        self.report.completed, self.report.ended = completed, True


def _named(shares: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Shares by branch, roles that come more than once numbered: ``cond``, ``cond 2``."""
    seen: Counter[str] = Counter()
    out = {}
    for role, share in shares:
        seen[role] += 1
        out[role if seen[role] == 1 else f"{role} {seen[role]}"] = share
    return out
