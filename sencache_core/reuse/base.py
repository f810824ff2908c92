"""The one contract of a reuse rule: how a missing output is made from true ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from ..types import Anchor


class ReuseRule(ABC):
    """Predicts the output of a skipped evaluation. Frozen, without state; knows no policy.

    Attributes:
        name: key in ``REUSE_RULES``.
        history: how many true outputs it reads at most.
    """

    name: ClassVar[str]
    history: int

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
