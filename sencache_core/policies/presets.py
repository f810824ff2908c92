"""Settings as published by their authors: those of the policies, and schedules by name."""

from __future__ import annotations

from . import POLICIES
from .base import Preset
from .schedules import published

#: Presets by the name that people pick.
PRESETS: dict[str, Preset] = {
    name: preset for policy in POLICIES.values() for name, preset in policy.presets().items()
} | published()

__all__ = ["PRESETS", "Preset"]
