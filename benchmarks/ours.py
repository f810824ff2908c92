"""SenCache's own rows, through its diffusers host."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from sencache_core.calibration import Calibration
from sencache_core.config import CacheConfig
from sencache_core.hosts.diffusers import attach, record
from sencache_core.policies import Interval, Planned, Policy, SenCache
from sencache_core.profile import Profile, ProfileHeader, combine
from sencache_core.reuse import Fitted, Hold, Linear, Quadratic, ReuseRule

from .case import Case
from .method import Method, Setting, Sweep


def cached(
    name: str, config: Callable[[Case, float], CacheConfig], calibrated: bool = False
) -> Method:
    """A method by SenCache, which meets budgets by itself.

    Args:
        name: the rows' ``method``.
        config: how to cache, given the case and the budget.
        calibrated: measure a :func:`profile` first, for ``config`` to find in ``case.prepared``.
    """

    def connect(case: Case, setting: Setting) -> AbstractContextManager:
        chosen = config(case, setting["budget"])
        return attach(case.model.module, chosen, case.host.scheduler)

    def sweeps(case: Case, budget: float) -> list[Sweep]:
        return [Sweep.over("budget", [budget])]

    return Method(name, sweeps, connect, prepare=profile if calibrated else None)


def profile(case: Case) -> Profile:
    """Sensitivities measured on the case's calibration clips.

    Raises:
        RuntimeError: a calibration clip gave no complete recording.
    """
    guidance, runs = case.regime.guidance, Calibration()
    with record(
        case.model.module, case.host.scheduler, guidance=guidance, probes=runs.probes
    ) as measured:
        for number, (prompt, seed) in enumerate(case.calibration):
            for _ in range(runs.runs_of(number)):
                case.sample(prompt, seed)
        measured.close()
        recordings = measured.recordings
    if len(recordings) != len(case.calibration):
        raise RuntimeError("a calibration clip gave no complete recording")
    header = ProfileHeader(
        family=case.model.family,
        sigmas=tuple(step.sigma for step in measured.reports[0].steps),
        guidance=case.regime.guidance,
        samples=len(recordings),
        source="sencache bench",
    )
    return combine(recordings, header)


def _planned(name: str, policy: Policy | None = None, rule: ReuseRule | None = None, **options):
    """A variant of our default with a profile of the case."""

    def config(case: Case, budget: float) -> CacheConfig:
        return CacheConfig(
            policy or Planned(), rule or Fitted(), budget=budget, profile=_shared(case), **options
        )

    return cached(name, config, calibrated=True)


def _shared(case: Case) -> Profile:
    return next(value for value in case.prepared.values() if isinstance(value, Profile))


METHODS = (
    _planned("planned"),
    cached("sencache", lambda case, budget: CacheConfig(SenCache(), Linear(), budget=budget)),
    *(
        cached(
            f"interval-{rule.name}",
            lambda case, budget, rule=rule: CacheConfig(Interval(), rule, budget=budget),
        )
        for rule in (Hold(), Linear(), Quadratic())
    ),
)
