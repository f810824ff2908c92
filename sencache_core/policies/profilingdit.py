"""ProfilingDiT: foreground blocks at every step, background blocks now and then."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from ..forecast.reuse import Hold
from .base import Guards, Preset
from .partial import PartialBlocks

#: Background blocks of Wan 2.1 14B, as in the repository's script; and what is left by its other
#: list, of foreground blocks.
WAN_14B = "0, 2-7, 10-20, 25-32, 37, 38 of 40"
WAN_14B_OTHER = "0, 2, 4-7, 10-21, 23, 25-27, 31, 33 of 40"
AUTO = "auto"
_RUN = re.compile(r"(\d+)(?:\s*-\s*(\d+))?")


def parse_blocks(text: str) -> tuple[frozenset[int], int]:
    """Blocks and their number in all from ``"0, 2-7 of 40"``.

    Raises:
        ValueError: it is written otherwise, or a block is beyond the number.
    """
    listed, sign, count = text.partition(" of ")
    runs = [_RUN.fullmatch(part.strip()) for part in listed.split(",")]
    if not sign or not count.strip().isdigit() or not all(runs):
        raise ValueError(f"write blocks as '0, 2-7 of 40', not {text!r}")
    found = {k for run in runs for k in range(int(run[1]), int(run[2] or run[1]) + 1)}
    if not found or max(found) >= int(count):
        raise ValueError(f"{text!r} names none of the blocks 0 to {int(count) - 1}, or others")
    return frozenset(found), int(count)


def write_blocks(blocks: frozenset[int], count: int) -> str:
    """``"0, 2-7 of 40"``; :func:`parse_blocks` reads it."""
    runs = runs_of(blocks)
    parts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"{', '.join(parts)} of {count}"


def runs_of(blocks: frozenset[int]) -> list[range]:
    """Neighbours among ``blocks`` as one run each, in order."""
    starts = sorted(k for k in blocks if k - 1 not in blocks)
    ends = sorted(k for k in blocks if k + 1 not in blocks)
    return [range(first, last + 1) for first, last in zip(starts, ends, strict=True)]


@dataclass(frozen=True)
class ProfilingDiT(PartialBlocks):
    """Full evaluations now and then; in between the background blocks are reused.

    Source: Ma et al., "Model Reveals What to Cache: Profiling-Based Feature Reuse for Video
    Diffusion Models" (arXiv 2504.03140): blocks that attend to the foreground run at every step;
    what each run of neighbouring background blocks adds is kept at full evaluations and added again
    in between. Those lie ``T_max - (T_max - T_min) (s - s0) / (S - s0)`` steps apart after step
    ``s`` of ``S``, the first ``s0 = 6`` of 50 being full.

    The authors' profiling was not released, their lists for Wan 2.1 14B were; ``measure/blocks.py``
    profiles as the paper says, and by what blocks change. Ours: the same list at other depths, by
    where a block's middle lies (``"auto"``). A run may begin at block 0, which
    their script cannot; what control networks add inside of a run counts once.

    Args:
        interval: ``T_max``, rounds between full evaluations at the start; 1 computes everything.
        shrink: ``T_min`` as a share of it; 1: they stay as far apart.
        blocks: background blocks, as ``"0, 2-7 of 40"``, or ``"auto"``. A model with another number
            of blocks than such a list is for is computed in full.
    """

    name: ClassVar[str] = "profilingdit"
    title: ClassVar[str] = "ProfilingDiT (background blocks)"
    decides: ClassVar[str] = (
        "the blocks that attend to the foreground at every evaluation, all of them now and then, "
        "more often towards the end; what runs of background blocks add is repeated in between "
        "(ProfilingDiT). Published for Wan 2.1 14B; other models take its list by depth"
    )
    running: ClassVar[str] = "foreground blocks"
    opening: ClassVar[float] = 0.12
    interval: float = field(
        default=6.0,
        metadata={
            "strictest": 1.0,
            "loose": 6.0,
            "min": 1.0,
            "max": 20.0,
            "step": 0.1,
            "help": "Distance between full evaluations at the start of the run. In between only "
            "the foreground blocks run. 1 computes everything, 6 is the authors'.",
        },
    )
    shrink: float = field(
        default=0.5,
        metadata={
            "min": 0.05,
            "max": 1.0,
            "step": 0.05,
            "help": "Distance at the end of the run as a share of that at its start. Lower "
            "computes more where details form; 1 keeps the distance.",
        },
    )
    blocks: str = field(
        default=AUTO,
        metadata={
            "help": "Background blocks, as 0, 2-7, 10-20 of 40; a model with another number of "
            "blocks is computed in full. auto: the authors' for Wan 2.1 14B, by depth.",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.shrink <= 1:
            raise ValueError(f"shrink must lie in (0, 1], not {self.shrink}")
        parse_blocks(self._listed)

    @classmethod
    def presets(cls) -> Mapping[str, Preset]:
        # Steps 0 to 5 are full, and every sixth from step 6 on; no last one is.
        guards, note = Guards(warmup=7, cooldown=0, longest_run=10_000), "ProfilingDiT, repository"
        found = {
            "ProfilingDiT Wan 2.1 14B": (cls(6.0, 1.0, WAN_14B), "its list and interval."),
            "ProfilingDiT Wan 2.1 14B, other list": (
                cls(6.0, 1.0, WAN_14B_OTHER),
                "its other list, of foreground blocks.",
            ),
            "ProfilingDiT Wan 2.1 14B, shrinking": (
                cls(12.0, 1 / 6, WAN_14B),
                "its list; distances as from 12 to 2 of its list of steps, which is switched off.",
            ),
        }
        return {
            name: Preset("wan", policy, Hold(), guards, f"{note}: {words}")
            for name, (policy, words) in found.items()
        }

    @property
    def _listed(self) -> str:
        return WAN_14B if self.blocks.strip() == AUTO else self.blocks

    def kept(self, count: int) -> Sequence[range]:
        """Runs of background blocks of ``count``; none where the list is for another number."""
        listed, known = parse_blocks(self._listed)
        if count != known and self.blocks.strip() != AUTO:
            return []
        middles = {k: int((k + 0.5) / count * known) for k in range(count)}
        return runs_of(frozenset(k for k, middle in middles.items() if middle in listed))

    @property
    def share(self) -> float:
        listed, known = parse_blocks(self._listed)
        return 1 - len(listed) / known

    def distance(self, share: float) -> float:
        since = max(0.0, share - self.opening) / (1 - self.opening)
        return max(1.0, self.interval * (1 - (1 - self.shrink) * since))
