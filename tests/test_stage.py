"""Guards and budget of a clip that is sampled in several runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sencache_core import CacheConfig, Guards, Schedule, flow_sigmas
from sencache_core.model.families import FAMILIES
from sencache_core.run.facts import Facts, Stage


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
    assert any("Caching is off" in said for said in session.report.messages) is off


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
