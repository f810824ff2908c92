"""What is known of a run before it begins: moments, the sampler's steps, what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..forecast.moments import Moments
from ..measure.lesson import Lesson
from ..measure.prior import layers_known, prior_moments
from ..measure.profile import ProfileHeader
from ..model.families import Family
from ..policies import Prior, RunInfo
from ..run.facts import Facts
from ..run.keeping import change_of
from ..run.stats import RunReport
from ..sampler.path import clean_of
from ..sampler.pattern import known
from ..sampler.response import Multistep
from ..sampler.schedule import Schedule
from ..sampler.solver import Clean, transitions
from ..types import OUTPUT

if TYPE_CHECKING:
    from .cache_config import CacheConfig


def know(
    config: CacheConfig,
    row: Family,
    schedule: Schedule,
    facts: Facts,
    report: RunReport,
    lesson: Lesson | None,
    first: bool = True,
) -> RunInfo:
    """What is known of a run.

    Args:
        config: how it is cached.
        row: of the model.
        schedule: of the run.
        facts: what the host knows.
        report: told what it rests on.
        lesson: what earlier runs have told.
        first: not one that is to follow another.
    """
    moments, closer = _moments(config, row, schedule, report, lesson, first)
    steps, multistep = _transitions(config, row, schedule, facts, report)
    rule = config.rule.bound(closer, [row.time(sigma) for sigma in schedule.rounds])
    kept_as = _kept_as(config, row, schedule, facts)
    clean = kept_as is not None and not config.output_rule.reads_x
    return RunInfo(
        row,
        schedule,
        config.profile or Prior(row),
        moments,
        steps,
        rule.in_noise() if clean else rule,
        facts.x0_seen and schedule.sigmas[-1] > 0,
        facts.guided,
        facts.clean,
        to_truth=config.to_truth and steps is not None,
        multistep=multistep,
        channels=facts.channels,
        blocks=facts.blocks,
        kept_as=kept_as,
        guidance=facts.guidance,
        mends=config.hindsight or config.to_truth,
        layers=layers_known(config.profile, row),
    )


def know_later(
    config: CacheConfig,
    run: RunInfo,
    facts: Facts,
    header: ProfileHeader | None,
    report: RunReport,
) -> list[RunInfo]:
    """What is known of the stages that are to follow a run and share its budget."""
    out: list[RunInfo] = []
    moments = run.moments
    if moments is None or moments.gain is None or not config.policy.planned:
        return out  # what a stage's evaluations gain is not known
    for part in facts.stage.later:
        schedule, lesson = known(part.schedule), None
        aside = replace(report, messages=[])
        if config.learn is not None and header is not None:
            own = replace(header, fingerprint=part.fingerprint, guidance=part.guidance)
            lesson = Lesson.of(config.learn, own, schedule, aside)
        out.append(know(config, run.family, schedule, facts, aside, lesson, first=False))
    return out


def _moments(
    config: CacheConfig,
    row: Family,
    schedule: Schedule,
    report: RunReport,
    lesson: Lesson | None,
    first: bool,
) -> tuple[Moments | None, Moments | None]:
    """Second moments to plan by, and to forecast by; ``None`` where none would fit the model.

    The profile is the first stage's model; for a later one it serves where it was measured. What
    ordinary runs tell makes forecasts better, and plans worse: how errors travel they do not show
    (docs/theory.md, section 8).
    """
    profile = config.profile.moments if config.profile is not None else None
    planned = config.policy.planned
    if profile is not None and (first or profile.t[0] < row.time(schedule.sigmas[0])):
        report.rests_on("profile", planned)
        return profile, profile
    if row.generic:
        return None, None
    prior = prior_moments(row.name)
    if lesson is not None:
        times = [row.time(sigma) for sigma in schedule.rounds]
        if (closer := lesson.moments(prior, times)) is not None:
            report.rests_on("learnt", planned, lesson.known.header.samples)
            return prior, closer
    report.rests_on("prior", planned)
    return prior, prior


def _transitions(
    config: CacheConfig, row: Family, schedule: Schedule, facts: Facts, report: RunReport
) -> tuple[Sequence[tuple[float, float]] | None, Multistep | None]:
    """The sampler's steps, if forecasts are to be taken back and that is sound, and what it
    carries on from one to the next; ``None`` where that is nothing, or there are none.
    """
    # The payload of another tap is not what the sampler steps with.
    wanted = (config.hindsight or config.to_truth) and config.tap_in_use == OUTPUT.tap
    if not wanted or row.generic or config.output_rule.reads_x:
        return None, None
    steps, multistep = transitions(row, schedule, facts.clean), None
    if steps is None and config.to_truth and facts.multistep and schedule.by_list:
        multistep = facts.multistep()
    if multistep is not None:
        steps = multistep.transitions(schedule.sigmas, facts.clean or clean_of(row))
    if steps is not None and not facts.linear_guidance:
        report.say("guidance_not_linear")
        return None, None
    return steps, multistep


def _kept_as(config: CacheConfig, row: Family, schedule: Schedule, facts: Facts) -> Clean | None:
    """Factors of what is kept in an output's place, see ``run/keeping.py``."""
    if config.tap_in_use != OUTPUT.tap:
        return None
    if config.output_rule.reads_x:
        return change_of(row, schedule, facts.clean)
    own = OUTPUT.tap in config.policy.rules or config.policy.needs_pairs
    if own or not schedule.draws:
        return None
    return facts.clean or (clean_of(row) if row.prediction == "flow" else None)
