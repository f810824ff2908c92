"""Bundled moments for runs without a profile."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ..forecast.layers import LayerCurves
from ..forecast.moments import Moments
from ..model.families import Family
from .profile import Profile

_FOLDER = Path(__file__).parent / "priors"
#: Whose prior a family without one of its own takes.
_NEAREST = {"ltx2": "ltx"}


def prior_moments(family: str) -> Moments:
    """Moments of the bundled tiny model of ``family``, or of the nearest one.

    Measured by ``sencache calibrate --family F`` at its default settings: 8 samples, 50 steps,
    guidance 4, flow models at shift 5; ``sencache profile show`` prints them.
    They carry over in shape only: how errors grow with the distance, where in a run they weigh.
    """
    return _prior(family).moments


def layers_known(profile: Profile | None, family: Family) -> LayerCurves | None:
    """How layers change: as the profile has it, else as in the bundled tiny model of the family, or
    of the nearest one, measured in the runs of its moments; ``None``: unknown.
    """
    if profile is not None and profile.layers is not None:
        return profile.layers
    return None if family.generic else _prior(family.name).layers


@cache
def _prior(family: str) -> Profile:
    return Profile.load(_FOLDER / f"{_NEAREST.get(family, family)}.safetensors")
