"""FasterCache's forecast of attention outputs: part of the way along the last two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .base import Weigh
from .polynomial import MOST_UNDAMPED, Polynomial


@dataclass(frozen=True)
class TwoPoint(Polynomial):
    """``A1 + w (A1 - A2)``: the last output and part of its difference from the one before.

    Dynamic feature reuse of FasterCache (Lv et al., arXiv 2410.19355, section 3.2). The paper has
    ``w`` rise from 0 to 1 as sampling proceeds, whatever the distances of the outputs; its
    repository has 0.3 throughout for CogVideoX. Here it rises along the family's time coordinate.

    Args:
        early, late: ``w`` at time 1 and at time 0.
    """

    name: ClassVar[str] = "two_point"
    gives: ClassVar[str] = (
        "for self-attention: the last output and part of its difference from the one before "
        "(FasterCache)"
    )
    most_weight: ClassVar[float] = MOST_UNDAMPED
    history: int = 2
    early: float = 0.0
    late: float = 1.0

    def _among(self, times: np.ndarray) -> Weigh:
        def weigh(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
            weights = np.zeros((*known.shape[:-1], wanted.shape[-1], known.shape[-1]))
            weights[..., -1] = 1.0
            if known.shape[-1] > 1:
                rise = self.early + (self.late - self.early) * (1 - times[wanted])
                weights[..., -1] += rise
                weights[..., -2] -= rise
            return weights

        return weigh
