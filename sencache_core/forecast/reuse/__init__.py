"""Reuse rules: how a missing output is made. A new rule is one file and one line here."""

from .bands import TwoBands
from .base import ReuseRule
from .change import HoldChange
from .fitted import Fitted
from .polynomial import Hold, Linear, Quadratic

REUSE_RULES: dict[str, type[ReuseRule]] = {
    rule.name: rule for rule in (Fitted, Hold, Linear, Quadratic)
}

__all__ = [
    "REUSE_RULES",
    "Fitted",
    "Hold",
    "HoldChange",
    "Linear",
    "Quadratic",
    "ReuseRule",
    "TwoBands",
]
