"""Socket types of the pack and the plain objects that travel along them."""

from __future__ import annotations

from dataclasses import dataclass

from comfy_api.latest import io

from ..sencache_core import Guards, Policy, ReuseRule

POLICY = io.Custom("SENCACHE_POLICY")
PROFILE = io.Custom("SENCACHE_PROFILE")
STATS = io.Custom("SENCACHE_STATS")


@dataclass(frozen=True)
class PolicyChoice:
    """What Policy Select hands to Apply.

    Attributes:
        policy: the policy with its settings.
        rule: reuse rule that belongs to it, ``None`` to leave the choice to Apply.
        gap_rule: forecast of guidance pairs' differences that belongs to it, ``None``: Apply's.
        guards: guards that belong to it, ``None`` to leave them to Apply.
        hindsight: whether forecasts are taken back, ``None`` to leave that to Apply.
        fixed: its own settings rule, whatever budget Apply shows (a published preset, a mask).
    """

    policy: Policy
    rule: ReuseRule | None = None
    gap_rule: ReuseRule | None = None
    guards: Guards | None = None
    hindsight: bool | None = None
    fixed: bool = False
