"""Settings as published by their authors: what the policies say of themselves, in one table."""

from __future__ import annotations

from . import POLICIES
from .base import Preset

#: Presets by the name that people pick.
PRESETS: dict[str, Preset] = {
    name: preset for policy in POLICIES.values() for name, preset in policy.presets().items()
}

__all__ = ["PRESETS", "Preset"]
