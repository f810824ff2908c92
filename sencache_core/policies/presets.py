"""Settings as published by their authors, in one table: what the policies say of themselves, and
methods that are a forecast on a plain schedule."""

from __future__ import annotations

from ..forecast.reuse import HiCache, ReuseRule, Spectrum, TaylorSeer
from . import POLICIES
from .base import Guards, Policy, Preset
from .interval import Interval
from .planned import Planned
from .schedules import published

#: Longest run where the schedule alone says it.
_ANY = 10_000

#: Spectrum's schedule of 50 steps (repository): five are computed, then every ``floor(w)``-th,
#: where ``w``, 2 at first, grows by the number in front at each.
_SPECTRUM = {
    "0.75": "CCCCC.C.C..C...C....C....C.....C......C.......C...",
    "3": "CCCCC.C....C.......C..........C.............C.....",
}


def _forecast(policy: Policy, rule: ReuseRule, note: str, warmup: int = 1) -> Preset:
    return Preset("wan", policy, rule, Guards(warmup, 0, _ANY), note)


def _forecasts() -> dict[str, Preset]:
    ra = "RA-CFGCache (arXiv 2609.36433), repository, HiCache on Wan 2.1:"
    found = {
        "TaylorSeer Wan 2.1": _forecast(
            Interval(5.0), TaylorSeer(), "TaylorSeer, repository, Wan 2.1: interval 5, order 1."
        ),
        "HiCache Wan 2.1 slow": _forecast(
            Interval(3.0), HiCache(), f"{ra} interval 3 of its tables, order 1.", 3
        ),
        "HiCache Wan 2.1 fast": _forecast(
            Interval(6.0), HiCache(), f"{ra} interval 6, its default, order 1.", 3
        ),
    }
    for grows, speed in (("0.75", "slow"), ("3", "fast")):
        found[f"Spectrum Wan 2.1 {speed}"] = _forecast(
            Planned(mask=_SPECTRUM[grows]),
            Spectrum(),
            f"Spectrum, repository: its window grows by {grows}. For 50 steps.",
        )
    return found


#: Presets by the name that people pick.
PRESETS: dict[str, Preset] = {
    **{name: preset for policy in POLICIES.values() for name, preset in policy.presets().items()},
    **_forecasts(),
    **published(),
}

__all__ = ["PRESETS", "Preset"]
