"""Published schedules: which of 50 steps to compute on Wan 2.1 1.3B, by name."""

from __future__ import annotations

from ..forecast.reuse import Hold, Linear, MeanCache, ReuseRule
from .base import Guards, Preset
from .planned import Planned

STEPS = 50
#: What stands in for skipped outputs where the schedules come from, as near as rules here come.
_RULES: dict[str, tuple[ReuseRule, str]] = {
    "BudCache": (Hold(), "its residual was held"),
    "MeanCache": (MeanCache(), "its span is 5 in most steps, and in all of them here"),
    "Forecasters": (Linear(), "one for TaylorSeer, HiCache and L2P, of which order 1 is a line"),
}
#: Skipped steps by whose schedule it is and how many they are: as searched or replayed by "The
#: Golden Path Hypothesis" (arXiv 2609.39343) at 832x480, 65 frames, UniPC, shift 5, guidance 5.
#: BudCache: arXiv 2606.13496. MeanCache: arXiv 2601.19961.
SKIPPED: dict[tuple[str, int], str] = {
    ("BudCache", 29): "5 8 10-11 13-16 18-20 22-23 26-29 31-33 35-36 38-40 42 44 46 48",
    ("BudCache", 37): "5 8-9 11-12 14-23 25-35 37-44 46-48",
    ("BudCache", 41): "4 6 8-19 21-40 42-48",
    ("MeanCache", 29): "12 14-15 17-18 20-22 24-27 29-32 34-38 40-44 46-48",
    ("MeanCache", 37): "7 9-11 13-17 19-26 28-37 39-48",
    ("MeanCache", 41): "5-7 9-18 20-33 35-48",
    ("Forecasters", 29): (
        "3 5-6 8 10-11 13-14 16 18-19 21 23-24 26-27 29 31-32 34 36-37 39-40 42 44-45 47-48"
    ),
    ("Forecasters", 37): "3-5 7-10 12-15 17-19 21-24 26-29 31-33 35-38 40-43 45-48",
    ("Forecasters", 41): "3-8 10-16 18-24 26-32 34-40 42-48",
}


def mask_of(skipped: str, steps: int = STEPS) -> str:
    """A mask, ``C`` to compute and ``.`` to reuse, from runs of skipped steps: ``"3 5-6"``."""
    runs = (run.partition("-") for run in skipped.split())
    left_out = {k for first, _, last in runs for k in range(int(first), int(last or first) + 1)}
    return "".join("." if step in left_out else "C" for step in range(steps))


def published() -> dict[str, Preset]:
    """Presets of ``planned`` with a mask, by the name that people pick."""
    found = {}
    for (whose, count), skipped in SKIPPED.items():
        rule, words = _RULES[whose]
        policy, guards = Planned(mask=mask_of(skipped)), Guards(cooldown=0, longest_run=STEPS)
        note = f"Golden Path Hypothesis, resources, Wan 2.1 1.3B, {count} of {STEPS}; {words}."
        name = f"{whose} Wan 2.1 1.3B, {count} of {STEPS} skipped"
        found[name] = Preset("wan", policy, rule, guards, note)
    return found
