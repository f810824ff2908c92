"""Bundled moments for runs without a profile."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ..forecast.moments import Moments
from .profile import Profile

_FOLDER = Path(__file__).parent / "priors"
#: Whose prior a family without one of its own takes.
_NEAREST = {"ltx2": "ltx"}


@cache
def prior_moments(family: str) -> Moments:
    """Moments of the bundled tiny model of ``family``, or of the nearest one.

    Measured by ``sencache calibrate --family F`` at its default settings: 8 samples, 50 steps,
    guidance 4, flow models at shift 5; ``sencache profile show`` prints them.
    They carry over in shape only: how errors grow with the distance, where in a run they weigh.
    """
    return Profile.load(_FOLDER / f"{_NEAREST.get(family, family)}.safetensors").moments
