"""Delta-DiT: the rear blocks are kept while outlines form, the front ones while details do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import ClassVar

from ..types import Decision, Key, Only, Step
from .base import RunInfo
from .partial import EVERY, PartialBlocks


@dataclass(frozen=True)
class Cycle:
    """Run state of :class:`DeltaDiT`: the rounds from one full evaluation to the next.

    Attributes:
        passed: rounds since full evaluations were last due.
        early: whether the last one came before the boundary.
    """

    passed: float = 0.0
    early: bool = True


@dataclass(frozen=True)
class DeltaDiT(PartialBlocks):
    """Every N-th step in full; in between the rear blocks are reused early, the front ones late.

    Source: Chen et al., "Delta-DiT: A Training-Free Acceleration Method Tailored for Diffusion
    Transformers" (arXiv 2406.01125; no code was released). Front blocks make outlines and rear ones
    details: before the boundary ``b`` the rear ``N_c`` blocks are spared, from it on the front
    ``N_c``. What is kept is what such a run adds, ``F(x) - x`` (its delta), which is added to what
    enters the run at hand. For a compute target ``M_g`` of ``T`` steps of ``N_b`` blocks,
    ``N = ceil(T N_b M_b / M_g)``, and ``N_c`` makes up the rest.

    The runs may overlap: they are kept in up to three pieces, whose sums are the same. A cycle that
    begins before the boundary ends as it began, so that all that is reused is of its own full step.
    Published settings are of image models, and so no presets: ``N`` 2 and 21 of 28 blocks for
    PixArt-alpha in 20 steps (1.6 times as fast), ``b`` 2 of 4 steps for its consistency model.

    Args:
        interval: N, which need not be a whole number; 1 computes everything.
        spared: ``N_c`` as a share of the blocks.
        boundary: ``b`` as a share of the steps.
    """

    name: ClassVar[str] = "delta_dit"
    title: ClassVar[str] = "Delta-DiT (rear blocks, then front blocks)"
    decides: ClassVar[str] = (
        "every n-th evaluation in full, in between early on only the front blocks, later only the "
        "rear ones; what the others add is repeated from the last full evaluation (Delta-DiT)"
    )
    opening: ClassVar[float] = 0.0
    interval: float = field(
        default=2.0,
        metadata={
            **EVERY,
            "help": "Distance between full evaluations. In between only some blocks run. 1 "
            "computes everything; 2 is what the authors studied.",
        },
    )
    spared: float = field(
        default=0.75,
        metadata={
            "min": 0.05,
            "max": 0.95,
            "step": 0.05,
            "help": "Share of the blocks that are reused in between. Lower is nearer to the "
            "uncached clip and slower; 0.75 is what the authors studied.",
        },
    )
    boundary: float = field(
        default=0.5,
        metadata={
            "min": 0.0,
            "max": 1.0,
            "step": 0.05,
            "help": "Share of the steps before which the rear blocks are reused, and from which on "
            "the front ones. 0.5 is the authors' for 4 steps.",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.spared < 1 or not 0 <= self.boundary <= 1:
            raise ValueError("spared must lie between 0 and 1, and boundary in 0..1")

    def kept(self, count: int) -> Sequence[range]:
        """The pieces of either run, of ``count`` blocks."""
        length = self.length(count)
        rear = count - length
        pieces = [range(a, b) for a, b in pairwise(sorted({0, length, rear, count}))]
        early, late = self.boundary > 0, self.boundary < 1
        return [p for p in pieces if (early and p[0] >= rear) or (late and p[0] < length)]

    def length(self, count: int) -> int:
        """Blocks that are spared of ``count``; at least one, and not all."""
        return min(max(round(self.spared * count), 1), count - 1)

    def part_of(self, cycle: Cycle) -> Only:
        """What runs between two full evaluations."""
        if cycle.early:
            return Only("front blocks", self._front)
        return Only("rear blocks", self._rear)

    @property
    def part(self) -> Only:
        return self.part_of(Cycle())

    @property
    def share(self) -> float:
        return 1 - self.spared

    def share_in(self, run: RunInfo) -> float:
        return 1 - self.length(run.blocks) / run.blocks if run.blocks else self.share

    def _front(self, key: Key) -> bool:
        count = key.site.count
        return key.site.tap != self.tap or key.site.index < count - self.length(count)

    def _rear(self, key: Key) -> bool:
        return key.site.tap != self.tap or key.site.index >= self.length(key.site.count)

    def start(self, run: RunInfo) -> Cycle:
        return Cycle()

    def decide(self, step: Step, last: Step, state: Cycle) -> tuple[Decision, Cycle]:
        decision, passed = super().decide(step, last, state.passed)
        if decision.partial:
            decision = replace(decision, compute=self.part_of(state))
        return decision, replace(state, passed=passed)

    def observe(self, step: Step, state: Cycle) -> Cycle:
        return Cycle(super().observe(step, state.passed), step.share < self.boundary)
