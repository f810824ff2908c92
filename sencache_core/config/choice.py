"""The policy that a run is made with: the one asked for, guarded, for the budget; or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..policies import Guarded, Guards, Off, Policy, RunInfo
from ..policies.plan import evaluations_of
from ..run.division import divide
from ..run.facts import Facts, Stage
from ..run.stats import RunReport

if TYPE_CHECKING:
    from .cache_config import CacheConfig

#: Two outputs before anything is forecast: from one alone there is only holding, and no probe
#: measures how far its error travels. More is the policy's to decide, for a plan the plan's:
#: evaluations of a first tenth that is always computed are missing later. Ours, chosen on clips
#: that no table holds.
DEFAULT_GUARDS = Guards(warmup=2, start=None)

#: Expected RMS error of the final latent, of RMS 1, beyond which a short run is not cached: runs of
#: about 10 steps are ruined there, by the bundled priors (ours; docs/theory.md, section 7).
MOST_EXPECTED = 0.12


def choose(
    config: CacheConfig, run: RunInfo, report: RunReport, facts: Facts, later: Sequence[RunInfo]
) -> Policy:
    """The policy to run with: off where caching cannot pay, else guarded, for the budget.

    Args:
        config: how it is to be cached.
        run: what is known of it.
        report: told why it is not as asked for.
        facts: what the host knows.
        later: what is known of the stages that share the budget.
    """
    stage = facts.stage
    if not config.policy.reuses:
        return config.policy
    if why := _why_off(config, run, stage):
        report.say(f"Caching is off: {why}")
        return Off()
    own = config.policy.own_guards(config.guards, DEFAULT_GUARDS)
    if own.start is None:
        own = replace(own, start=config.policy.opening)
    clip, steps = own, run.schedule.num_steps
    if not config.policy.fixed:
        own = stage.guards(clip, steps)
    if config.budget is None or config.policy.fixed:
        return Guarded(config.policy, own)
    rounds = len(run.schedule.rounds)
    evaluations = evaluations_of(config.budget, rounds, stage.carry)
    if later:
        profiled = config.profile is not None and run.moments is config.profile.moments
        evaluations = divide(
            config.policy, config.budget, run, later, clip, stage, report, profiled
        )
    if evaluations >= rounds and not run.to_truth:
        return Off()
    guards = config.policy.fit_guards(own, evaluations, run)
    forced = config.policy.fewest(guards, run)
    if forced > evaluations:
        report.say(
            f"The budget of {evaluations} of {rounds} evaluations cannot be met: start/end, "
            f"warm-up, the longest run and the policy force {forced:.3g}, which is about what "
            "this run spends."
        )
    elif config.policy.raised(own, guards):
        report.say(
            f"{evaluations} of {rounds} evaluations need up to {guards.longest_run} reuses in "
            f"a row; the limit of {own.longest_run} was raised for this run."
        )
    evaluations = max(evaluations, forced)
    policy = Guarded(config.policy.for_budget(evaluations, run, guards), guards, evaluations)
    short = stage.steps(steps) < 2 * config.min_steps
    if config.policy.planned and short and not facts.guided:
        # What skipping costs: the limit is not one on what the sampler itself misses.
        expected = policy.plan(replace(run, to_truth=False), guards).error
        if expected > MOST_EXPECTED:
            report.say(
                f"Caching is off: with {evaluations:g} of {rounds} evaluations the clip would "
                f"be off by about {expected:.0%}. A run of {steps} steps "
                "without guidance, as of distilled models, has few to spare; a larger budget, "
                "or more steps, allows it."
            )
            return Off()
    return policy


def _why_off(config: CacheConfig, run: RunInfo, stage: Stage) -> str:
    """Why a run must be computed in full, as the end of a sentence; empty: it need not."""
    schedule, steps = run.schedule, stage.steps(run.schedule.num_steps)
    if steps < config.min_steps:
        what = "run" if steps == schedule.num_steps else "clip"
        return (
            f"this {what} has {steps} steps, and {what}s of fewer than {config.min_steps} "
            "(distilled models, speed LoRAs) have none to spare. Lower min_steps to cache all "
            "the same."
        )
    if not schedule.falling:
        return "the sampler's noise levels do not fall throughout."
    if schedule.adaptive:
        return (
            f"the sampler {schedule.sampler} measures its own error to choose its steps, and "
            "would measure that of the forecasts instead."
        )
    if schedule.comes_back:
        return (
            f"the sampler {schedule.sampler} looks ahead and comes back to more noise, which "
            "outputs at less noise cannot predict."
        )
    if why := config.policy.misfit(run):  # a workflow's steps have changed: let it finish
        return f"{why}."
    return ""
