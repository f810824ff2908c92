"""SenCache's own rows, through its diffusers host.

Every policy and every reuse rule that is registered has a row, ``ours-NAME`` and
``ours-rule-NAME``; what else is compared is one line of ``METHODS``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from sencache_core.config import CacheConfig
from sencache_core.forecast.reuse import REUSE_RULES, Hold, Linear
from sencache_core.hosts.diffusers import attach, record
from sencache_core.measure.calibration import Calibration
from sencache_core.measure.learnt_store import LearntStore
from sencache_core.measure.profile import Profile, ProfileHeader, combine
from sencache_core.model.families import FAMILIES
from sencache_core.policies import POLICIES, DBCache, Interval, Policy
from sencache_core.sampler.schedule import Schedule
from sencache_core.types import OUTPUT
from sencache_core.words import Message

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
        options: of :class:`CacheConfig`, beside budget, profile and what is learnt; the aim is the
            same clip unless they say otherwise.
    """
    options = {"aim": "same", **options}

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
        at_full=options["aim"] == "true",
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


def published(name: str, family: str) -> CacheConfig:
    """A policy with the settings that it starts with, and the rules of its authors.

    Those of its first preset for the family, or else for any; without presets the last output is
    held. Nothing else of this package helps along.
    """
    policy = POLICIES[name]()
    if isinstance(policy, DBCache):  # its 8 first blocks would be all of a tiny model's
        policy = replace(policy, first=1)
    presets = sorted(policy.presets().values(), key=lambda preset: preset.family != family)
    config = CacheConfig(policy, Hold(), hindsight=False)
    if not presets:
        return config
    rule, gap = presets[0].rule, presets[0].gap_rule
    return replace(config, rule=rule, gap_rule=gap or config.gap_rule)


def fitting(name: str, case: Case) -> CacheConfig:
    """As :func:`published`, with a profile, or with outputs kept, where it needs that here.

    Raises:
        ValueError: it cannot serve the model. The message says why.
    """
    config, schedule = published(name, case.model.family), Schedule(tuple(case.host.sigmas))

    def misfit(config: CacheConfig) -> Message | None:
        run = config.start(FAMILIES[case.model.family], schedule).course.run
        return config.policy.misfit(run)

    why = misfit(config)
    if not why:
        return config
    own = config.policy
    for policy in (own, replace(own, place=OUTPUT.tap) if hasattr(own, "place") else own):
        other = replace(config, policy=policy)
        if other.tap_in_use == OUTPUT.tap:  # where profiles are measured here
            other = replace(other, profile=profile(case))
        if not misfit(other):
            return other
    raise ValueError(str(why))


@contextmanager
def served(case: Case, config: CacheConfig) -> Iterator[None]:
    """The case's module with a cache that learns nothing.

    Raises:
        ValueError: the run was not cached. The message says why.
    """
    module, guidance = case.model.module, case.regime.guidance
    with attach(module, config, case.host.scheduler, learn=False, guidance=guidance) as cache:
        yield
        cache.close()
    off = (said for said in cache.reports[-1].messages if said.key.startswith("off."))
    if why := next(off, None):
        raise ValueError(str(why))


def registered(name: str, policy: type[Policy]) -> Method:
    """The row of a registered policy, at its own tap, under the budget."""
    row = f"ours-{name}"

    def connect(case: Case, setting: Setting) -> AbstractContextManager:
        return served(case, replace(case.prepared[row], budget=setting["budget"]))

    def sweeps(case: Case, budget: float) -> list[Sweep]:
        return [Sweep.over("budget", [budget])]

    title, prepare = f"ours: {policy.title}", partial(fitting, name)
    return Method(row, sweeps, connect, prepare=prepare, title=title, ours=True)


def rule_row(name: str) -> Method:
    """The row of a registered reuse rule: its forecasts on even steps."""
    options = {"policy": Interval(), "rule": REUSE_RULES[name](), "hindsight": False}
    return cached(f"ours-rule-{name}", f"ours: rule {name} on even steps", **options)


def _compared(policy: type[Policy]) -> bool:
    """Whether a policy has a row of its own: not if it never reuses, nor if it is our default."""
    return policy().reuses and policy is not type(CacheConfig().policy)


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
    *(registered(name, policy) for name, policy in POLICIES.items() if _compared(policy)),
    *(rule_row(name) for name in REUSE_RULES if name != Hold.name),  # ours-interval holds
)
