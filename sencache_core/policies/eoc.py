"""After Error-Optimized Cache: FORA's schedule, outputs scaled by a measured trend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from ..forecast.reuse import ReuseRule, ScaleShift
from ..words import Message
from .base import RunInfo
from .layered import WHERE_HELP, Spaced, unknown
from .partial import EVERY


@dataclass(frozen=True)
class Eoc(Spaced):
    """Layers run once every ``interval`` rounds; in between their last outputs, scaled, stand in.

    Ours, after Qiu et al., "Accelerating Diffusion Transformer via Error-Optimized Cache" (arXiv
    2501.19243); not a reproduction, for neither its code nor its rule of judgement is public. As
    there: what outputs at steps of reuse differ by from those that are reused is measured
    beforehand, it is judged where correcting by it lowers the error, and there outputs are
    multiplied by ``1 + E``. Here ``E`` is by least squares over a layer's outputs at the two steps,
    and it is applied where that lowers their mean square error by at least ``margin``; see
    ``ScaleShift``. The schedule is FORA's.

    Args:
        interval: mean distance in rounds between those that compute layers; 1 computes everything.
        margin: smallest share of the error that scaling must take away.
        where: which kinds of layers.
    """

    name: ClassVar[str] = "eoc"
    title: ClassVar[str] = "After EOC (layers, scaled)"
    decides: ClassVar[str] = (
        "every n-th evaluation in full; in between no layer runs, and their outputs are scaled as "
        "they were measured to change, where that lowers the error (ours, after Error-Optimized "
        "Cache, on FORA's schedule). It keeps an output of every layer, a great deal of memory"
    )
    interval: float = field(
        default=2.0,
        metadata={
            **EVERY,
            "help": "Mean distance between full evaluations. In between no layer runs. 1 computes "
            "everything, 2 every second one.",
        },
    )
    margin: float = field(
        default=0.02,
        metadata={
            "min": 0.0,
            "max": 1.0,
            "step": 0.01,
            "help": "Smallest share of the measured error that scaling must take away; where it "
            "takes less, outputs are repeated as they are. 1 never scales (FORA).",
        },
    )
    where: str = field(default="all", metadata=WHERE_HELP)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.margin <= 1:
            raise ValueError(f"margin must lie in 0..1, not {self.margin}")

    def misfit(self, run: RunInfo) -> Message | None:
        return unknown(run)

    def rules_in(self, run: RunInfo) -> Mapping[str, ReuseRule]:
        return {self.tap: ScaleShift(curves=run.layers, shift=False, margin=self.margin)}
