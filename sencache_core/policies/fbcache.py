"""FBCache: reuse while the first block adds nearly what it added at the last evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from ..forecast.reuse import Hold
from ..types import Step
from .base import Guards, Preset
from .probing import Probed, Probing
from .threshold import change_of_looks

#: Longest run of the presets: there is no limit of its own.
ANY = 10_000


@dataclass(frozen=True)
class FBCache(Probing):
    """Reuse while ``mean|p - p_c| / mean|p_c| < threshold``, ``p`` what the first block adds.

    Source: First Block Cache of ParaAttention (Cheng, github.com/chengzeyi/ParaAttention), as in
    diffusers' ``FirstBlockCacheConfig``; there is no paper. ``p_c`` is what it added at the last
    true evaluation ``c``, and ``p`` is taken on the first stream, the picture's, where a block has
    several. What all other blocks added together at ``c`` is added behind the first block again.

    Unlike theirs: one decision a round, on the branch that leads (there: each branch for itself, or
    both halves of a batch together); means are taken in float32; a change as large as the threshold
    is computed (in diffusers it is reused).

    Args:
        threshold: largest relative change; 0 computes everything.
    """

    name: ClassVar[str] = "fbcache"
    title: ClassVar[str] = "FBCache (first block)"
    decides: ClassVar[str] = (
        "how far what the first block adds has changed since the last true evaluation, under a "
        "budget or a threshold (First Block Cache); that block runs at every step. It keeps what "
        "the other blocks add"
    )
    first = 1
    threshold: float = field(
        default=0.05,
        metadata={
            "strictest": 0.0,
            "loose": 0.5,
            "min": 0.0,
            "max": 2.0,
            "step": 0.005,
            "help": "Largest change of what the first block adds. Higher reuses more. diffusers "
            "begins at 0.05; 0.08 to 0.12 is common, for CogVideoX 0.025.",
        },
    )

    def __post_init__(self) -> None:
        if self.threshold < 0:
            raise ValueError(f"threshold must not be negative, as {self.threshold} is")

    @classmethod
    def presets(cls) -> Mapping[str, Preset]:
        points = {
            "FBCache as in diffusers": ("wan", 0.05, "diffusers' default"),
            "FBCache CogVideoX": ("cogvideox", 0.025, "ParaAttention, repository, CogVideoX"),
        }
        guards = Guards(1, 0, ANY)
        return {
            name: Preset(family, cls(threshold), Hold(), guards, f"{note}: {threshold:g}.")
            for name, (family, threshold, note) in points.items()
        }

    def score(self, step: Step, last: Step, state: Probed) -> float:
        """Relative change of what the first blocks add since the last true evaluation."""
        change = change_of_looks(state.seen, step.look)
        if change == math.inf:
            return change
        state.added(change, abs(step.t - last.t))
        return change

    def observe(self, step: Step, state: Probed) -> Probed:
        state.seen = step.look
        return state

    def limit(self, share: float) -> float:
        return self.threshold

    def with_tolerance(self, tolerance: float) -> FBCache:
        return replace(self, threshold=tolerance)
