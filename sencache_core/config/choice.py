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
from ..words import Message, about

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
        report.say(why)
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
        report.say("budget_forced", asked=evaluations, total=rounds, forced=about(forced))
    elif config.policy.raised(own, guards):
        longest = {"longest": guards.longest_run, "limit": own.longest_run}
        report.say("longest_run_raised", asked=evaluations, total=rounds, **longest)
    evaluations = max(evaluations, forced)
    policy = Guarded(config.policy.for_budget(evaluations, run, guards), guards, evaluations)
    short = stage.steps(steps) < 2 * config.min_steps
    if config.policy.planned and short and not facts.guided:
        # What skipping costs: the limit is not one on what the sampler itself misses.
        expected = policy.plan(replace(run, to_truth=False), guards).error
        if expected > MOST_EXPECTED:
            figures = {"asked": about(evaluations, 6), "percent": round(100 * expected)}
            report.say("off.clip_lost", **figures, total=rounds, steps=steps)
            return Off()
    return policy


def _why_off(config: CacheConfig, run: RunInfo, stage: Stage) -> Message | None:
    """Why a run must be computed in full; ``None``: it need not."""
    schedule, steps = run.schedule, stage.steps(run.schedule.num_steps)
    if steps < config.min_steps:
        alone = steps == schedule.num_steps
        key = "off.few_steps" if alone else "off.few_steps_in_all"
        return Message.of(key, count=steps, least=config.min_steps)
    if not schedule.falling:
        return Message.of("off.rising")
    if schedule.adaptive:
        return Message.of("off.adaptive", sampler=schedule.sampler)
    if schedule.comes_back:
        return Message.of("off.comes_back", sampler=schedule.sampler)
    return config.policy.misfit(run)  # a workflow's steps have changed: let it finish
