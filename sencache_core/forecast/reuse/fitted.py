"""The forecast that the model's own measured moments ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ..moments import Moments, fitted_weights
from .base import ReuseRule, Weigh
from .polynomial import MOST_UNDAMPED, Hold, Polynomial

#: Largest sum of absolute weights of a forecast that measured moments damp (ours; docs/theory.md,
#: section 2): above all that they ask for on the bundled models, 8.
MOST_DAMPED = 20.0


@dataclass(frozen=True)
class Fitted(Polynomial):
    """Affine forecast of least mean square error over the last two true outputs.

    Between holding and the straight line, and beyond either, as measured: on fine schedules it is
    the line, on coarse ones nearly a hold (see :func:`..moments.fitted_weights`). Without moments
    it is the line.
    """

    name: ClassVar[str] = "fitted"
    gives: ClassVar[str] = (
        "the last two true outputs, weighed as the profile or the bundled prior has measured "
        "it: between repeating the last one and the line through both"
    )
    history: int = 2
    moments: Moments | None = None

    @property
    def most_weight(self) -> float:
        return MOST_UNDAMPED if self.moments is None else MOST_DAMPED

    def bound(self, moments: Moments | None, rounds: Sequence[float] = ()) -> ReuseRule:
        return replace(self, moments=moments)

    def in_noise(self) -> ReuseRule:
        """What the noise moves, moments of outputs without it do not know: the last is held."""
        return Hold()

    def _among(self, times: np.ndarray) -> Weigh:
        if self.moments is None:
            return super()._among(times)
        gram = self.moments.mean_at(times)
        return lambda known, wanted: fitted_weights(gram, known, wanted)
