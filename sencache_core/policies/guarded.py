"""The wrapper that asks the guards before any policy: all generic limits live here, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..model.families import Family
from ..types import ALL, AWAITED, SAME_TIME, Decision, Reason, Step
from .base import Guards, Policy, RunInfo
from .plan import Plan


@dataclass(frozen=True)
class Guarded(Policy):
    """``inner``, held within ``guards``. Also computes whenever the noise level rises.

    Args:
        inner: the policy.
        guards: asked before it.
        asked: evaluations that a run is to spend, those of the conditional branch alone counted by
            half; ``None`` where no budget rules.
    """

    name: ClassVar[str] = "guarded"
    title: ClassVar[str] = "Guarded"
    inner: Policy
    guards: Guards
    asked: float | None = None

    @property
    def reuses(self) -> bool:
        return self.inner.reuses

    @property
    def needs_pairs(self) -> bool:
        return self.inner.needs_pairs

    @property
    def looks(self) -> bool:
        return self.inner.looks

    @property
    def reads_outputs(self) -> bool:
        return self.inner.reads_outputs

    def signal(self, family: Family) -> str:
        return self.inner.signal(family)

    def plan(self, run: RunInfo, guards: Guards) -> Plan:
        return self.inner.plan(run, self.guards)

    def ahead(self, state: Any) -> Plan | None:
        return self.inner.ahead(state)

    def start(self, run: RunInfo) -> Any:
        return self.inner.start(run)

    def resume(self, run: RunInfo, steps: Sequence[Step]) -> Any:
        return self.inner.resume(run, steps)

    def decide(self, step: Step, last: Step, state: Any) -> tuple[Decision, Any]:
        reason = self.guards.forces(step.ordinal, step.index, step.num_steps, step.streak)
        if step.t > last.t + SAME_TIME:
            reason = Reason.TIME_ROSE
        if reason is not None:
            return Decision(ALL, reason), state
        if self.looks and step.look is None:
            return AWAITED, state
        return self.inner.decide(step, last, state)

    def observe(self, step: Step, state: Any) -> Any:
        return self.inner.observe(step, state)
