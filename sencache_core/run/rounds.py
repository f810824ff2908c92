"""The log of a run's rounds, which every runner writes: records, costs and times."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ..types import Branch, Reason
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
        self.report.steps.append(record)

    def called(self, branches: Sequence[Branch], share: float) -> None:
        """See ``Runner.called``."""
        self._asked += len(branches)
        self._ran += share * len(branches)
        if share:
            self.report.calls += 1
            self.record.calls += 1
        else:
            self.report.calls_saved += 1

    def close(self) -> None:
        """The present round has ended: what it cost is known."""
        self.record.cost = self._ran / self._asked if self._asked else 0.0
        if not self.asked:
            self._became("idle", Reason.IDLE)

    def forced(self, reason: Reason) -> None:
        """What was to be spared in the present round could not be."""
        self._became("forced", reason)

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
