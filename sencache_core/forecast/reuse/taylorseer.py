"""TaylorSeer: a Taylor series whose derivatives are finite differences of true outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .stepwise import Stepwise


@dataclass(frozen=True)
class TaylorSeer(Stepwise):
    """``sum over i <= order of f_i k^i / i!``, ``k`` steps after the last true output.

    Source: Liu et al., "From Reusable to Forecastable: Accelerating Diffusion Models with
    TaylorSeers" (arXiv 2503.06923); as in its code for Wan and in diffusers'
    ``TaylorSeerCacheConfig``: ``f_0`` is the last true output and ``f_(i+1)`` is the change of
    ``f_i`` between the last two evaluations over the steps between them, whatever ``i`` is. So it
    is exact on lines; from order 2 on it is no polynomial through the outputs. With fewer of them
    the order is what they allow.

    Unlike the authors': it forecasts what the tap keeps (the model's output is diffusers' lite
    mode), where their code for Wan forecasts every attention and feed-forward output; factors are
    not rounded to bfloat16; a forecast of larger weights than :attr:`most_weight` falls back to a
    lower order, as in the steps after a warm-up of neighbouring ones.

    Args:
        order: largest order. 1 is the authors' for Wan, and diffusers' default.
    """

    name: ClassVar[str] = "taylorseer"
    gives: ClassVar[str] = (
        "a Taylor series over step numbers, its derivatives from the last true outputs; order 1"
        " unless set (TaylorSeer)"
    )
    order: int = 1

    def __post_init__(self) -> None:
        if self.order < 0:
            raise ValueError(f"order must not be negative, as {self.order} is")

    @property
    def history(self) -> int:
        return self.order + 1

    @property
    def exact(self) -> int:
        return min(self.order, 1)

    def terms(self, ahead: np.ndarray) -> list[np.ndarray]:
        """Factor on each of the ``f_i``, from 0 on, ``ahead`` steps after the last output."""
        return [ahead**i / math.factorial(i) for i in range(self.order + 1)]

    def _forecasts(self, times: np.ndarray):
        at = self.places(times)

        def forecasts(known: np.ndarray, fresh: np.ndarray, wanted: np.ndarray) -> np.ndarray:
            given, count = at[known], known.shape[-1]
            unit = np.eye(count)
            newest: list[np.ndarray] = []  # [..., m] weights in each f_i, and whether it is known
            there: list[np.ndarray] = []
            for place in range(count):
                gap = given[..., place] - given[..., place - 1] if place else None
                f = [np.broadcast_to(unit[place], known.shape)]
                ok = [fresh[..., place]]
                for i in range(min(place, self.order)):
                    ok.append(ok[i] & there[i])
                    safe = np.where(ok[-1], gap, 1.0)[..., None]
                    f.append(np.where(ok[-1][..., None], (f[i] - newest[i]) / safe, 0.0))
                newest, there = f, ok
            terms = self.terms(at[wanted] - given[..., -1:])
            return sum(
                term[..., :, None] * factor[..., None, :]
                for term, factor in zip(terms, newest, strict=False)
            )

        return forecasts
