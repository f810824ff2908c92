"""What scores share that add up from round to round: TeaCache's, SeaCache's, EasyCache's."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..types import OUTPUT, STACK, Step
from .base import RunInfo
from .threshold import RATIO_MEMORY, Threshold

#: Of a field ``place`` that says what is kept.
PLACE = {
    "choices": (STACK.tap, OUTPUT.tap),
    "help": "What is kept for reuse. stack: the change over the block stack, as the authors do. "
    "output: the model's output, a small part of the memory.",
}


@dataclass
class Accumulated:
    """Run state of :class:`Accumulating`.

    Attributes:
        run: what is known of the run.
        t: time coordinate of the round before.
        total: score since the last true evaluation.
        rate: what is added to it per unit of time, averaged over the run so far.
    """

    run: RunInfo
    t: float = 0.0
    total: float = 0.0
    rate: float = 0.0

    def added(self, grown: float, passed: float) -> None:
        """Take note of what a round has added in ``passed`` units of time."""
        if passed:
            rate = grown / passed
            self.rate += (RATIO_MEMORY if self.rate else 1.0) * (rate - self.rate)


class Accumulating(Threshold):
    """A policy whose score adds up from round to round, reused or not, until an evaluation.

    Attributes:
        threshold: largest score; 0 computes everything.
    """

    learns: ClassVar[bool] = True
    threshold: float

    @abstractmethod
    def grown(self, step: Step, last: Step, state: Any) -> float:
        """What the round adds; ``inf``: nothing is known. ``step`` becomes the round before."""

    def score(self, step: Step, last: Step, state: Any) -> float:
        state.total += self.grown(step, last, state)
        return state.total

    def expected(self, last_t: float, t: float, state: Any) -> float:
        return (state.rate or 1.0) * abs(t - last_t)

    def limit(self, share: float) -> float:
        return self.threshold

    def with_tolerance(self, tolerance: float) -> Accumulating:
        return replace(self, threshold=tolerance)
