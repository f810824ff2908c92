"""At which depth a method works, for menus and tables: by the tap and the pairs that it names."""

from __future__ import annotations

from ..types import OUTPUT, STACK
from . import POLICIES
from .base import Policy

STEP, BLOCKS, ATTENTION, GUIDANCE = "whole step", "blocks", "attention", "guidance"
#: In the order in which people meet them.
GROUPS = (STEP, BLOCKS, ATTENTION, GUIDANCE)


def group_of(policy: Policy) -> str:
    """One of :data:`GROUPS`."""
    if policy.tap in ("", OUTPUT.tap, STACK.tap):
        return GUIDANCE if policy.needs_pairs else STEP
    return BLOCKS if policy.tap == "blocks" else ATTENTION


def grouped() -> dict[str, list[str]]:
    """Names of all policies that reuse, by group; within a group as they are registered."""
    made = {name: policy() for name, policy in POLICIES.items()}
    return {
        group: [n for n, policy in made.items() if policy.reuses and group_of(policy) == group]
        for group in GROUPS
    }
