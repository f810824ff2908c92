"""How the layers of a model change along an uncached run: what policies of layers decide by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class LayerCurve:
    """Of the layers of one kind, by block, in ascending time. ``K`` are the lags measured.

    At ``[:, k, n]`` the output at the time ``n`` is compared with the one ``k + 1`` steps before it
    (times fall as sampling goes, so that is the time ``n + k + 1``); where there is none, it is 0.

    Attributes:
        change: ``[depth, K, T]`` L1 norm of their difference over that of the later one (the
            relative L1 of SmoothCache and Block Caching).
        inner: ``[depth, K, T]`` mean product of their entries.
        square: ``[depth, T]`` mean square of the entries.
        mean: ``[depth, T]`` mean of the entries.
    """

    change: np.ndarray
    inner: np.ndarray
    square: np.ndarray
    mean: np.ndarray

    @property
    def depth(self) -> int:
        """Blocks."""
        return len(self.square)

    def of(self, blocks: Sequence[int]) -> LayerCurve:
        """The same of these blocks."""
        rows = list(blocks)
        return LayerCurve(*(part[rows] for part in vars(self).values()))


@dataclass(frozen=True, eq=False)
class LayerCurves:
    """Curves by kind of layer.

    Attributes:
        t: ``[T]`` time coordinates, strictly rising.
        kinds: curves by kind: self-attention, cross-attention, feed-forward.
    """

    t: np.ndarray
    kinds: Mapping[str, LayerCurve]

    def at_depth(self, depth: int) -> LayerCurves:
        """For a model of ``depth`` blocks: those of the blocks whose middles lie where its do."""
        kinds = {
            kind: curve.of([int((k + 0.5) / depth * curve.depth) for k in range(depth)])
            for kind, curve in self.kinds.items()
        }
        return LayerCurves(self.t, kinds)

    def block(self, kind: str, number: int, depth: int) -> LayerCurves | None:
        """Of one layer of a model of ``depth`` blocks alone; ``None``: it was not measured."""
        curve = self.kinds.get(kind)
        if curve is None:
            return None
        return LayerCurves(self.t, {kind: curve.of([int((number + 0.5) / depth * curve.depth)])})

    def change(self, kind: str, before: float, t: float) -> np.ndarray:
        """``[depth]``: relative L1 between outputs at the times ``before`` and ``t``; ``inf`` where
        they lie further apart than was measured.
        """
        curve = self.kinds[kind]
        return self._between(curve.change, np.zeros_like(curve.square), before, t, np.inf)

    def inner(self, kind: str, before: float, t: float) -> np.ndarray:
        """``[depth]``: mean product of outputs at two times; ``nan`` where it was not measured."""
        curve = self.kinds[kind]
        return self._between(curve.inner, curve.square, before, t, np.nan)

    def mean(self, kind: str, t: float) -> np.ndarray:
        """``[depth]``: mean of the outputs at a time."""
        place = np.clip(self._place(t), 0, len(self.t) - 1)
        return _along(self.kinds[kind].mean, place)

    def _place(self, t: float) -> float:
        """Where ``t`` lies among the measured times, counted on evenly beyond them."""
        if len(self.t) == 1:
            return 0.0
        above = int(np.clip(np.searchsorted(self.t, t), 1, len(self.t) - 1))
        low, high = self.t[above - 1], self.t[above]
        return above - 1 + (t - low) / (high - low)

    def _between(
        self, pairs: np.ndarray, same: np.ndarray, before: float, t: float, unknown: float
    ) -> np.ndarray:
        """``[depth]`` of ``pairs [depth, K, T]``, linear in time and in distance; those of an
        output with itself are ``same [depth, T]``.
        """
        here = self._place(t)
        lag = self._place(before) - here
        below = int(np.floor(lag + 1e-9))
        share = max(lag - below, 0.0)
        if lag < -1e-9 or below + (share > 1e-9) > min(pairs.shape[1], len(self.t) - 1):
            return np.full(len(same), unknown)

        def at(steps: int) -> np.ndarray:
            rows = pairs[:, steps - 1] if steps else same
            return _along(rows, np.clip(here, 0, len(self.t) - 1 - steps))

        return at(below) if share <= 1e-9 else (1 - share) * at(below) + share * at(below + 1)


def _along(rows: np.ndarray, place: float) -> np.ndarray:
    """``rows [depth, T]`` at a place between two of their entries."""
    low = int(place)
    share = place - low
    return rows[:, low] if share <= 1e-9 else (1 - share) * rows[:, low] + share * rows[:, low + 1]
