"""SmoothCache: reuse all layers of a kind for as long as such layers hardly change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from .base import RunInfo
from .layered import WHERE_HELP, Changes, Reused, Work

#: Steps that the origin looks ahead.
LOOKAHEAD = 3


def scanned(rows: Sequence[Sequence[float]], threshold: float, rounds: int) -> list[bool]:
    """The origin's scan: whether layers of one kind are reused, by round.

    Where entry ``i`` of ``rows[k]`` is within the threshold, round ``i`` is computed and the next
    ``k + 1`` are reused; larger ``k`` come first. The first and last round are computed.

    Args:
        rows: entry ``i`` of row ``k`` is the error between the outputs of the rounds ``i`` and
            ``i + k + 1``.
        threshold: alpha.
        rounds: of the run.
    """
    reused, number = [False] * rounds, 0
    while number < rounds:
        ahead = 0
        for lag in range(len(rows), 0, -1):
            row = rows[lag - 1]
            if number < len(row) and row[number] <= threshold:
                ahead = lag
                break
        for later in range(number + 1, min(number + ahead + 1, rounds)):
            reused[later] = True
        number += ahead + 1
    if rounds:
        reused[0] = reused[-1] = False
    return reused


@dataclass(frozen=True)
class SmoothCache(Changes):
    """A static schedule for each kind of layer, by the change of such layers on uncached runs.

    Source: Liu et al., "SmoothCache: A Universal Inference Acceleration Technique for Diffusion
    Transformers" (arXiv 2411.10510). Layers of one kind are reused together, over up to three steps
    ahead for as long as the relative L1 change between their outputs, mean over blocks and
    calibration samples, is at most ``alpha``: :func:`scanned`, as in the authors' calibration
    helper. Their operating points are of other models: DiT-XL 0.08 and 0.18 on 50 steps, Open-Sora
    0.35 on 30.

    Unlike theirs, which counts calls of the module: rounds are counted, the change is that of the
    conditional branch, and times between measured ones are interpolated, so that one measurement
    serves every number of steps. It comes from the profile, else from the bundled tiny model of the
    family. A threshold of 0 computes everything, also a layer that does not change at all.

    Args:
        threshold: alpha, the largest relative L1 change; 0 computes everything.
        where: which kinds of layers.
    """

    name: ClassVar[str] = "smoothcache"
    title: ClassVar[str] = "SmoothCache (kinds of layers)"
    decides: ClassVar[str] = (
        "how far attention and feed-forward layers change over the next one to three steps, as "
        "measured by a calibration with the tap layers, else on a bundled tiny model; layers of "
        "one kind are reused together (SmoothCache). It keeps an output of every layer, a great "
        "deal of memory"
    )
    #: One round in four.
    least: ClassVar[float] = 1 / (LOOKAHEAD + 1)
    threshold: float = field(
        default=0.18,
        metadata={
            "strictest": 0.0,
            "loose": 1.0,
            "min": 0.0,
            "max": 5.0,
            "step": 0.01,
            "help": "Largest relative change of a kind of layers over the steps that it is reused "
            "for. Higher reuses more. 0 computes everything; the authors' lie between 0.08 and "
            "0.35.",
        },
    )
    where: str = field(default="all", metadata=WHERE_HELP)

    def measured(self, run: RunInfo, work: Work) -> Mapping[str, Sequence[Sequence[float]]]:
        """Rows of :func:`scanned` by kind."""
        return {
            kind: [row.mean(axis=0) for row in changes]
            for kind, changes in self.changes(run, work, LOOKAHEAD).items()
        }

    def schedule(self, measured, work: Work, forced: Sequence[bool]) -> Reused:
        rounds, found = len(forced), {}
        for kind, rows in measured.items():
            when = scanned(rows if self.threshold > 0 else (), self.threshold, rounds)
            found[kind] = np.tile(np.array(when), (work.depth, 1))
        return found
