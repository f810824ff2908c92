"""Schedules that are known before a run: they are what the run computes, or there is none."""

from __future__ import annotations

import pytest
from toys import WAN, cached_run, schedule

from sencache_core import POLICIES, CacheConfig, Schedule, flow_sigmas
from sencache_core.policies import EasyCache, MagCache, Planned
from sencache_core.policies.layered import LayerSchedule
from sencache_core.types import OUTPUT, STACK

#: Those that a plain loop can serve: it has no blocks.
WHOLE = [name for name, policy in POLICIES.items() if policy().tap in ("", OUTPUT.tap, STACK.tap)]
LETTERS = {"reused": ".", "partial": "h"}


@pytest.mark.parametrize("budget", [0.75, 0.5, None])
@pytest.mark.parametrize("name", WHOLE)
def test_a_plan_is_what_the_run_computes(name, budget):
    config = CacheConfig(POLICIES[name](), budget=budget)
    try:
        plan = config.plan(WAN, schedule(24))
    except ValueError as error:
        assert f"{name!r} decides as the run goes" in str(error)
        return
    steps = cached_run(config, schedule(24), guidance=3.0)[1].steps
    if name != Planned.name:  # which is adjusted to the clip
        assert str(plan) == "".join(LETTERS.get(step.decision, "C") for step in steps)


@pytest.mark.parametrize("name", WHOLE)
def test_a_report_tells_the_plan_before_the_run(name):
    config = CacheConfig(POLICIES[name](), budget=0.5)
    report = config.start(WAN, schedule(24)).report
    assert (report.rounds, report.whole, report.before) == (24, 24, 0)
    try:
        plan = config.plan(WAN, schedule(24))
    except ValueError:
        assert report.planned == "" and report.expected is None
        return
    assert report.planned == str(plan)
    assert report.expected == plan.skipping or name != Planned.name


def test_a_plan_that_changes_is_told():
    """The toy proves harder than the prior expects. Adaptive samplers have no plan."""
    report = cached_run(CacheConfig(), schedule(24), guidance=3.0)[1]
    ran = "".join(LETTERS.get(step.decision, "C") for step in report.steps)
    assert report.planned == ran != str(CacheConfig().plan(WAN, schedule(24)))
    adaptive = Schedule(schedule(24).sigmas, "dpm_adaptive")
    unknown = CacheConfig().start(WAN, adaptive).report
    assert (unknown.rounds, unknown.planned, unknown.expected) == (0, "", None)


def test_what_the_sampler_itself_misses_is_not_put_down_to_skipping():
    coarse = Schedule(tuple(flow_sigmas(20, 8.0)), "euler")

    def plan(budget, aim):
        return CacheConfig(budget=budget, aim=aim).plan(WAN, coarse)

    full, half, quarter = (plan(budget, "true") for budget in (1.0, 0.5, 0.25))
    assert full.error > 0.1 and full.skipping == 0
    assert half.error > full.error and half.skipping**2 == pytest.approx(
        half.error**2 - full.error**2
    )
    assert half.skipping < quarter.skipping < quarter.error
    same = plan(0.5, "same")
    assert same.skipping == same.error
    assert same.error < half.skipping < 2 * same.error  # nearly the same skipping, priced twice


def test_which_are_known():
    """By what they read, so that no list has to be kept."""
    known = set()
    for name, policy in POLICIES.items():
        try:
            plan = CacheConfig(policy(), budget=0.5).plan(WAN, schedule(24))
        except ValueError:
            continue
        known.add(name)
        assert 0 < sum(plan.mask) <= 24
    assert {"planned", "interval", "magcache", "cfg_cache", "profilingdit", "fastercache"} <= known
    assert not known & {"sencache", "teacache", "easycache", "seacache"}
    # Which layers a model has its first evaluation shows.
    assert not known & {n for n, policy in POLICIES.items() if issubclass(policy, LayerSchedule)}


def test_budgets_are_met_before_the_run():
    plan = CacheConfig(MagCache(), budget=0.4).plan(WAN, schedule(50))
    assert plan.evaluations == 20 and plan.mask[0] and plan.mask[-1]


def test_partial_rounds_have_a_letter_of_their_own():
    plan = CacheConfig(POLICIES["middle_blocks"](interval=3.0), budget=None).plan(WAN, schedule(12))
    assert set(str(plan)) == {"C", "h"}


def test_what_a_model_cannot_do_is_said():
    with pytest.raises(ValueError, match="do not fit"):
        CacheConfig(MagCache(model="CogVideoX 2B"), budget=0.5).plan(WAN, schedule(24))
    with pytest.raises(ValueError, match="as the run goes"):
        CacheConfig(EasyCache(payload="rule"), budget=0.5).plan(WAN, schedule(24))
