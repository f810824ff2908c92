"""Run the outer blocks at every step, the middle ones now and then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from .partial import EVERY, PartialBlocks


@dataclass(frozen=True)
class MiddleBlocks(PartialBlocks):
    """Full evaluations once every ``interval`` rounds; in between the middle blocks are reused.

    What the middle blocks add together is kept at full evaluations and added again in between,
    while the outer blocks follow the latent. DeepCache's idea (Ma et al., arXiv 2312.00858, section
    3.2), of reusing the deep part of a U-Net, on the blocks of a transformer.

    Args:
        interval: mean distance between full evaluations in rounds; 1 computes everything.
        outer: share of the blocks that run at every round, half of them at either end.
    """

    name: ClassVar[str] = "middle_blocks"
    title: ClassVar[str] = "Middle blocks"
    decides: ClassVar[str] = (
        "every n-th evaluation in full, only the outer blocks in between; what the middle "
        "blocks add is repeated from the last full evaluation (DeepCache's idea on a "
        "transformer)"
    )
    running: ClassVar[str] = "outer blocks"
    interval: float = field(
        default=2.0,
        metadata={
            **EVERY,
            "help": "Mean distance between full evaluations. In between only the outer blocks run. "
            "1 computes everything; 2 is safe on 20 or more steps.",
        },
    )
    outer: float = field(
        default=0.3,
        metadata={
            "min": 0.0,
            "max": 0.9,
            "step": 0.05,
            "help": "Share of the blocks that run at every step, half of them at either end. "
            "Higher is nearer to the uncached clip and slower. 0.3 is a fair start.",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.outer < 1:
            raise ValueError(f"outer must lie in [0, 1), not {self.outer}")

    def kept(self, count: int) -> Sequence[range]:
        """The middle of ``count`` blocks, which is one place."""
        edge = self.outer / 2
        inside = [k for k in range(count) if edge <= (k + 0.5) / count < 1 - edge]
        return [range(inside[0], inside[-1] + 1)] if inside else []

    @property
    def share(self) -> float:
        return self.outer
