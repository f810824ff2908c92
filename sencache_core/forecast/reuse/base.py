"""The one contract of a reuse rule: how a missing output is made from true ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...types import Anchor, Site
from ..moments import Moments

#: ``weigh(known, wanted)``: weights ``[..., K, m]`` of the outputs at the places ``known``
#: ``[..., m]``, the newest last, for those at the places ``wanted`` ``[..., K]``.
Weigh = Callable[[np.ndarray, np.ndarray], np.ndarray]


class ReuseRule(ABC):
    """Predicts the output of a skipped evaluation. Frozen, without state; knows no policy.

    Attributes:
        name: key in ``REUSE_RULES``.
        gives: what a skipped step is given, for tables.
        history: how many true outputs it reads at most.
        exact: degree of the polynomials, in the coordinate that it counts in, that ``history``
            outputs are enough for it to continue exactly.
        most_weight: largest sum of absolute weights of a forecast, by which whatever is not as the
            rule takes it to be is magnified; twice that for an interpolation. Beyond it the oldest
            output is left out, until at last the newest is held.
        reads_x: whether what it forecasts is the output less the latent that it was computed at,
            as the model was fed it; the latent at hand is added again. Output tap only.
    """

    name: ClassVar[str]
    gives: ClassVar[str]
    history: int
    exact: int
    most_weight: float
    reads_x: ClassVar[bool] = False

    def bound(self, moments: Moments | None, rounds: Sequence[float] = ()) -> ReuseRule:
        """This rule for one run. Most rules are the same for all.

        Args:
            moments: of the model.
            rounds: time coordinates of the expected evaluation rounds, in order; none if unknown.
        """
        return self

    def at(self, site: Site) -> ReuseRule:
        """This rule at one place of the model. Most rules are the same at all."""
        return self

    def in_noise(self) -> ReuseRule:
        """This rule for a run whose sampler draws noise as it goes. Most rules are the same."""
        return self

    def weights(self, times: Sequence[float], t: float) -> list[float]:
        """Weights, which sum to 1, of outputs known at ``times`` for the output at ``t``.

        Args:
            times: where outputs are known, the newest last; on one side of ``t`` for a forecast, on
                both for an interpolation. Of outputs at one time only the newest counts.
            t: where the output is wanted.
        """
        known = np.arange(len(times))
        return self.among([*times, t])(known, known[-1:] + 1)[0].tolist()

    def weights_over(
        self, times: Sequence[float], points: Sequence[float], shares: Sequence[float]
    ) -> list[float]:
        """Weights of outputs known at ``times`` in a weighted sum of the outputs at ``points``.

        Args:
            times: where outputs are known, the newest last, as in :meth:`weights`.
            points: where outputs are wanted.
            shares: weight of each of them.
        """
        known = np.arange(len(times))
        rows = self.among([*times, *points])(known, len(times) + np.arange(len(points)))
        return (np.asarray(shares) @ rows).tolist()

    def among(self, times: Sequence[float]) -> Weigh:
        """:meth:`weights` among outputs at ``times`` ``[n]``, for many forecasts at once.

        A place that is listed twice in ``known`` counts once.
        """
        at, weigh = np.asarray(times, dtype=np.float64), self._among(np.asarray(times))

        def bounded(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
            weights, given, t = weigh(known, wanted), at[known][..., None, :], at[wanted]
            ahead = (t < given.min(axis=-1)) | (t > given.max(axis=-1))
            most = np.where(ahead, 1, 2) * self.most_weight
            wild = np.abs(weights).sum(axis=-1) > most
            if wild.any():
                weights[wild] = 0.0
                weights[..., 1:][wild] = bounded(known[..., 1:], wanted)[wild]
            return weights

        return bounded

    @abstractmethod
    def _among(self, times: np.ndarray) -> Weigh:
        """:meth:`among`, without the bound on forecasts; its result is written to."""

    def predict(self, t: float, anchors: Sequence[Anchor]) -> Tensor:
        """Forecast at time coordinate ``t``, summed in float32.

        Args:
            t: where the output is wanted.
            anchors: true outputs of one branch, oldest first, at least one and at most
                ``history``, no two at the same ``t``. With fewer than ``history`` of them the rule
                falls back to what they allow.

        Returns:
            A new tensor of the anchors' shape and dtype, which shares memory with none of them.
        """
        used = anchors[-self.history :]
        if len(used) == 1:
            return used[0].y.clone()
        total = None
        for weight, anchor in zip(self.weights([a.t for a in used], t), used, strict=True):
            part = anchor.y.to(torch.float32)
            total = part * weight if total is None else total.add_(part, alpha=weight)
        return total.to(used[-1].y.dtype)
