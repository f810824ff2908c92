"""Hold, linear and quadratic forecasts: one polynomial through the last true outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...types import SAME_TIME
from .base import ReuseRule, Weigh


def lagrange_weights(t: np.ndarray | float, times: np.ndarray | Sequence[float]) -> np.ndarray:
    """Weights with which a polynomial through points at ``times`` takes its value at ``t``.

    Lagrange's form of the divided-difference (Newton) extrapolation: exact for polynomials of
    degree ``len(times) - 1`` at any spacing. The weights sum to 1. Of several points at one time
    the last counts, and the degree falls by one for each of the others.

    Args:
        t: ``[...]`` where the value is wanted.
        times: ``[..., m]`` of the points.

    Returns:
        ``[..., m]`` float64.
    """
    times = np.asarray(times, dtype=np.float64)
    gaps = times[..., :, None] - times[..., None, :]
    same = np.abs(gaps) < SAME_TIME
    count = times.shape[-1]
    stale = (same & np.triu(np.ones((count, count), dtype=bool), 1)).any(axis=-1)
    passed = same | stale[..., None, :]  # no factor from a point itself, or from one that is stale
    factors = (np.asarray(t)[..., None] - times)[..., None, :] / np.where(passed, 1.0, gaps)
    return np.where(stale, 0.0, np.where(passed, 1.0, factors).prod(axis=-1))


#: Largest sum of absolute weights of a forecast that nothing damps (ours; docs/theory.md, section
#: 2): a line may go on for little more than twice the way between the outputs it goes through.
MOST_UNDAMPED = 5.5


@dataclass(frozen=True)
class Polynomial(ReuseRule):
    """Polynomial of degree ``history - 1`` in the family's time coordinate."""

    most_weight: ClassVar[float] = MOST_UNDAMPED
    history: int = 1

    @property
    def exact(self) -> int:
        return self.history - 1

    def _among(self, times: np.ndarray) -> Weigh:
        return lambda known, wanted: lagrange_weights(times[wanted], times[known][..., None, :])


@dataclass(frozen=True)
class Hold(Polynomial):
    """Return the last true output as it is: what the paper and most of its field do."""

    name: ClassVar[str] = "hold"
    gives: ClassVar[str] = "the last true output; the paper's rule"
    history: int = 1


@dataclass(frozen=True)
class Linear(Polynomial):
    """Line through the last two true outputs; see ``planned-linear`` in benchmarks/RESULTS.md."""

    name: ClassVar[str] = "linear"
    gives: ClassVar[str] = "the line through the last two, in the model family's time coordinate"
    history: int = 2


@dataclass(frozen=True)
class Quadratic(Polynomial):
    """Parabola through the last three true outputs: better on fine schedules, worse on coarse."""

    name: ClassVar[str] = "quadratic"
    gives: ClassVar[str] = (
        "a parabola through the last three; for fine schedules of 40 or more steps"
    )
    history: int = 3
