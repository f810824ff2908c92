"""Guards and budget of a clip that is sampled in several runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sencache_core import CacheConfig, Guards, Schedule, flow_sigmas
from sencache_core.measure.learnt_store import LearntStore
from sencache_core.measure.prior import prior_moments
from sencache_core.measure.profile import ProfileHeader
from sencache_core.model.families import FAMILIES
from sencache_core.policies import Planned, RunInfo
from sencache_core.run.division import divide
from sencache_core.run.facts import Facts, Part, Stage
from sencache_core.run.stats import RunReport, StepRecord


def forced(guards, steps):
    return {k for k in range(steps) if guards.forces(k, k, steps, 0)}


@given(
    st.integers(2, 40).flatmap(
        lambda whole: st.tuples(st.just(whole), st.sets(st.integers(1, whole - 1), max_size=4))
    ),
    st.integers(1, 3),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.1, 0.25, 0.5]),
    st.sampled_from([0.6, 0.9, 1.0]),
)
def test_stages_force_what_the_clip_does(clip, warmup, cooldown, start, end):
    """And the first round of each, which has nothing to predict from."""
    whole, cuts = clip
    guards = Guards(warmup, cooldown, 99, start, end)
    ends = [*sorted(cuts), whole]
    found = set()
    for before, after in zip([0, *ends[:-1]], ends, strict=True):
        own = Stage(before, whole).guards(guards, after - before)
        found |= {before + k for k in forced(own, after - before)}
    assert found == forced(guards, whole) | {0, *cuts}


def test_a_run_of_its_own_is_a_clip():
    guards = Guards(warmup=2, cooldown=1, start=0.1, end=0.9)
    assert Stage().guards(guards, 20) == guards


@pytest.mark.parametrize(("before", "whole", "off"), [(0, 0, True), (0, 30, False), (6, 12, False)])
def test_a_stage_is_judged_by_its_clip(before, whole, off):
    schedule = Schedule(tuple(flow_sigmas(30, 5)[:7]), "euler")
    facts = Facts(stage=Stage(before, whole))
    session = CacheConfig(min_steps=10).start(FAMILIES["wan"], schedule, facts=facts)
    assert any("Caching is off" in said for said in session.report.texts) is off


def test_what_one_stage_leaves_the_next_one_spends():
    schedule = Schedule(flow_sigmas(15, 5), "euler")
    config = CacheConfig(budget=0.5)
    asked = [
        config.start(
            FAMILIES["wan"], schedule, facts=Facts(stage=Stage(15, 30, carry))
        ).course.policy.asked
        for carry in (-0.9, 0.0, 0.9)
    ]
    assert asked[0] == 7 and asked[2] == 8 and asked[1] in (7, 8)


# A plan divides the clip's budget by what each stage gains

WAN = FAMILIES["wan"]
LEVELS = flow_sigmas(20, 8)
FIRST, LATER = Schedule(LEVELS[:12], "euler"), Schedule(LEVELS[11:], "euler")


def start(config=None, later=LATER, part=None, header=None, **stage):
    facts = Facts(stage=Stage(0, 20, later=(part or Part(later),), **stage))
    return (config or CacheConfig()).start(WAN, FIRST, header, facts)


def known(schedule, moments, weight=1.0):
    """What is known of a stage whose outputs are ``weight`` times those that ``moments`` tell."""
    moments = replace(moments, gram=moments.gram * weight**2)
    return RunInfo(WAN, schedule, None, moments)


@pytest.mark.parametrize("whole", [6, 7, 10, 14, 20])
@pytest.mark.parametrize("weight", [0.1, 1.0, 5.0])
def test_no_other_division_is_expected_to_be_better(whole, weight):
    moments = prior_moments("wan")
    guards = Guards(1, 1, 8)
    stages = [(known(FIRST, moments), guards), (known(LATER, moments, weight), guards)]

    def error(stage, evaluations):
        info, guards = stage
        return Planned(evaluations=evaluations, guards=guards).plan(info, guards).error

    share = Planned().share(whole, stages)
    costs = {
        n: error(stages[0], n) ** 2 + error(stages[1], whole - n) ** 2
        for n in range(3, 12)
        if 2 <= whole - n <= 9
    }
    assert share == min(costs, key=costs.get)


def test_three_stages_share_as_well():
    moments, guards = prior_moments("wan"), Guards(1, 0, 8)
    cut = (Schedule(LEVELS[a : b + 1], "euler") for a, b in ((0, 6), (6, 13), (13, 20)))
    stages = [(known(schedule, moments), guards) for schedule in cut]
    first = Planned().share(10, stages)
    second = Planned().share(10 - first, stages[1:])
    assert 1 <= first <= 6 and 1 <= second <= 7 and 1 <= 10 - first - second <= 7


def test_a_stage_that_gains_nothing_leaves_its_share():
    moments, guards = prior_moments("wan"), Guards(1, 1, 8)
    still = replace(moments, gram=np.ones_like(moments.gram))  # never changes: holding is exact
    first, later = (known(FIRST, moments), guards), (known(LATER, still), guards)
    fewest = guards.fewest(LATER.steps(), LATER.num_steps)
    assert Planned().share(10, [first, later]) >= 10 - fewest
    first, later = (known(FIRST, still), guards), (known(LATER, moments), guards)
    assert Planned().share(10, [first, later]) <= guards.fewest(FIRST.steps(), 11)


def test_stages_that_leave_no_room_have_each_their_own_share():
    guards = Guards(warmup=2, cooldown=1, longest_run=1)
    session = start(CacheConfig(budget=0.3, guards=replace(guards, start=0.9)))
    assert not any("stage of a clip" in said for said in session.report.texts)
    with pytest.raises(ValueError, match="fewer than"):
        Planned().share(2, [(known(FIRST, prior_moments("wan")), guards)] * 2)


@pytest.mark.parametrize("budget", [0.3, 0.36, 0.5, 0.75])
@pytest.mark.parametrize("carry", [-0.6, 0.0, 1.4])
def test_shares_come_to_the_budget(budget, carry):
    config = CacheConfig(budget=budget)
    first = start(config, carry=carry)
    asked = first.course.policy.asked
    (said,) = [said for said in first.report.texts if "stage of a clip" in said]
    whole = int(np.floor(budget * 20 + carry + 0.5 + 1e-9))
    assert f"of {whole} steps" in said and f"{asked} are computed here" in said
    left = carry + budget * FIRST.num_steps - asked
    second = config.start(WAN, LATER, facts=Facts(stage=Stage(11, 20, left)))
    asked = second.course.policy.asked  # none where every round is to be computed
    assert (LATER.num_steps if asked is None else asked) == whole - first.course.policy.asked


def test_the_second_expert_counts_by_what_was_learnt_of_it(tmp_path, monkeypatch):
    seen = []
    load = LearntStore.load
    monkeypatch.setattr(LearntStore, "load", lambda s, h: (seen.append(h), load(s, h))[1])
    header = ProfileHeader("wan", "high", "euler", FIRST.sigmas, guidance=4.0)
    part = Part(LATER, "low", 3.0)
    start(CacheConfig(learn=tmp_path), part=part, header=header)
    assert [(h.fingerprint, h.guidance, h.sigmas) for h in seen] == [
        ("high", 4.0, FIRST.sigmas),
        ("low", 3.0, LATER.sigmas),
    ]


def report(costs, budget=0.5, reason="as planned"):
    out = RunReport("wan", "planned", "fitted", "output", len(costs), budget)
    for number, cost in enumerate(costs):
        decision = "computed" if cost else "reused"
        out.steps.append(StepRecord(number, number, 0.5, 0.5, decision, reason, cost=cost))
    return out


@pytest.mark.parametrize(
    ("costs", "carry", "reason", "left"),
    [
        ([1, 0, 1, 0], 0.25, "as planned", 0.25),
        ([1, 0, 0, 0], 0.0, "as planned", 1.0),
        ([1, 1, 1, 1], 0.0, "as planned", -2.0),
        ([1, 1, 1, 1], 0.0, "caching is off", 0.0),
        ([1, 1, 1, 1], 3.0, "caching is off", 1.0),
        ([1, 1, 1, 1], -1.0, "caching is off", -1.0),
    ],
)
def test_what_is_left_to_the_next_stage(costs, carry, reason, left):
    assert Stage(carry=carry).left(report(costs, reason=reason)) == pytest.approx(left)
    assert Stage(carry=carry).left(report(costs, None, reason)) == 0.0


def test_gains_of_a_profile_go_on_through_the_stages_after_it():
    """One that was measured on the first expert alone tells nothing of what comes after it."""
    prior, guards = prior_moments("wan"), Guards(1, 1, 8)
    end = WAN.time(FIRST.sigmas[-1])
    kept = prior.t >= end
    alone = replace(
        prior,
        t=prior.t[kept],
        gram=prior.gram[:, kept][:, :, kept],
        gain=prior.gain[:, kept] / prior.gain_at(end),
        response=prior.response[:, kept],
        lead=prior.lead[kept][:, kept],
        gap=prior.gap[kept][:, kept],
    )
    later = [known(LATER, prior)]
    shares = {
        name: [
            divide(Planned(), budget, run, later, guards, Stage(0, 20), report([1]), profiled)
            for budget in (0.4, 0.5, 0.6, 0.7, 0.8)
        ]
        for name, run, profiled in (
            ("all", known(FIRST, prior), False),
            ("alone", RunInfo(WAN, FIRST, None, alone), True),
            ("cut off", RunInfo(WAN, FIRST, None, alone), False),
        )
    }
    assert shares["alone"] == shares["all"] != shares["cut off"]
    assert sum(shares["all"]) > sum(shares["cut off"])
