"""TAFC's forecast: on along the line through the last two outputs, however far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .polynomial import Linear


@dataclass(frozen=True)
class Tangent(Linear):
    """``r_b + (r_b - r_a) / (t_b - t_a) * (t - t_b)`` of the last two outputs, in physical time.

    TAFC (bijiw515/TAFC, repository): its policy says how far a line may go on, so that the bound of
    ``linear`` is left to it, but for what no policy would ask for.
    """

    name: ClassVar[str] = "tangent"
    gives: ClassVar[str] = (
        "on along the line through the last two, as far as its policy lets it (TAFC)"
    )
    #: A line may go on for 20 times the way between its two outputs.
    most_weight: ClassVar[float] = 41.0
