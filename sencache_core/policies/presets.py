"""Settings as published by their authors, in this package's units."""

from __future__ import annotations

from dataclasses import dataclass

from ..forecast.reuse import Hold, ReuseRule, TwoBands
from . import CfgCache, Guards, Policy, SenCache


@dataclass(frozen=True)
class Preset:
    """A published operating point.

    Attributes:
        family: key in ``FAMILIES`` that it was published for.
        policy, rule, guards, gap_rule: its settings.
        note: where the numbers come from.
    """

    family: str
    policy: Policy
    rule: ReuseRule
    guards: Guards
    note: str
    gap_rule: ReuseRule | None = None


def _paper(family: str, tolerance: float, early: float, longest_run: int, note: str) -> Preset:
    policy = SenCache(tolerance=tolerance, early_tolerance=early, early_share=0.2)
    return Preset(family, policy, Hold(), Guards(longest_run=longest_run), note)


# The paper's Wan tolerances were used with a factor sqrt(50,319,360) (tokens times hidden width)
# on a score over the latent, whose own factor is sqrt(2,096,640). The ratio of the two, sqrt(24) =
# 4.9, turns them into RMS units. CogVideoX and LTX-Video always used the latent's own factor.
_WAN = "Paper, Wan 2.1 {}: {} (first 20 % of the steps 0.01), times sqrt(24) for RMS units."
_RMS = "Paper, {}: {} (first 20 % of the steps 0.01), already in RMS units."

# One evaluation in 5 is full from the 18th of 50 on. FasterCache's other half, reuse inside
# attention, is not part of it.
_CFG_CACHE = Preset(
    "cogvideox",
    CfgCache(interval=5.0),
    Hold(),
    Guards(start=0.34),
    "FasterCache (Lv et al., arXiv 2410.19355), repository, CogVideoX at 50 steps.",
    TwoBands(),
)

#: Presets by the name that people pick.
PRESETS: dict[str, Preset] = {
    "Wan slow": _paper("wan", 0.49, 0.049, 2, _WAN.format("slow", 0.1)),
    "Wan fast": _paper("wan", 0.98, 0.049, 3, _WAN.format("fast", 0.2)),
    "CogVideoX": _paper("cogvideox", 0.6, 0.01, 3, _RMS.format("CogVideoX", 0.6)),
    "LTX-Video": _paper("ltx", 0.5, 0.01, 3, _RMS.format("LTX-Video", 0.5)),
    "FasterCache CFG-Cache": _CFG_CACHE,
}
