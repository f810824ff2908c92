"""Hold what the model makes of its latent: its output less what it was fed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .polynomial import Hold


@dataclass(frozen=True)
class HoldChange(Hold):
    """``v = x + (v_c - x_c)``: the last output, moved on with the latent.

    The payload of EasyCache (Zhou et al., arXiv 2507.02860) and ERTACache (arXiv 2508.21091).
    """

    name: ClassVar[str] = "hold_change"
    gives: ClassVar[str] = (
        "the last output, moved on by what the latent has changed since (EasyCache)"
    )
    reads_x: ClassVar[bool] = True
