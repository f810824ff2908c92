"""One budget over all stages of a clip: how many evaluations the first of them spends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..policies import Guards, Policy, RunInfo
from ..policies.plan import evaluations_of
from .facts import Stage
from .stats import RunReport


def divide(
    policy: Policy,
    budget: float,
    run: RunInfo,
    later: Sequence[RunInfo],
    guards: Guards,
    stage: Stage,
    report: RunReport,
    profiled: bool = False,
) -> int:
    """Evaluations that a run spends of the budget that it has together with later ones.

    Args:
        policy: a planned one.
        budget: share of evaluations.
        run: what is known of the run.
        later: what is known of the others. Those of the same sampler ask as it does.
        guards: of the clip.
        stage: the run's place in the clip.
        report: told what is left to the others.
        profiled: whether the run's gains are those of a profile, which may have been measured on
            this stage alone, so that they end where it does.
    """
    before, stages = stage.before, []
    first = _to_the_end(run, later[0]) if profiled else run
    for info in (first, *later):
        if info.schedule.sampler == run.schedule.sampler:
            info = replace(info, schedule=info.schedule.asking_as(run.schedule))
        steps, rounds = info.schedule.num_steps, len(info.schedule.rounds)
        own = replace(stage, before=before).guards(guards, steps)
        stages.append((info, policy.fit_guards(own, evaluations_of(budget, rounds), info)))
        before += steps
    rounds = sum(len(info.schedule.rounds) for info, _ in stages)
    whole = evaluations_of(budget, rounds, stage.carry)
    try:
        share = policy.share(whole, stages)
    except ValueError:  # guards leave no room: each stage says so for itself
        return evaluations_of(budget, len(run.schedule.rounds), stage.carry)
    report.say("stage", total=whole, here=share, later=whole - share)
    return share


def _to_the_end(run: RunInfo, later: RunInfo) -> RunInfo:
    """``run``, whose gains go on through ``later`` where they were measured on ``run`` alone."""
    moments, end = run.moments, run.family.time(run.schedule.sigmas[-1])
    if moments.t[0] < end:
        return run
    beyond = later.moments.gain_at(end)
    return replace(run, moments=replace(moments, gain=moments.gain * beyond))
