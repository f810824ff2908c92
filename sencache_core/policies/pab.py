"""PAB: attention now and then in the middle of a run, cross-attention least often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ..forecast.reuse import Hold
from ..types import CROSS, MLP, SELF
from .base import Guards, Preset, RunInfo
from .layered import LayerSchedule, Reused, Work

#: From this time coordinate on a run has begun at full noise (ours).
_FULL_NOISE = 0.98


@dataclass(frozen=True)
class PAB(LayerSchedule):
    """Layers of a kind every ``range`` rounds while ``low < noise level < high``, and held else.

    Source: Zhao et al., "Real-Time Video Generation with Pyramid Attention Broadcast"
    (arXiv 2408.12588): attention changes least in the middle of a run, and cross-attention less
    than temporal, that less than spatial self-attention. Details as in diffusers'
    ``PyramidAttentionBroadcastConfig``: computed at rounds whose number is a multiple of the range,
    and at all outside of the window; what was computed last is held. Ranges and windows of the
    authors are of models with self-attention over space and over time apart: 2, 3 or 4, and 6, at
    timesteps 450 to 930 of 1000 (Open-Sora) or 100 to 800 (Latte, which holds some feed-forward
    layers, too); of CogVideoX, whose attention is one over all, 2 at 100 to 850. Wan, LTX-Video and
    LTX-2 have one self-attention over all, too, and the same range by default (ours).

    Unlike diffusers', which keeps one output a module, each branch has its own: there Wan's second
    call of a step would be handed the first one's. Noise levels are counted as sigma on flow
    models, and as the share of the steps that is left on CogVideoX.

    Args:
        reach: what the ranges' excess over 1 is multiplied with; 0 computes everything. A budget
            sets it.
        self_range, cross_range, mlp_range: distance of rounds that compute layers of a kind; 1: all
            do, and none of their outputs is kept.
        low, high: noise levels between which layers are reused, of 1.
    """

    name: ClassVar[str] = "pab"
    title: ClassVar[str] = "PAB (attention in the middle of a run)"
    decides: ClassVar[str] = (
        "every second step's self-attention and every sixth's cross-attention in the middle of a "
        "run, all of it at its ends; what was computed last is held (Pyramid Attention Broadcast). "
        "It keeps an output of every block's attention, a great deal of memory"
    )
    knob: ClassVar[str] = "reach"
    reach: float = field(
        default=1.0,
        metadata={
            "strictest": 0.0,
            "loose": 2.0,
            "min": 0.0,
            "max": 20.0,
            "step": 0.1,
            "help": "How far the distances below go beyond every step. Higher reuses more: 0 "
            "computes everything, 1 is as they say, 2 twice as far.",
        },
    )
    self_range: int = field(
        default=2,
        metadata={
            "min": 1,
            "max": 20,
            "step": 1,
            "help": "Distance between steps that compute self-attention (over text and video where "
            "they share one). 1 computes it at all of them; the authors' is 2.",
        },
    )
    cross_range: int = field(
        default=6,
        metadata={
            "min": 1,
            "max": 50,
            "step": 1,
            "help": "Distance between steps that compute cross-attention, where a model has it. 1 "
            "computes it at all of them; the authors' is 6.",
        },
    )
    mlp_range: int = field(
        default=1,
        metadata={
            "min": 1,
            "max": 20,
            "step": 1,
            "help": "Distance between steps that compute feed-forward layers. 1, as in diffusers, "
            "computes them at all steps; more reuses them, too, at some cost in quality.",
        },
    )
    low: float = field(
        default=0.1,
        metadata={
            "min": 0.0,
            "max": 1.0,
            "step": 0.01,
            "help": "Noise level, of 1, down to which layers are reused. Lower reuses more at the "
            "end of a run, where details form.",
        },
    )
    high: float = field(
        default=0.85,
        metadata={
            "min": 0.0,
            "max": 1.0,
            "step": 0.01,
            "help": "Noise level, of 1, from which on layers are reused. Higher reuses more at the "
            "start of a run, where layout and motion form.",
        },
    )

    def __post_init__(self) -> None:
        if self.reach < 0 or min(self.self_range, self.cross_range, self.mlp_range) < 1:
            raise ValueError("reach must not be negative, and ranges must be at least 1")
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"need 0 <= low <= high <= 1, not {self.low} and {self.high}")

    @classmethod
    def presets(cls) -> Mapping[str, Preset]:
        note = "PAB (arXiv 2408.12588), CogVideoX: range 2 at timesteps 100 to 850."
        guards = Guards(warmup=1, cooldown=0, longest_run=10_000)
        return {"PAB CogVideoX": Preset("cogvideox", cls(), Hold(), guards, note)}

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of layers that may be reused; no more are kept."""
        return tuple(kind for kind, distance in self._ranges.items() if distance > 1)

    @property
    def _ranges(self) -> Mapping[str, int]:
        return {SELF: self.self_range, CROSS: self.cross_range, MLP: self.mlp_range}

    @property
    def reuses(self) -> bool:
        return bool(self.kinds)

    def fewest(self, guards: Guards, run: RunInfo) -> float:
        """Rounds outside of the window cost all of it; what others cost the model says."""
        return max(super().fewest(guards, run), float((~self.within(run)).sum()))

    def measured(self, run: RunInfo, work: Work) -> np.ndarray:
        return self.within(run)

    def within(self, run: RunInfo) -> np.ndarray:
        """``[rounds]``: whether each lies in the window."""
        if run.family.prediction == "flow":
            levels = run.schedule.rounds
        else:
            whole = not run.times or run.times[0] >= _FULL_NOISE
            start, count = 1.0 if whole else run.times[0], run.schedule.num_steps
            levels = [start * (1 - index / count) for index in run.schedule.steps()]
        return np.array([self.low < level < self.high for level in levels], dtype=bool)

    def schedule(self, measured: np.ndarray, work: Work, forced: Sequence[bool]) -> Reused:
        number = np.arange(len(measured))
        found = {}
        for kind in work.shares.keys() & set(self.kinds):
            distance = 1 + (self._ranges[kind] - 1) * self.reach
            # A multiple of the distance, which need not be whole, falls on a round that computes.
            falls = np.floor(number / distance + 1e-9) > np.floor((number - 1) / distance + 1e-9)
            when = measured & ~falls & ~np.asarray(forced, dtype=bool)
            found[kind] = np.tile(when, (work.depth, 1))
        return found
