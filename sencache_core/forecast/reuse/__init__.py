"""Reuse rules: how a missing output is made. A new rule is one file and one line here."""

from .bands import TwoBands
from .base import ReuseRule
from .change import HoldChange
from .fitted import Fitted
from .gradient import Gradient
from .hicache import HiCache
from .meancache import MeanCache
from .polynomial import Hold, Linear, Quadratic
from .scale_shift import ScaleShift
from .spectrum import Spectrum
from .tangent import Tangent
from .taylorseer import TaylorSeer
from .two_point import TwoPoint

REUSE_RULES: dict[str, type[ReuseRule]] = {
    rule.name: rule
    for rule in (
        Fitted,
        Hold,
        Linear,
        Quadratic,
        TaylorSeer,
        HiCache,
        Spectrum,
        MeanCache,
    )
}

__all__ = [
    "REUSE_RULES",
    "Fitted",
    "Gradient",
    "HiCache",
    "Hold",
    "HoldChange",
    "Linear",
    "MeanCache",
    "Quadratic",
    "ReuseRule",
    "ScaleShift",
    "Spectrum",
    "Tangent",
    "TaylorSeer",
    "TwoBands",
    "TwoPoint",
]
