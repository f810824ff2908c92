"""The forecast that the model's own measured moments ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ..moments import Moments, fitted_weights
from .base import ReuseRule
from .polynomial import Polynomial, lagrange_weights


@dataclass(frozen=True)
class Fitted(Polynomial):
    """Affine forecast of least mean square error over the last two true outputs.

    Between holding and the straight line, and beyond either, as measured: on fine schedules it is
    the line, on coarse ones nearly a hold (see :func:`..moments.fitted_weights`). Without moments
    it is the line.
    """

    name: ClassVar[str] = "fitted"
    history: int = 2
    moments: Moments | None = None

    def bound(self, moments: Moments | None) -> ReuseRule:
        return replace(self, moments=moments)

    def weights(self, times: Sequence[float], t: float) -> list[float]:
        if self.moments is None or len(times) == 1:
            return lagrange_weights(t, times)
        gram = self.moments.mean_at([*times, t])
        rows = np.arange(len(times))
        return fitted_weights(gram, rows, np.array(len(times))).tolist()
