"""SenCache's own gate: the sensitivity bound of arXiv 2602.24208."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from ..types import Step
from .base import RunInfo
from .threshold import Threshold


@dataclass(frozen=True)
class SenCache(Threshold):
    """Reuse while ``S = alpha_x RMS(x - x_ref) + alpha_t |t - t_ref|`` stays under a tolerance.

    Source: Haghighi and Alahi, "SenCache" (arXiv 2602.24208), the sensitivity score (Eq. 9) and
    Algorithm 1: displacements are net from the last true evaluation, both alphas are read there
    and stay frozen until the next one; a stricter tolerance rules the first part of the run. The
    cap n on reuses in a row is ``Guards.longest_run``. Norms are RMS where the paper writes L2: the
    authors' code multiplies its tolerance by sqrt(numel) of one fixed resolution instead.

    Args:
        tolerance: largest S, an RMS of the (unguided) model output; 0 computes everything.
        early_tolerance: the same for the first ``early_share`` of the steps.
        early_share: share of the steps ruled by ``early_tolerance``.
    """

    name: ClassVar[str] = "sencache"
    title: ClassVar[str] = "SenCache (sensitivity bound)"
    decides: ClassVar[str] = (
        "the paper's bound `alpha_x RMS(dx) + alpha_t abs(dt)` since the last true "
        "evaluation, under a budget or a tolerance, stricter in the first 20 % of the steps"
    )
    tolerance: float = field(
        default=0.49,
        metadata={
            "strictest": 0.0,
            "loose": 1.0,
            "min": 0.0,
            "max": 10.0,
            "step": 0.01,
            "help": "Largest expected change of the model output (RMS). Higher reuses more. The "
            "paper's settings: Wan 0.49 (slow) or 0.98 (fast), CogVideoX 0.6, LTX 0.5.",
        },
    )
    early_tolerance: float = field(
        default=0.049,
        metadata={
            "strictest": 0.0,
            "loose": 1.0,
            "min": 0.0,
            "max": 10.0,
            "step": 0.001,
            "help": "The same for the first part of the run, where layout and motion form.",
        },
    )
    early_share: float = field(
        default=0.2,
        metadata={
            "min": 0.0,
            "max": 1.0,
            "step": 0.01,
            "help": "Share of the steps ruled by the early tolerance (paper: 0.2).",
        },
    )

    def __post_init__(self) -> None:
        if min(self.tolerance, self.early_tolerance) < 0 or not 0 <= self.early_share <= 1:
            raise ValueError("tolerances must not be negative and early_share must lie in 0..1")

    def score(self, step: Step, last: Step, run: RunInfo) -> float:
        alpha_x, alpha_t = run.slopes.at(last.t)
        return alpha_x * step.moved + alpha_t * abs(step.t - last.t)

    def expected(self, last_t: float, t: float, run: RunInfo) -> float:
        alpha_x, alpha_t = run.slopes.at(last_t)
        return (alpha_x * run.slopes.speed(last_t) + alpha_t) * abs(t - last_t)

    def limit(self, share: float) -> float:
        return self.early_tolerance if share < self.early_share else self.tolerance

    def with_tolerance(self, tolerance: float) -> SenCache:
        ratio = self.early_tolerance / self.tolerance if self.tolerance else 0.0
        return replace(self, tolerance=tolerance, early_tolerance=tolerance * ratio)
