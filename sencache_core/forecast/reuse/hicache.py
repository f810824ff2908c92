"""HiCache: TaylorSeer's finite differences in a basis of scaled Hermite polynomials."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .taylorseer import TaylorSeer


@dataclass(frozen=True)
class HiCache(TaylorSeer):
    """``f_0 + sum over 1 <= i <= order of f_i s^i H_i(s k) / i!``, ``k`` steps after an evaluation.

    Source: "HiCache" (arXiv 2508.16984), a scaled Hermite basis in place of Taylor's; ``f_i`` as in
    :class:`TaylorSeer`, ``H_i`` the physicists' Hermite polynomials. At order 1 it is a line whose
    slope is multiplied by ``2 s^2``: half of it at the authors' ``s``, all of it at
    ``sqrt(1 / 2)``. At order 2 it does not go through the last output: its term is
    ``f_2 (k^2 - 2) / 8`` there.

    Unlike the authors': as :class:`TaylorSeer`; and where no steps are known to count in, order 1,
    whose result alone does not depend on what a step is.

    Args:
        order: largest order. 1 is what the only public code for Wan takes (that of RA-CFGCache).
        scale: ``s``, 0.5 in the paper.
    """

    name: ClassVar[str] = "hicache"
    gives: ClassVar[str] = (
        "the same in scaled Hermite polynomials: at order 1 half of the slope (HiCache)"
    )
    scale: float = 0.5

    @property
    def exact(self) -> int:
        """Of lines the slope is damped."""
        return min(self.order, 1) if 2 * self.scale**2 == 1 else 0

    def terms(self, ahead: np.ndarray) -> list[np.ndarray]:
        x, before, hermite = self.scale * ahead, np.zeros_like(ahead), np.ones_like(ahead)
        out = [hermite]
        for i in range(1, (self.order if self.rounds else min(self.order, 1)) + 1):
            before, hermite = hermite, 2 * x * hermite - 2 * (i - 1) * before
            out.append(self.scale**i * hermite / math.factorial(i))
        return out
