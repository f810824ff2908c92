"""Hold, linear and quadratic forecasts: one polynomial through the last true outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...types import Anchor
from .base import ReuseRule


def lagrange_weights(t: float, times: Sequence[float]) -> list[float]:
    """Weights with which a polynomial through points at ``times`` takes its value at ``t``.

    Lagrange's form of the divided-difference (Newton) extrapolation: exact for polynomials of
    degree ``len(times) - 1`` at any spacing. The weights sum to 1.

    Raises:
        ZeroDivisionError: two of ``times`` are equal.
    """
    weights = []
    for j, own in enumerate(times):
        weight = 1.0
        for k, other in enumerate(times):
            if k != j:
                weight *= (t - other) / (own - other)
        weights.append(weight)
    return weights


@dataclass(frozen=True)
class Polynomial(ReuseRule):
    """Polynomial of degree ``history - 1`` in the family's time coordinate, summed in float32."""

    history: int = 1

    def weights(self, times: Sequence[float], t: float) -> list[float]:
        return lagrange_weights(t, times)

    def predict(self, t: float, anchors: Sequence[Anchor]) -> Tensor:
        used = anchors[-self.history :]
        if len(used) == 1:
            return used[0].y.clone()
        total = None
        for weight, anchor in zip(self.weights([a.t for a in used], t), used, strict=True):
            part = anchor.y.to(torch.float32)
            total = part * weight if total is None else total.add_(part, alpha=weight)
        return total.to(used[-1].y.dtype)


@dataclass(frozen=True)
class Hold(Polynomial):
    """Return the last true output as it is: what the paper and most of its field do."""

    name: ClassVar[str] = "hold"
    history: int = 1


@dataclass(frozen=True)
class Linear(Polynomial):
    """Line through the last two true outputs; see ``planned-linear`` in benchmarks/RESULTS.md."""

    name: ClassVar[str] = "linear"
    history: int = 2


@dataclass(frozen=True)
class Quadratic(Polynomial):
    """Parabola through the last three true outputs: better on fine schedules, worse on coarse."""

    name: ClassVar[str] = "quadratic"
    history: int = 3
