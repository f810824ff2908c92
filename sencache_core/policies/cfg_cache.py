"""Run the conditional branch at every step, the unconditional one now and then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from ..forecast.reuse import Hold, TwoBands
from ..types import Only
from ..words import Message
from .base import CONDITIONAL, Guards, Preset, RunInfo
from .partial import Partial


@dataclass(frozen=True)
class CfgCache(Partial):
    """Full evaluations once every ``interval`` rounds, conditional ones in between.

    The guidance axis of FasterCache (Lv et al., arXiv 2410.19355, section 3.3). Each conditional
    round costs half an evaluation, so that a run costs more than half in any case.

    Args:
        interval: mean distance between full evaluations in rounds; 1 computes everything.
    """

    name: ClassVar[str] = "cfg_cache"
    title: ClassVar[str] = "Conditional steps (CFG-Cache)"
    decides: ClassVar[str] = (
        "every n-th evaluation in full, the conditional branch alone in between; the other "
        "output is rebuilt from it and a forecast of their difference. FasterCache's "
        "CFG-Cache, with its two bands, is a preset. At least half of the work is spent"
    )
    interval: float = field(
        default=5.0,
        metadata={
            "strictest": 1.0,
            "loose": 5.0,
            "min": 1.0,
            "max": 20.0,
            "step": 0.1,
            "help": "Mean distance between full evaluations. In between only the conditional "
            "branch runs, for half the time. 1 computes everything, 5 is FasterCache's.",
        },
    )

    @classmethod
    def presets(cls) -> Mapping[str, Preset]:
        # One evaluation in 5 is full from the 18th of 50 on. FasterCache's other half, reuse
        # inside attention, is not part of it.
        note = "FasterCache (Lv et al., arXiv 2410.19355), repository, CogVideoX at 50 steps."
        half = Preset("cogvideox", cls(interval=5.0), Hold(), Guards(start=0.34), note, TwoBands())
        return {"FasterCache CFG-Cache": half}

    def misfit(self, run: RunInfo) -> Message | None:
        return None if run.guided else Message.of("off.unguided")

    @property
    def needs_pairs(self) -> bool:
        return True

    @property
    def part(self) -> Only:
        return CONDITIONAL

    @property
    def share(self) -> float:
        return 0.5
