"""Block Caching: reuse every layer until its own change has added up to a limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ..forecast.reuse import ReuseRule, ScaleShift
from .base import RunInfo
from .layered import WHERE_HELP, Changes, Reused, Work


@dataclass(frozen=True)
class BlockCaching(Changes):
    """Each layer is reused while the sum of its changes since it ran is at most ``delta``.

    Source: Wimbauer et al., "Cache Me if You Can: Accelerating Diffusion Models through Block
    Caching" (CVPR 2024, arXiv 2312.03209), equation 7: a value computed at ``t_a`` serves up to the
    first step at which the sum of the relative L1 changes from step to step, mean over uncached
    runs, exceeds ``delta``, 0.5 on its latent diffusion U-Net of 512. What is cached there are the
    transformer blocks of a U-Net with everything in them; here it is every layer of a block by
    itself, each on a schedule of its own.

    Ours, in place of the scale and shift that the paper trains for each channel (15 thousand
    iterations on 8 GPUs): least squares in closed form for each layer and pair of steps, on the
    same uncached runs, see ``ScaleShift``.

    Args:
        threshold: ``delta``; 0 computes everything.
        adjust: whether what is reused is scaled and shifted.
        where: which kinds of layers.
    """

    name: ClassVar[str] = "block_caching"
    title: ClassVar[str] = "Block Caching (layers)"
    decides: ClassVar[str] = (
        "for every layer of every block by itself, how far its changes from step to step have "
        "added up since it ran, as measured; what is reused is scaled and shifted as outputs were "
        "measured to change (Block Caching, with least squares in place of its training). It keeps "
        "an output of every layer, a great deal of memory"
    )
    threshold: float = field(
        default=0.5,
        metadata={
            "strictest": 0.0,
            "loose": 2.0,
            "min": 0.0,
            "max": 20.0,
            "step": 0.05,
            "help": "Largest sum of a layer's relative changes since it ran. Higher reuses more. 0 "
            "computes everything; the authors' is 0.5.",
        },
    )
    adjust: bool = field(
        default=True,
        metadata={
            "help": "Scale and shift what is reused, as the layer's outputs were measured to do.",
        },
    )
    where: str = field(default="all", metadata=WHERE_HELP)

    def rules_in(self, run: RunInfo) -> Mapping[str, ReuseRule]:
        return {self.tap: ScaleShift(curves=run.layers)} if self.adjust else self.rules

    def measured(self, run: RunInfo, work: Work) -> Mapping[str, np.ndarray]:
        """By kind ``[depth, rounds - 1]``: change of each round since the one before."""
        return {kind: changes[0] for kind, changes in self.changes(run, work).items()}

    def schedule(self, measured, work: Work, forced: Sequence[bool]) -> Reused:
        found = {}
        for kind, changes in measured.items():
            table, total = np.zeros((work.depth, len(forced)), dtype=bool), np.zeros(work.depth)
            for number in range(1, len(forced)):
                total = total + changes[:, number - 1]
                within = (total <= self.threshold) & (self.threshold > 0) & (not forced[number])
                table[:, number], total = within, np.where(within, total, 0.0)
            found[kind] = table
        return found
