"""SenCache's own gate: the sensitivity bound of arXiv 2602.24208."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from ..forecast.reuse import Hold
from ..types import Step
from .base import Guards, Preset, RunInfo
from .threshold import Threshold

# The paper's Wan tolerances were used with a factor sqrt(50,319,360) (tokens times hidden width)
# on a score over the latent, whose own factor is sqrt(2,096,640). The ratio of the two, sqrt(24) =
# 4.9, turns them into RMS units. CogVideoX and LTX-Video always used the latent's own factor.
_WAN = "Paper, Wan 2.1 {}: {} (first 20 % of the steps 0.01), times sqrt(24) for RMS units."
_RMS = "Paper, {}: {} (first 20 % of the steps 0.01), already in RMS units."


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

    @classmethod
    def presets(cls) -> Mapping[str, Preset]:
        def paper(family: str, tolerance: float, early: float, longest_run: int, note: str):
            policy, guards = cls(tolerance, early, early_share=0.2), Guards(longest_run=longest_run)
            return Preset(family, policy, Hold(), guards, note)

        return {
            "Wan slow": paper("wan", 0.49, 0.049, 2, _WAN.format("slow", 0.1)),
            "Wan fast": paper("wan", 0.98, 0.049, 3, _WAN.format("fast", 0.2)),
            "CogVideoX": paper("cogvideox", 0.6, 0.01, 3, _RMS.format("CogVideoX", 0.6)),
            "LTX-Video": paper("ltx", 0.5, 0.01, 3, _RMS.format("LTX-Video", 0.5)),
        }

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
