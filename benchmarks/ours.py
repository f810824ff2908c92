"""SenCache's own rows, through its diffusers host. A row is one line of ``METHODS``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from sencache_core.config import CacheConfig
from sencache_core.forecast.reuse import Hold, Linear
from sencache_core.hosts.diffusers import attach, record
from sencache_core.measure.calibration import Calibration
from sencache_core.measure.profile import Profile, ProfileHeader, combine
from sencache_core.policies import Interval, SenCache

from .case import Case
from .method import Method, Setting, Sweep


def cached(
    name: str,
    title: str = "",
    measure: Callable[[Case], Profile] | None = None,
    at_full: bool = False,
    **options,
) -> Method:
    """A method by SenCache, which meets budgets by itself.

    Args:
        name, title, at_full: as of :class:`Method`.
        measure: makes its profile, once per case; ``None``: what the package brings along.
        options: of :class:`CacheConfig`, beside budget and profile.
    """

    def connect(case: Case, setting: Setting) -> AbstractContextManager:
        own = case.prepared[name] if measure else None
        config = CacheConfig(**options, budget=setting["budget"], profile=own)
        return attach(case.model.module, config, case.host.scheduler, learn=False)

    def sweeps(case: Case, budget: float) -> list[Sweep]:
        return [Sweep.over("budget", [budget])]

    return Method(name, sweeps, connect, prepare=measure, title=title, ours=True, at_full=at_full)


def profile(case: Case) -> Profile:
    """Sensitivities measured on the case's calibration clips, kept on disk.

    Raises:
        RuntimeError: a calibration clip gave no complete recording.
    """
    for known in case.prepared.values():
        if isinstance(known, Profile):
            return known
    regime, runs = case.regime, Calibration()
    how = f"{regime.steps}-{regime.shift:g}-{regime.guidance:g}-{len(case.calibration)}"
    file = case.store.path(f"profile-{how}")
    if file.is_file():
        return Profile.load(file)
    with record(
        case.model.module, case.host.scheduler, guidance=regime.guidance, probes=runs.probes
    ) as measured:
        for shot in case.calibration:
            for _ in range(runs.runs_of(regime.steps)):
                case.host.sample([shot])
        measured.close()
        recordings = measured.recordings
    if len(recordings) != len(case.calibration):
        raise RuntimeError("a calibration clip gave no complete recording")
    header = ProfileHeader(
        family=case.model.family,
        sigmas=tuple(step.sigma for step in measured.reports[0].steps),
        guidance=regime.guidance,
        samples=len(recordings),
        source="sencache bench",
    )
    combine(recordings, header).save(file)
    return Profile.load(file)


METHODS = (
    cached("planned-first-run", "planned, first run"),
    cached("planned-profile", "planned, profile", profile),
    cached("planned-hold", measure=profile, rule=Hold()),
    cached("planned-linear", measure=profile, rule=Linear()),
    cached("planned-no-hindsight", measure=profile, hindsight=False),
    cached("sencache", policy=SenCache(), rule=Linear(), hindsight=False),
    cached("interval-hold", policy=Interval(), rule=Hold(), hindsight=False),
    cached("interval-linear", policy=Interval(), rule=Linear(), hindsight=False),
)
