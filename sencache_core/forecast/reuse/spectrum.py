"""Spectrum: Chebyshev polynomials fitted to all true outputs of a run by ridge regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.polynomial.chebyshev import chebvander

from .stepwise import Stepwise

#: Added to the diagonal of the normal equations before they are solved (repository).
_JITTER = 1e-6


@dataclass(frozen=True)
class Spectrum(Stepwise):
    """``w`` times a ridge fit of Chebyshev polynomials ``T_0 .. T_4``, the rest a line.

    Source: "Spectrum" (CVPR 2026, arXiv 2603.01623); constants of its repository for Wan. Each
    entry of the outputs is fitted over ``tau = 2 k / n - 1``, step ``k`` of ``n`` (there of 50,
    however many there are). The coefficients follow from one small matrix, and so do the weights of
    the outputs in a forecast.

    Unlike the authors': the ridge draws the outputs to the newest one, not to 0, so that a model
    which stands still is forecast as it is, and weights sum to 1: what their weights lack in 1 is
    added to the newest. Coefficients are not rounded to bfloat16. Until there are as many outputs
    as coefficients (their warm-up makes sure of it), the line alone is taken. It forecasts what the
    tap keeps; they keep the last block's feature.

    Args:
        degree: of the polynomials.
        ridge: added to the diagonal of the normal equations.
        blend: ``w``, share of the fit in a forecast: 0.5 in their script, 1 in the paper.
        history: outputs that are fitted at most. Theirs is 100; 16 hold all that a run of 50 steps
            has at the published settings (14 and 10), and keep plans quick.
    """

    name: ClassVar[str] = "spectrum"
    gives: ClassVar[str] = (
        "Chebyshev polynomials fitted to up to 16 true outputs, and a line, half each (Spectrum)"
    )
    exact: ClassVar[int] = 0
    history: int = 16
    degree: int = 4
    ridge: float = 0.1
    blend: float = 0.5

    def __post_init__(self) -> None:
        if self.history < 2 or self.degree < 1:
            raise ValueError("a fit needs a history of at least 2 and a degree of at least 1")
        if self.ridge < 0 or not 0 <= self.blend <= 1:
            raise ValueError("need ridge >= 0 and blend in 0..1")

    def _forecasts(self, times: np.ndarray):
        at = self.places(times)
        # Without rounds: time falls from 1 to 0.
        tau = 2 * at / len(self.grid) - 1 if len(self.grid) > 1 else 2 * at + 1

        def forecasts(known: np.ndarray, fresh: np.ndarray, wanted: np.ndarray) -> np.ndarray:
            line = np.zeros((*wanted.shape, known.shape[-1]))
            line[..., -1] = 1.0
            if known.shape[-1] == 1:
                return line
            gap = at[known[..., -1]] - at[known[..., -2]]
            slope = (at[wanted] - at[known[..., -1:]]) / np.where(fresh[..., -2], gap, 1)[..., None]
            slope = np.where(fresh[..., -2:-1], slope, 0.0)
            line[..., -1] += slope
            line[..., -2] -= slope
            seen = chebvander(tau[known], self.degree) * fresh[..., None]  # [..., m, degree + 1]
            normal = np.swapaxes(seen, -1, -2) @ seen
            normal = normal + (self.ridge + _JITTER) * np.eye(self.degree + 1)
            fit = chebvander(tau[wanted], self.degree) @ np.linalg.solve(
                normal, np.swapaxes(seen, -1, -2)
            )
            fit[..., -1] += 1 - fit.sum(axis=-1)
            enough = (fresh.sum(axis=-1) > self.degree)[..., None, None]
            return np.where(enough, self.blend * fit + (1 - self.blend) * line, line)

        return forecasts
