"""The one contract of a reuse rule: how a missing output is made from true ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from ...types import Anchor
from ..moments import Moments


class ReuseRule(ABC):
    """Predicts the output of a skipped evaluation. Frozen, without state; knows no policy.

    Attributes:
        name: key in ``REUSE_RULES``.
        history: how many true outputs it reads at most.
    """

    name: ClassVar[str]
    history: int

    def bound(self, moments: Moments | None) -> ReuseRule:
        """This rule for one run of a model with these moments. Most rules need none."""
        return self

    @abstractmethod
    def weights(self, times: Sequence[float], t: float) -> list[float]:
        """Weights, which sum to 1, of outputs known at ``times`` for the output at ``t``.

        Args:
            times: where outputs are known, the newest last, no two equal; on one side of ``t`` for
                a forecast, on both for an interpolation.
            t: where the output is wanted.
        """

    @abstractmethod
    def predict(self, t: float, anchors: Sequence[Anchor]) -> Tensor:
        """Forecast at time coordinate ``t``.

        Args:
            t: where the output is wanted.
            anchors: true outputs of one branch, oldest first, at least one and at most
                ``history``, no two at the same ``t``. With fewer than ``history`` of them the rule
                falls back to what they allow.

        Returns:
            A new tensor of the anchors' shape and dtype, which shares memory with none of them.
        """
