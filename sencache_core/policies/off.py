"""No caching: every round is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..types import ALL, Decision, Reason, Step
from .base import Guards, Policy, RunInfo
from .plan import Plan


@dataclass(frozen=True)
class Off(Policy):
    """Never reuse: the reference every other policy is compared with."""

    name: ClassVar[str] = "off"
    title: ClassVar[str] = "Off (reference)"
    decides: ClassVar[str] = "nothing; the reference"

    @property
    def reuses(self) -> bool:
        return False

    def decide(self, step: Step, last: Step, state: Any) -> tuple[Decision, Any]:
        return Decision(ALL, Reason.OFF), state

    def plan(self, run: RunInfo, guards: Guards) -> Plan:
        return Plan((True,) * len(run.times), 0.0, skipping=0.0)

    def for_budget(self, evaluations, run, guards) -> Policy:
        return self
