"""FasterCache: self-attention and the unconditional branch now and then, both at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from ..forecast.reuse import Hold, ReuseRule, TwoBands, TwoPoint
from ..types import ALL, GAP, Decision, Key, Only, Reason, Step
from .base import CONDITIONAL, Guards, Preset, RunInfo
from .partial import Partial


def _no_attention(key: Key) -> bool:
    return key.site.tap != FasterCache.tap


#: All but self-attention; and of every guidance pair the conditional branch alone, without it, too.
WITHOUT = Only("all but self-attention", _no_attention)
BOTH = Only(
    "conditional branch, all but self-attention",
    lambda key: _no_attention(key) and CONDITIONAL.test(key),
)


@dataclass(frozen=True)
class FasterCache(Partial):
    """Of most rounds the conditional branch alone, and that with forecast self-attention.

    Source: Lv et al., "FasterCache: Training-Free Video Diffusion Model Acceleration with High
    Quality" (arXiv 2410.19355). Dynamic feature reuse (section 3.2): a block's attention output is
    ``A1 + w (A1 - A2)`` of its last two computed ones, before the gate. CFG-Cache (3.3): the
    unconditional output is the conditional one plus the last difference, its low and high
    frequencies weighed. Counted from 1 as in its repository for CogVideoX: from step 18 of 50 on a
    full evaluation at every fifth step, self-attention at every third, and at full ones, too (what
    the conditional branch computed alone serves no pair).

    Unlike the repository's: factors of the two bands count once (theirs compound over the steps in
    a row), ``w`` may rise (``late_weight``), as in the paper. The hooks of diffusers count from 0,
    keep forecasts as if they were computed, double the first output, and need both halves in one
    batch. Without guidance pairs self-attention alone is reused.

    Args:
        interval: distance between full evaluations in rounds; 1 computes everything.
        attention: distance between rounds that compute self-attention; 1: all do.
        early_weight, late_weight: ``w`` at the start and at the end of sampling.
    """

    name: ClassVar[str] = "fastercache"
    title: ClassVar[str] = "FasterCache (attention and guidance)"
    decides: ClassVar[str] = (
        "every n-th evaluation in full, the conditional branch alone in between, and its "
        "self-attention only at every m-th; the rest is forecast from the last two (FasterCache). "
        "It keeps two outputs of every block's self-attention, a great deal of memory"
    )
    tap: ClassVar[str] = "attention"
    #: The 18th of 50 steps is the first that is not full.
    opening: ClassVar[float] = 0.34
    interval: float = field(
        default=5.0,
        metadata={
            "strictest": 1.0,
            "loose": 5.0,
            "min": 1.0,
            "max": 20.0,
            "step": 0.1,
            "help": "Mean distance between full evaluations. In between only the conditional "
            "branch runs. 1 computes everything, 5 is the authors'.",
        },
    )
    attention: int = field(
        default=3,
        metadata={
            "min": 1,
            "max": 20,
            "step": 1,
            "help": "Distance between evaluations that compute self-attention. 1 computes it at "
            "all of them, 3 is the authors'.",
        },
    )
    early_weight: float = field(
        default=0.3,
        metadata={
            "min": 0.0,
            "max": 1.0,
            "step": 0.05,
            "help": "How far forecasts of self-attention go on along its last change, at the start "
            "of sampling. 0 holds the last output; 0.3 is the authors'.",
        },
    )
    late_weight: float = field(
        default=0.3,
        metadata={
            "min": 0.0,
            "max": 1.0,
            "step": 0.05,
            "help": "The same at the end of sampling. The paper's weight rises from 0 to 1.",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention < 1 or not 0 <= min(self.early_weight, self.late_weight):
            raise ValueError("attention must be at least 1, and weights must not be negative")

    @classmethod
    def presets(cls) -> Mapping[str, Preset]:
        note = "FasterCache, repository, CogVideoX at 50 steps: {}"
        guards = Guards(warmup=2, cooldown=0, longest_run=10_000, start=cls.opening)
        settings = {
            "FasterCache": (cls(), "attention 1 in 3, weight 0.3, guidance 1 in 5."),
            "FasterCache, rising weight": (
                cls(early_weight=0.0, late_weight=1.0),
                "its schedule, with the paper's weight.",
            ),
        }
        return {
            name: Preset("cogvideox", policy, Hold(), guards, note.format(words))
            for name, (policy, words) in settings.items()
        }

    @property
    def needs_pairs(self) -> bool:
        return True

    @property
    def rules(self) -> Mapping[str, ReuseRule]:
        return {
            self.tap: TwoPoint(early=self.early_weight, late=self.late_weight),
            GAP.tap: TwoBands(),
        }

    @property
    def part(self) -> Only:
        return CONDITIONAL

    @property
    def share(self) -> float:
        """Without what self-attention spares, which depends on the model and the clip's size."""
        return 0.5

    def decide(self, step: Step, last: Step, state: float) -> tuple[Decision, float]:
        attends = _falls(step.ordinal, self.attention)
        full = _falls(step.ordinal, self.interval) if step.paired else attends
        if full or self.interval == 1:
            return Decision(ALL, Reason.SCHEDULED_COMPUTE), state
        if not step.paired:
            return Decision(WITHOUT, Reason.SCHEDULED_PART), state
        return Decision(CONDITIONAL if attends else BOTH, Reason.SCHEDULED_PART), state

    def count(self, steps: tuple[int, ...], run: RunInfo, guards: Guards) -> int:
        num_steps = run.schedule.num_steps
        return sum(
            guards.forces(number, index, num_steps, 0) is not None or _falls(number, self.interval)
            for number, index in enumerate(steps)
        )


def _falls(ordinal: int, distance: float) -> bool:
    """Whether a multiple of ``distance`` falls on a round, counted from 1."""
    return math.floor((ordinal + 1) / distance + 1e-9) > math.floor(ordinal / distance + 1e-9)
