"""FasterCache's forecast of a guidance pair's difference, in two bands of spatial frequency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...types import Anchor
from .polynomial import Hold

#: Radius of the low band over the shorter side of a frame (FasterCache, repository).
LOW_RADIUS = 0.2


@dataclass(frozen=True)
class TwoBands(Hold):
    """The last difference, its low frequencies weighed up early and its high ones late.

    CFG-Cache of FasterCache (Lv et al., arXiv 2410.19355, section 3.3; factors and steps of its
    repository for CogVideoX at 50 steps, where steps 40 and 30 lie at these times). Its code lets a
    factor compound over the steps in a row that it rebuilds; here it counts once, as in the paper.

    Args:
        low, high: factors of the bands.
        low_until: time coordinate down to which ``low`` holds.
        high_from: time coordinate from which on ``high`` holds.
    """

    name: ClassVar[str] = "two_bands"
    gives: ClassVar[str] = (
        "for differences of guidance pairs: the last one, low frequencies weighed up early, "
        "high ones late (FasterCache)"
    )
    low: float = 1.1
    high: float = 1.1
    low_until: float = 0.36
    high_from: float = 0.59

    def predict(self, t: float, anchors: Sequence[Anchor]) -> Tensor:
        """As for ``ReuseRule``; frames are the last two dimensions of ``[B, ..., H, W]``.

        A payload without frames (tokens ``[B, N, C]``) has no bands and is held.
        """
        gap = anchors[-1].y
        if gap.ndim < 4:
            return gap.clone()
        low = self.low if t >= self.low_until else 1.0
        high = self.high if t <= self.high_from else 1.0
        if low == high:
            return gap * low
        slow = low_pass(gap.float())
        return (low * slow + high * (gap.float() - slow)).to(gap.dtype)


def low_pass(y: Tensor) -> Tensor:
    """The low band of frames ``[..., H, W]`` float32: a disc of :data:`LOW_RADIUS` around 0."""
    height, width = y.shape[-2:]
    rows = torch.fft.fftfreq(height, 1 / height, device=y.device)
    columns = torch.fft.rfftfreq(width, 1 / width, device=y.device)
    inside = rows[:, None] ** 2 + columns**2 <= (LOW_RADIUS * min(height, width)) ** 2
    return torch.fft.irfft2(torch.fft.rfft2(y) * inside, s=(height, width))
