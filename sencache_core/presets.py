"""Settings as published by the paper's authors, in this package's units."""

from __future__ import annotations

from dataclasses import dataclass

from .policies import Guards, Policy, SenCache
from .reuse import Hold, ReuseRule


@dataclass(frozen=True)
class Preset:
    """A published operating point.

    Attributes:
        family: key in ``FAMILIES`` that it was published for.
        policy, rule, guards: its settings.
        note: where the numbers come from.
    """

    family: str
    policy: Policy
    rule: ReuseRule
    guards: Guards
    note: str


def _paper(family: str, tolerance: float, early: float, longest_run: int, note: str) -> Preset:
    policy = SenCache(tolerance=tolerance, early_tolerance=early, early_share=0.2)
    return Preset(family, policy, Hold(), Guards(longest_run=longest_run), note)


# The paper's Wan tolerances were used with a factor sqrt(50,319,360) (tokens times hidden width)
# on a score over the latent, whose own factor is sqrt(2,096,640). The ratio of the two, sqrt(24) =
# 4.9, turns them into RMS units. CogVideoX and LTX-Video always used the latent's own factor.
_WAN = "Paper, Wan 2.1 {}: {} (first 20 % of the steps 0.01), times sqrt(24) for RMS units."
_RMS = "Paper, {}: {} (first 20 % of the steps 0.01), already in RMS units."

#: Presets by the name that people pick.
PRESETS: dict[str, Preset] = {
    "Wan slow": _paper("wan", 0.49, 0.049, 2, _WAN.format("slow", 0.1)),
    "Wan fast": _paper("wan", 0.98, 0.049, 3, _WAN.format("fast", 0.2)),
    "CogVideoX": _paper("cogvideox", 0.6, 0.01, 3, _RMS.format("CogVideoX", 0.6)),
    "LTX-Video": _paper("ltx", 0.5, 0.01, 3, _RMS.format("LTX-Video", 0.5)),
}
