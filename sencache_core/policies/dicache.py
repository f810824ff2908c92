"""DiCache: the first block probes every step, and says how far residuals have gone on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from ..forecast.reuse import Hold, ReuseRule, TwoPoint
from ..model.families import Family
from ..model.signals import FIRST_STATES
from ..types import Decision, Look, Reason, Step
from .accumulating import Accumulating
from .base import Guards, Preset, RunInfo
from .probing import Probed, Probing

#: How far beyond the newest residual forecasts go along its change: not at all, to as far again.
LEAST, MOST = 1.0, 2.0
#: Longest run of the presets: DiCache has no limit of its own.
_ANY = 10_000


@dataclass
class DiState(Probed):
    """Run state of :class:`DiCache`, whose ``seen`` is that of the round before, computed or not.

    Attributes:
        newer, older: what the probe added at the last two true evaluations.
        gain: ``g`` of the round at hand; ``None``: not known.
    """

    newer: Look | None = None
    older: Look | None = None
    gain: float | None = None


@dataclass(frozen=True)
class DiCache(Probing, Accumulating):
    """Reuse while ``sum mean|y_t - y_t-1| / mean|y_t-1| < threshold`` since the last evaluation.

    Source: Bu et al., "DiCache: Let Diffusion Model Determine Its Own Cache" (ICLR 2026, arXiv
    2508.17356), as in its repository for Wan 2.1. ``y`` is what leaves the first blocks, the probe,
    at every step; ``y_t-1`` that of the round before, reused or not. A reused round adds ``r_2 + g
    (r_1 - r_2)`` to what enters the blocks: ``r_1`` and ``r_2`` are what all blocks added at the
    last two evaluations, ``g = mean|p - p_2| / mean|p_1 - p_2|``, within 1 and 2, is how far the
    probe's own residual ``p`` has gone on since (cache trajectory alignment). With one evaluation
    its residual is repeated. An evaluation goes on from the probe, which never runs twice.

    Unlike theirs: one decision and one ``g`` a round, of the branch that leads (there: of each
    branch); means are taken in float32; an evaluation that a guard asks for ends the sum, too.

    Args:
        threshold: largest accumulated change; 0 computes everything.
        first: blocks of the probe.
        aligned: go on along the last two residuals as far as the probe says, or repeat the last.
    """

    name: ClassVar[str] = "dicache"
    title: ClassVar[str] = "DiCache (online probe)"
    decides: ClassVar[str] = (
        "the change of what leaves the first block, accumulated since the last true evaluation, "
        "under a budget or a threshold (DiCache); that block runs at every step and says how far "
        "to go on along the last two residuals of the stack, which it keeps"
    )
    opening: ClassVar[float] = 0.2
    seen: ClassVar[int] = 4
    threshold: float = field(
        default=0.08,
        metadata={
            "strictest": 0.0,
            "loose": 0.5,
            "min": 0.0,
            "max": 2.0,
            "step": 0.005,
            "help": "Largest accumulated change. Higher reuses more. The authors': 0.08 for Wan "
            "2.1; others have measured 0.12 to 0.6 there.",
        },
    )
    first: int = field(
        default=1,
        metadata={
            "min": 1,
            "max": 60,
            "step": 1,
            "help": "Blocks of the probe, which run at every step. More tell more and cost more. "
            "1 is the authors'.",
        },
    )
    aligned: bool = field(
        default=True,
        metadata={
            "help": "Go on along the last two residuals as far as the probe says. Off: the last "
            "one is repeated, at less memory."
        },
    )

    def __post_init__(self) -> None:
        if self.threshold < 0 or self.first < 1:
            raise ValueError("threshold must not be negative, and first must be at least 1")

    @classmethod
    def presets(cls) -> Mapping[str, Preset]:
        morca = "MORCA (arXiv 2610.10457), DiCache on"
        points = {
            "DiCache Wan 2.1": (0.08, "DiCache, repository, Wan 2.1"),
            "DiCache Wan 2.1 1.3B 2.4x": (0.155, f"{morca} Wan 2.1 1.3B"),
            "DiCache Wan 2.1 1.3B 3x": (0.365, f"{morca} Wan 2.1 1.3B"),
            "DiCache Wan 2.2 A14B 1.8x": (0.075, f"{morca} Wan 2.2 A14B"),
            "DiCache Wan 2.2 A14B 2.4x": (0.172, f"{morca} Wan 2.2 A14B"),
            "DiCache Wan 2.2 A14B 3x": (0.396, f"{morca} Wan 2.2 A14B"),
        }
        guards = Guards(1, 0, _ANY, start=cls.opening)
        return {
            name: Preset("wan", cls(threshold), Hold(), guards, f"{note}: {threshold:g}.")
            for name, (threshold, note) in points.items()
        }

    @property
    def rules(self) -> Mapping[str, ReuseRule]:
        return {self.tap: TwoPoint() if self.aligned else Hold()}

    def signal(self, family: Family) -> str:
        return FIRST_STATES

    def behind(self, count: int) -> Sequence[range]:
        """All blocks are one place, which is asked for behind the probe."""
        return [range(count)] if self.first < count else []

    def start(self, run: RunInfo) -> DiState:
        return DiState(run)

    def grown(self, step: Step, last: Step, state: DiState) -> float:
        """Relative change of what leaves the probe since the round before."""
        before, now, t = state.seen, step.look, state.t
        state.seen, state.t, state.gain = now, step.t, None
        if not _alike(before, now):
            return math.inf
        left = before.value[:, 1].float()
        change = (now.value[:, 1].float() - left).abs().mean() / left.abs().mean()
        figures = [change]
        if self.aligned and _alike(state.newer, now) and _alike(state.older, now):
            newer, older = state.newer.value.float(), state.older.value.float()
            since = self._added(now).value.float() - older
            figures.append(since.abs().mean() / (newer - older).abs().mean())
        grown, *gain = torch.stack(figures).tolist()
        if not math.isfinite(grown):
            return math.inf
        if gain and not math.isnan(gain[0]):
            state.gain = min(max(gain[0], LEAST), MOST)
        state.added(grown, abs(step.t - t))
        return grown

    def observe(self, step: Step, state: DiState) -> DiState:
        if step.look is not state.seen or step.look is None:
            self.grown(step, step, state)
        state.total = 0.0
        if self.aligned:
            state.older = state.newer
            state.newer = self._added(step.look) if step.look is not None else None
        return state

    @staticmethod
    def _added(look: Look) -> Look:
        """What the probe added."""
        return Look(look.branch, look.value[:, 1] - look.value[:, 0])

    def reused(self, reason: Reason, score, limit, state: DiState) -> Decision:
        further = (state.gain or LEAST) - LEAST
        rule = TwoPoint(early=further, late=further) if further else Hold()
        return Decision(self.part, reason, score, limit, rule)


def _alike(before: Look | None, now: Look | None) -> bool:
    """Whether two looks can be compared: a probe's, or what it added with it."""
    if before is None or now is None or before.branch != now.branch:
        return False
    return before.value.shape[-2:] == now.value.shape[-2:] and len(before.value) == len(now.value)
