"""No caching: every round is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..types import Decision, Reason, Step
from .base import Policy


@dataclass(frozen=True)
class Off(Policy):
    """Never reuse: the reference every other policy is compared with."""

    name: ClassVar[str] = "off"
    title: ClassVar[str] = "Off (reference)"

    def decide(self, step: Step, last: Step, state: Any) -> tuple[Decision, Any]:
        return Decision(False, Reason.OFF), state

    def for_budget(self, evaluations, run, guards) -> Policy:
        return self
