"""The schedule of a policy that decides by noise levels and its settings alone, before a run."""

from __future__ import annotations

import math
from typing import Any

from ..policies import Policy, RunInfo
from ..policies.plan import Plan
from ..types import ALL, NONE, Decision, Reason, Step

#: What of a step only a run can show.
_SHOWN = frozenset({"x", "moved", "error", "extra", "look", "anew", "output", "work"})


class _Unknown(Exception):
    """A policy has asked for what is not known before a run."""


class _Ahead(Step):
    """A step that nothing is known of but where it lies."""

    def __getattribute__(self, name: str) -> Any:
        if name in _SHOWN:
            raise _Unknown(name)
        return super().__getattribute__(name)


def foresee(policy: Policy, run: RunInfo) -> Plan | None:
    """Which rounds a policy will compute, and which in part (``Plan.half``).

    It is asked round by round as in a run whose evaluations all come as expected. ``None``: it goes
    by what a run shows.

    Args:
        policy: as a run is made with, guards and budget included.
        run: what is known of it.
    """
    if policy.signal(run.family):
        return None
    rounds, steps, state = run.schedule.rounds, run.schedule.steps(), policy.start(run)
    mask, half = [], set()
    last: Step | None = None
    streak, paired = 0, False
    try:
        for ordinal, (sigma, index) in enumerate(zip(rounds, steps, strict=True)):
            t, known = run.family.time(sigma), {"streak": streak, "paired": paired}
            step = _Ahead((), math.nan, sigma, t, index, run.schedule.num_steps, ordinal, **known)
            decision = Decision(ALL, Reason.FIRST)
            if last is not None:
                decision, state = policy.decide(step, last, state)
            mask.append(decision.compute is not NONE)
            if decision.compute is NONE:
                streak += 1
                continue
            last, streak = step, 0
            if decision.partial:
                half.add(ordinal)
            else:
                state = policy.observe(step, state)
                paired = policy.needs_pairs and run.guided
    except _Unknown:
        return None
    return Plan(tuple(mask), half=frozenset(half))
