"""MeanCache: the last output, corrected by how the mean velocity differs from one before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .stepwise import Stepwise


@dataclass(frozen=True)
class MeanCache(Stepwise):
    """``v[last] - J (t_next - t)``, ``J = (v[i] - u) / (t - t_i)``, ``u`` the mean from i to now.

    Source: "MeanCache" (ICLR 2026, arXiv 2601.19961) and its repository: an average velocity
    instead of a momentary one, without a Jacobian product. ``i`` lies ``span`` steps back, ``last``
    is the step before, and either may be a forecast: these are part of what is gone on from.
    ``u = (x - x_i) / (t - t_i)`` is read off the latent there. With Euler's steps that is the mean
    of the outputs handed out since, weighted by step, which is what is taken here: so a forecast is
    a weighted sum of true outputs. It is a line of a quarter to half the slope, and so none is
    exact.

    Unlike the authors': each branch for itself instead of the guided output (the same, as weights
    are shared); forecasts from before the oldest output that is kept are left out; samplers of
    higher order move the latent a little differently from what is summed here. For models that do
    not predict a flow, the family's time coordinate takes the place of the noise level. The span is
    the same at every step, where theirs is looked up along a searched schedule. Where no rounds are
    known, nothing is taken to lie between the outputs.

    Args:
        span: steps that the mean goes back: 5 in most steps of the schedules searched for Wan (1 to
            5 in the repository).
    """

    name: ClassVar[str] = "meancache"
    gives: ClassVar[str] = (
        "the output before, moved by how the mean output over the last 5 steps differs from "
        "that before them (MeanCache)"
    )
    exact: ClassVar[int] = 0
    span: int = 5

    def __post_init__(self) -> None:
        if self.span < 1:
            raise ValueError(f"span must be at least 1, not {self.span}")

    @property
    def history(self) -> int:
        return self.span

    def _forecasts(self, times: np.ndarray):
        grid = self.grid if self.rounds else np.unique(times)[::-1]
        ends = np.append(grid[1:], 2 * grid[-1] - grid[-2] if len(grid) > 1 else grid[-1])
        steps, middles = ends - grid, (grid[1:] + grid[:-1]) / 2
        at = np.searchsorted(-middles, -times)  # the nearest round

        def forecasts(known: np.ndarray, fresh: np.ndarray, wanted: np.ndarray) -> np.ndarray:
            shape, count = (*wanted.shape, known.shape[-1]), known.shape[-1]
            places = np.where(fresh, at[known], -1).reshape(-1, count)
            asked = at[wanted].reshape(len(places), -1)
            rows, unit = np.arange(len(places)), np.eye(count)
            start = np.where(places < 0, len(grid), places).min(axis=-1)
            # Weights of the known outputs in what each round hands out, and in the way gone before.
            v = np.zeros((len(places), len(grid), count))
            gone = np.zeros((len(places), len(grid) + 1, count))
            for k in range(start.min(), asked.max() + 1):
                first = np.minimum(np.maximum(k - self.span, start), k - 1)
                way = np.where(start < k, grid[k] - grid[first], 1.0)[:, None]
                mean = (gone[:, k] - gone[rows, first]) / way
                v[:, k] = v[:, k - 1] - (v[rows, first] - mean) / way * steps[k]
                hit = places == k
                true = hit.any(axis=-1)
                v[true, k] = unit[count - 1 - hit[true, ::-1].argmax(axis=-1)]
                v[start > k, k] = 0.0
                gone[:, k + 1] = gone[:, k] + v[:, k] * steps[k]
            return v[rows[:, None], asked].reshape(shape)

        return forecasts
