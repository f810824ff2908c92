"""GOC: all layers at every n-th step; in between their outputs go on along their last change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from ..forecast.reuse import Gradient, ReuseRule
from ..words import Message
from .base import RunInfo
from .layered import WHERE_HELP, Spaced, unknown
from .partial import EVERY

#: Where the correction is left out: as measured, as in the repository, or nowhere.
MEASURED, PUBLISHED, NOWHERE = "measured", "published", "nowhere"
#: Of its 20 steps, those of reuse are corrected from the third on, but for the 17th.
_LEFT_OUT = 17 / 20, 18 / 20


@dataclass(frozen=True)
class Goc(Spaced):
    """Layers run once every ``interval`` rounds; in between their outputs go on as they changed.

    Source: Qiu et al., "Accelerating Diffusion Transformer via Gradient-Optimized Cache" (ICCV
    2025, arXiv 2503.05156), on FORA's schedule: at a step of reuse a layer's last output goes on
    by ``eta = 1.2`` of its change a step (``Gradient``), but for steps at which that turns
    (inflection points), where it is repeated. Theirs are found from mean outputs over 1000 classes:
    of 20 steps with reuse at odd ones, corrections at 3, 5, 7, 9, 11, 13, 15 and 19. The variant on
    Learning-to-Cache, ``eta = 0.8``, is a setting of that policy.

    Ours: ``"measured"`` finds them for every layer from its measured outputs: where the corrected
    output was further from the truth than the repeated one. Layers without figures are repeated.

    Args:
        interval: mean distance in rounds between those that compute layers; 1 computes everything.
        eta: of the change a step; 1 goes on in a line.
        turns: where they do not: ``"measured"``, ``"published"`` (the same share of the steps as
            theirs) or ``"nowhere"``.
        where: which kinds of layers.
    """

    name: ClassVar[str] = "goc"
    title: ClassVar[str] = "GOC (layers, along their change)"
    decides: ClassVar[str] = (
        "every n-th evaluation in full; in between no layer runs, and their outputs go on along "
        "their last change, but where that was measured to lead astray (Gradient-Optimized Cache, "
        "on FORA's schedule). It keeps two outputs of every layer, a great deal of memory"
    )
    interval: float = field(
        default=2.0,
        metadata={
            **EVERY,
            "help": "Mean distance between full evaluations. In between no layer runs. 1 computes "
            "everything; the authors' is 2.",
        },
    )
    eta: float = field(
        default=1.2,
        metadata={
            "min": 0.0,
            "max": 2.0,
            "step": 0.05,
            "help": "How far outputs go on as they changed, as a share of a line. 0 repeats "
            "them (FORA); the authors' is 1.2.",
        },
    )
    turns: str = field(
        default=MEASURED,
        metadata={
            "choices": (MEASURED, PUBLISHED, NOWHERE),
            "help": "Where outputs are repeated instead. measured: wherever that was nearer on "
            "measured runs, layer by layer; published: at the authors' share of the steps.",
        },
    )
    where: str = field(default="all", metadata=WHERE_HELP)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta < 0:
            raise ValueError(f"eta must not be negative, not {self.eta}")

    @property
    def rules(self) -> Mapping[str, ReuseRule]:
        return {self.tap: Gradient(eta=self.eta)}

    def misfit(self, run: RunInfo) -> Message | None:
        return unknown(run) if self.turns == MEASURED else None

    def rules_in(self, run: RunInfo) -> Mapping[str, ReuseRule]:
        curves, held = run.layers if self.turns == MEASURED else None, ()
        if self.turns == PUBLISHED:
            low, high = _LEFT_OUT
            steps = run.schedule.steps()
            shares = [index / run.schedule.num_steps for index in steps]
            held = tuple(
                t for t, share in zip(run.times, shares, strict=True) if low <= share < high
            )
        return {self.tap: Gradient(eta=self.eta, curves=curves, held=held)}
