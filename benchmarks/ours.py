"""SenCache's own rows, through its diffusers host: the default and its ablations."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np

from sencache_core.config import DEFAULT_GUARDS, CacheConfig
from sencache_core.forecast.reuse import Fitted, Hold, Linear, Quadratic, TwoBands
from sencache_core.hosts.diffusers import attach, record
from sencache_core.measure.calibration import Calibration
from sencache_core.measure.profile import Profile, ProfileHeader, combine
from sencache_core.policies import CfgCache, Interval, Planned, SenCache
from sencache_core.policies.planner import GAIN_POWER

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
    """Sensitivities measured on the case's calibration clips, once for all methods.

    Raises:
        RuntimeError: a calibration clip gave no complete recording.
    """
    for known in case.prepared.values():
        if isinstance(known, Profile):
            return known
    guidance, runs = case.regime.guidance, Calibration()
    with record(
        case.model.module, case.host.scheduler, guidance=guidance, probes=runs.probes
    ) as measured:
        for prompt, seed in case.calibration:
            for _ in range(runs.runs_of(case.regime.steps)):
                case.sample(prompt, seed)
        measured.close()
        recordings = measured.recordings
    if len(recordings) != len(case.calibration):
        raise RuntimeError("a calibration clip gave no complete recording")
    header = ProfileHeader(
        family=case.model.family,
        sigmas=tuple(step.sigma for step in measured.reports[0].steps),
        guidance=guidance,
        samples=len(recordings),
        source="sencache bench",
    )
    return combine(recordings, header)


def without_gain(measured: Profile) -> Profile:
    """The profile with every error taken to reach the end as it is."""
    return with_moments(measured, gain=np.ones_like(measured.moments.gain))


def gain_to_the_power(power: float) -> Callable[[Profile], Profile]:
    """The profile whose gains enter plans at another power than the planner's own."""

    def edit(measured: Profile) -> Profile:
        gain = np.maximum(measured.moments.gain, 1.0) ** (power / GAIN_POWER)
        return with_moments(measured, gain=gain)

    return edit


def without_response(measured: Profile) -> Profile:
    """The profile with outputs taken not to answer to a displaced latent."""
    return with_moments(measured, response=np.zeros_like(measured.moments.response))


def with_moments(measured: Profile, **changes: np.ndarray) -> Profile:
    """The profile with other arrays in its moments."""
    return replace(measured, moments=replace(measured.moments, **changes))


def _calibrated(name: str, **options) -> Method:
    """A method whose configuration differs from the default by ``options``; it has a profile."""
    edit = options.pop("edit", lambda measured: measured)

    def config(case: Case, budget: float) -> CacheConfig:
        return CacheConfig(**options, budget=budget, profile=edit(profile(case)))

    return cached(name, config, calibrated=True)


#: The default, and the default with one part taken away.
ABLATIONS = (
    _calibrated("planned"),
    _calibrated("planned-hold", rule=Hold()),
    _calibrated("planned-linear", rule=Linear()),
    _calibrated("planned-quadratic", rule=Quadratic()),
    _calibrated("planned-no-gain", edit=without_gain),
    _calibrated("planned-gain-0.5", edit=gain_to_the_power(0.5)),
    _calibrated("planned-gain-1", edit=gain_to_the_power(1.0)),
    _calibrated("planned-first-tenth", guards=replace(DEFAULT_GUARDS, start=0.1)),
    _calibrated("planned-no-correction", policy=Planned(correct=False)),
    _calibrated("planned-no-hindsight", hindsight=False),
    _calibrated("planned-no-response", edit=without_response),
    cached("planned-no-profile", lambda case, budget: CacheConfig(budget=budget)),
    _calibrated("alphas-only", policy=SenCache(), rule=Linear(), hindsight=False),
)

METHODS = (
    *ABLATIONS,
    cached(
        "sencache",
        lambda case, budget: CacheConfig(SenCache(), Linear(), budget=budget, hindsight=False),
    ),
    *(
        cached(
            f"cfg-cache-{name}",
            lambda case, budget, rule=rule: CacheConfig(CfgCache(), gap_rule=rule, budget=budget),
        )
        for name, rule in (("bands", TwoBands()), ("fitted", Fitted()))
    ),
    *(
        cached(
            f"interval-{rule.name}",
            lambda case, budget, rule=rule: CacheConfig(
                Interval(), rule, budget=budget, hindsight=False
            ),
        )
        for rule in (Hold(), Linear(), Quadratic())
    ),
)
