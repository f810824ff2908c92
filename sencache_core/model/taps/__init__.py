"""Taps: the places in a model whose output may be spared, one file a depth."""

from .base import Listener, Tap, Visit
from .blocks import Blocks
from .output import Output
from .stack import Stack

#: Every tap by name. A new depth is one file and one line here.
TAPS: dict[str, Tap] = {tap.name: tap for tap in (Output(), Stack(), Blocks())}

__all__ = ["TAPS", "Listener", "Tap", "Visit"]
