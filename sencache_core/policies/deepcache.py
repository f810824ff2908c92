"""DeepCache's analogue: the shallow blocks at every step, the deep ones at every n-th."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from ..words import Message
from .base import RunInfo
from .partial import EVERY, PartialBlocks


@dataclass(frozen=True)
class DeepCache(PartialBlocks):
    """Steps 0, N, 2N... in full; in between the shallow blocks, on what the deep ones added.

    Source: Ma et al., "DeepCache: Accelerating Diffusion Models for Free" (CVPR 2024, arXiv
    2312.00858), section 3.2, with its uniform schedule. There a U-Net's layers outside of the skip
    connection ``depth - 1`` (``cache_branch_id``) run at every step, and the feature that comes up
    from below is that of the last full one. A transformer's stack has no such connections: here its
    shallow blocks are ``depth`` at either end, and what is kept is what the deep ones between them
    add. :class:`MiddleBlocks` is the same by share of the blocks.

    Their non-uniform schedule is not offered. Published settings are of U-Nets (N 2 to 10 in the
    paper, 3 and ``cache_branch_id`` 0 in the repository's example), and so no presets.

    Args:
        interval: N, which need not be a whole number; 1 computes everything.
        depth: blocks at either end that run at every step.
    """

    name: ClassVar[str] = "deepcache"
    title: ClassVar[str] = "DeepCache (deep blocks now and then)"
    decides: ClassVar[str] = (
        "every n-th evaluation in full, only the first and last blocks in between; what the deep "
        "blocks add is repeated from the last full evaluation (DeepCache, whose own is for U-Nets)"
    )
    running: ClassVar[str] = "shallow blocks"
    opening: ClassVar[float] = 0.0
    interval: float = field(
        default=3.0,
        metadata={
            **EVERY,
            "help": "Distance between full evaluations. In between only the shallow blocks run. 1 "
            "computes everything; the authors' example is 3.",
        },
    )
    depth: int = field(
        default=1,
        metadata={
            "min": 1,
            "max": 30,
            "step": 1,
            "help": "Blocks at the start, and at the end, that run at every step. Higher is nearer "
            "to the uncached clip and slower. 1 is the authors' shallowest.",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 1:
            raise ValueError(f"depth must be at least 1, not {self.depth}")

    def kept(self, count: int) -> Sequence[range]:
        """The deep blocks of ``count``, which are one place; none where all are shallow."""
        return [range(self.depth, count - self.depth)] if 2 * self.depth < count else []

    def misfit(self, run: RunInfo) -> Message | None:
        if run.blocks is not None and not self.kept(run.blocks):
            return Message.of("off.all_blocks_depth", title="DeepCache", count=run.blocks)
        return None

    @property
    def share(self) -> float:
        """Not known without a model's blocks."""
        return 0.0
