"""What published forecasts share that count in steps rather than in noise."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from ...types import SAME_TIME
from ..moments import Moments
from .base import ReuseRule, Weigh
from .polynomial import MOST_UNDAMPED, lagrange_weights

#: Outputs that an interpolation goes through (ours): a parabola, as ``linear`` has it.
_AROUND = 3


@dataclass(frozen=True)
class Stepwise(ReuseRule):
    """A forecast over step numbers, as most authors' code counts.

    A forecast goes on from known outputs towards less noise. Where outputs are known on both sides,
    as when forecasts are taken back, or only at less noise, no published rule says anything: a
    polynomial through the newest three serves.

    Args:
        rounds: time coordinates of a run's evaluation rounds, set by :meth:`bound`; without them
            the time coordinate itself is counted in.
    """

    most_weight: ClassVar[float] = MOST_UNDAMPED
    rounds: tuple[float, ...] = field(default=(), kw_only=True)

    def bound(self, moments: Moments | None, rounds: Sequence[float] = ()) -> ReuseRule:
        return replace(self, rounds=tuple(rounds))

    @property
    def grid(self) -> np.ndarray:
        """``[n]`` distinct times of :attr:`rounds`, falling."""
        times = np.sort(np.asarray(self.rounds, dtype=np.float64))[::-1]
        return times[np.append(True, -np.diff(times) >= SAME_TIME)] if len(times) else times

    def places(self, times: np.ndarray) -> np.ndarray:
        """Step numbers of ``times``, between those of :attr:`rounds` and beyond them in proportion;
        ``-times`` where no rounds are known."""
        grid = self.grid
        if len(grid) < 2:
            return -times
        at = np.interp(-times, -grid, np.arange(len(grid)))
        first, last = grid[0] - grid[1], grid[-2] - grid[-1]
        before = np.maximum(times - grid[0], 0) / first
        return at - before + np.maximum(grid[-1] - times, 0) / last

    def _among(self, times: np.ndarray) -> Weigh:
        times = np.asarray(times, dtype=np.float64)
        forecasts = self._forecasts(times)

        def weigh(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
            count, given = known.shape[-1], times[known]
            later = np.triu(np.ones((count, count), dtype=bool), 1)
            same = np.abs(given[..., :, None] - given[..., None, :]) < SAME_TIME
            fresh = ~(same & later).any(axis=-1)
            order = np.argsort(np.where(fresh, -given, -np.inf), axis=-1, kind="stable")
            sorted_, fresh = (np.take_along_axis(a, order, axis=-1) for a in (known, fresh))
            back = np.argsort(order, axis=-1)[..., None, :]
            weights = np.take_along_axis(forecasts(sorted_, fresh, wanted), back, axis=-1)
            ahead = times[wanted] < given.min(axis=-1, keepdims=True) - SAME_TIME
            if ahead.all():
                return weights
            around = np.zeros_like(weights)
            around[..., -_AROUND:] = lagrange_weights(times[wanted], given[..., None, -_AROUND:])
            return np.where(ahead[..., None], weights, around)

        return weigh

    @abstractmethod
    def _forecasts(self, times: np.ndarray):
        """``forecasts(known, fresh, wanted)``: weights ``[..., K, m]`` of the outputs at the places
        ``known`` ``[..., m]`` of ``times``, which fall but for those that are not ``fresh``: these
        stand first, and have none. Of ``wanted`` ``[..., K]`` only those below count.
        """
