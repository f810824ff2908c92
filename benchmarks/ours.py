"""SenCache's own rows, through its diffusers host. A row is one line of ``METHODS``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from sencache_core.config import CacheConfig
from sencache_core.forecast.reuse import Hold, Linear
from sencache_core.hosts.diffusers import attach, record
from sencache_core.measure.calibration import Calibration
from sencache_core.measure.learnt_store import LearntStore
from sencache_core.measure.profile import Profile, ProfileHeader, combine
from sencache_core.policies import Interval, SenCache

from .case import Case
from .method import Method, Setting, Sweep

#: Ordinary runs before the clips of the rows ``*-after-3``.
RUNS = 3


class Frozen(LearntStore):
    """Plans from what it holds; test clips teach it nothing."""

    def add(self, header, observed):
        return None


@dataclass
class Learnt:
    """What ordinary runs with some options have taught, by budget."""

    case: Case
    options: dict
    folder: tempfile.TemporaryDirectory = field(default_factory=tempfile.TemporaryDirectory)

    def store(self, budget: float) -> LearntStore:
        """After :data:`RUNS` clips, of the calibration's, at this budget."""
        folder, case = Path(self.folder.name) / f"{budget:g}", self.case
        if not folder.is_dir():
            config = CacheConfig(**self.options, budget=budget, learn=folder)
            for k in range(RUNS):
                shot = case.calibration[k % len(case.calibration)]
                with attach(
                    case.model.module, config, case.host.scheduler, guidance=case.regime.guidance
                ):
                    case.host.sample([shot])
        return Frozen(folder)


def cached(
    name: str,
    title: str = "",
    measure: Callable[[Case], Profile] | None = None,
    learns: bool = False,
    **options,
) -> Method:
    """A method by SenCache, which meets budgets by itself.

    Args:
        name, title: as of :class:`Method`.
        measure: makes its profile, once per case; ``None``: what the package brings along.
        learns: whether ordinary runs come before.
        options: of :class:`CacheConfig`, beside budget, profile and what is learnt.
    """

    def connect(case: Case, setting: Setting) -> AbstractContextManager:
        budget, made = setting["budget"], case.prepared.get(name)
        config = CacheConfig(
            **options,
            budget=budget,
            profile=made if measure else None,
            learn=made.store(budget) if learns else None,
        )
        module, guidance = case.model.module, case.regime.guidance
        return attach(module, config, case.host.scheduler, learn=False, guidance=guidance)

    def sweeps(case: Case, budget: float) -> list[Sweep]:
        return [Sweep.over("budget", [budget])]

    def learnt(case: Case) -> Learnt:
        return Learnt(case, options)

    return Method(
        name,
        sweeps,
        connect,
        prepare=learnt if learns else measure,
        title=title,
        ours=True,
        at_full=options.get("aim") == "true",
    )


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
    cached("planned-after-3", "planned, after 3 runs", learns=True),
    cached("planned-profile", "planned, profile", profile),
    cached("true-first-run", "true, first run", aim="true"),
    cached("true-after-3", "true, after 3 runs", learns=True, aim="true"),
    cached("true-profile", "true, profile", profile, aim="true"),
    cached("planned-hold", measure=profile, rule=Hold()),
    cached("planned-linear", measure=profile, rule=Linear()),
    cached("planned-no-hindsight", measure=profile, hindsight=False),
    cached("sencache", policy=SenCache(), rule=Linear(), hindsight=False),
    cached("interval-hold", policy=Interval(), rule=Hold(), hindsight=False),
    cached("interval-linear", policy=Interval(), rule=Linear(), hindsight=False),
)
