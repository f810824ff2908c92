"""Asked and achieved cost: every budget, on every kind of sampler, however the sample behaves."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import COND, UNCOND, half_up, noise, observe, predict

from sencache_core import (
    FAMILIES,
    CacheConfig,
    Guards,
    Hold,
    Linear,
    Planned,
    Profile,
    ProfileHeader,
    Quadratic,
    Recorder,
    Schedule,
    flow_sigmas,
)
from sencache_core.measure.profile import combine
from sencache_core.policies.correction import Hardness
from sencache_core.policies.plan import evaluations_of
from sencache_core.types import NONE, Reason

SAMPLERS = ("euler", "uni_pc", "dpmpp_2m", "heun", "euler_ancestral")
FAMILY_NAMES = ("wan", "ltx", "cogvideox")
STEPS = (20, 50)
PERCENT = range(20, 101, 5)
SHAPE = (1, 6)


@cache
def schedule_of(family: str, sampler: str, steps: int) -> Schedule:
    """Shifted sigmas for the flow models, even angles for the v model (to 0, as they all run)."""
    if FAMILIES[family].prediction == "flow":
        return Schedule(flow_sigmas(steps, 5.0), sampler)
    row, last = FAMILIES[family], steps
    return Schedule(tuple(row.sigma(0.98 * (1 - k / last)) for k in range(steps + 1)), sampler)


cached_noise = cache(noise)


def output(t: float, seed: int = 0, roughness: float = 0.1):
    """A smooth output with some noise on it, cheap and the same for the same ``t``."""
    parts = cached_noise(3, 6, seed=seed)
    fresh = cached_noise(1, 6, seed=round(t * 1e6) + seed)
    return parts[0] + t * parts[1] + t * t * parts[2] + roughness * fresh


@cache
def profile_of(family: str) -> Profile:
    """Measured with Euler on 20 steps, whatever the run's sampler."""
    row, sched, recordings = FAMILIES[family], schedule_of(family, "euler", 20), []
    for seed in range(2):
        recorder = Recorder.start(row, sched, guidance=1.0)
        for k, sigma in enumerate(sched.rounds):
            recorder.begin((noise(*SHAPE, seed=seed) + 0.1 * k,), sigma)
            y = output(row.time(sigma), seed)
            observe(recorder, (COND,), y, lambda s, seed=seed: output(row.time(s), seed))
        recorder.finish(True)
        recordings.append(recorder.recording())
    return combine(recordings, ProfileHeader(family, sampler="euler", samples=2))


def drive(config: CacheConfig, family: str, sched: Schedule, roughness, pair: bool = False):
    """One run over the rounds that the sampler will visit, without the sampler."""
    row, session = FAMILIES[family], config.start(FAMILIES[family], sched)
    branches = (COND, UNCOND) if pair else (COND,)
    shape = (len(branches), SHAPE[1])
    for k, sigma in enumerate(sched.rounds):
        session.begin((cached_noise(*SHAPE) + 0.05 * k,), sigma)
        if predict(session, branches, shape) is None:
            y = output(row.time(sigma), roughness=roughness(k))
            observe(session, branches, torch.cat([y] * len(branches)), None)
    return session.finish(True)


def assert_met(report, budget: float):
    """To the evaluation, unless guards ask for more; then it must say so."""
    asked = max(1, half_up(budget * len(report.steps)))
    if any("cannot be met" in message for message in report.texts):
        assert report.evaluations > asked
        return
    assert report.evaluations == asked
    assert abs(report.evaluations / len(report.steps) - budget) * len(report.steps) <= 1


def hard_in_the_middle(k: int) -> float:
    return 5.0 if 6 <= k < 12 else 0.01


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("measured", [False, True], ids=["prior", "profile"])
def test_asked_and_achieved_cost_agree(measured, family, sampler, steps):
    """Every budget with every sampler and number of steps; the families share the budgets."""
    profile = profile_of(family) if measured else None
    sched = schedule_of(family, sampler, steps)
    for percent in PERCENT[FAMILY_NAMES.index(family) :: len(FAMILY_NAMES)]:
        config = CacheConfig(budget=percent / 100, profile=profile)
        assert_met(drive(config, family, sched, hard_in_the_middle), percent / 100)


@settings(max_examples=60)
@given(
    budget=st.floats(0.1, 1.0),
    seed=st.integers(0, 10**6),
    family=st.sampled_from(FAMILY_NAMES),
    sampler=st.sampled_from(SAMPLERS),
    correct=st.booleans(),
    risk=st.sampled_from([0.0, 0.5, 1.0]),
    guards=st.builds(
        Guards,
        warmup=st.integers(1, 4),
        cooldown=st.integers(0, 3),
        longest_run=st.integers(1, 6),
        start=st.floats(0, 0.3),
        end=st.floats(0.7, 1.0),
    ),
)
def test_agrees_however_hard_the_sample_is(budget, seed, family, sampler, correct, risk, guards):
    """Errors at random, up to a thousand times those expected, make it plan anew all the time."""
    rolls = torch.rand(60, generator=torch.Generator().manual_seed(seed)).tolist()
    config = CacheConfig(Planned(correct=correct, risk=risk), guards=guards, budget=budget)
    sched = schedule_of(family, sampler, 20)
    report = drive(config, family, sched, lambda k: 10 ** (6 * rolls[k] - 4), pair=True)
    assert_met(report, budget)
    assert report.calls == report.evaluations


def test_a_hard_stretch_draws_evaluations_from_an_easy_one():
    """The correction moves them; without it the plan stays as it was."""
    sched = schedule_of("wan", "euler", 50)

    def computed(correct, roughness):
        config = CacheConfig(policy=Planned(correct=correct), budget=0.4)
        steps = drive(config, "wan", sched, roughness).steps
        return [r.ordinal for r in steps if r.decision != "reused"]

    def hard_late(k):
        return 3.0 if k >= 25 else 1e-3

    assert computed(False, hard_late) == computed(False, lambda k: 1e-3)
    assert computed(True, hard_late) != computed(True, lambda k: 1e-3)


@pytest.mark.parametrize("budget", [0.4, 0.6])
def test_an_easy_clip_may_save_and_a_hard_one_may_not(budget):
    """At most the allowance, and nothing without one."""
    sched, asked = schedule_of("wan", "euler", 50), half_up(50 * budget)

    def spent(may_save, roughness):
        config = CacheConfig(
            Planned(may_save=may_save), budget=budget, profile=profile_of("wan"), hindsight=False
        )
        return drive(config, "wan", sched, lambda k: roughness).evaluations

    assert spent(0.0, 1e-3) == spent(0.3, 1.0) == asked
    fewest = -(-7 * asked // 10)
    assert fewest <= spent(0.3, 1e-3) < asked
    assert spent(0.1, 1e-3) >= spent(0.3, 1e-3)


@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_what_a_guard_asks_for_in_mid_run_is_paid_for_elsewhere(sampler, correct):
    """A branch without history makes one planned reuse an evaluation."""
    sched = schedule_of("wan", sampler, 30)
    config = CacheConfig(Planned(correct=correct), budget=0.5)
    session, asked = config.start(FAMILIES["wan"], sched), 0
    for k, sigma in enumerate(sched.rounds):
        reuse = session.begin((noise(*SHAPE) + 0.05 * k,), sigma).compute is NONE
        asked += reuse
        y = output(sigma)
        if reuse and asked in (2, 5):
            y = torch.cat([y, y[:, :2]], dim=1)  # nothing of this shape is known
        if predict(session, (COND,), y.shape) is None:
            observe(session, (COND,), y, None)
    report = session.finish(True)
    reasons = [r.reason for r in report.steps]
    assert reasons.count(Reason.NO_HISTORY.value) >= 2
    assert report.evaluations == half_up(0.5 * len(report.steps))


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_plan_shown_is_the_plan_run(family, sampler):
    """A sample that errs as expected, or is not asked, runs the schedule that was shown."""
    config = CacheConfig(policy=Planned(correct=False), budget=0.4)
    sched = schedule_of(family, sampler, 30)
    plan = config.plan(FAMILIES[family], sched)
    report = drive(config, family, sched, lambda k: 0.1)
    run = "".join("." if r.decision == "reused" else "C" for r in report.steps)
    assert run == str(plan)
    pasted = CacheConfig(policy=Planned(mask=run), budget=0.9, guards=Guards(0 + 1, 0, 50))
    again = drive(pasted, family, sched, lambda k: 0.1)
    assert [r.decision == "reused" for r in again.steps] == [not c for c in plan.mask]


@pytest.mark.parametrize(
    ("budget", "rounds", "evaluations"),
    [(0.5, 15, 8), (0.5, 21, 11), (0.5, 17, 9), (0.29, 50, 15), (0.25, 30, 8), (0.36, 20, 7)],
)
def test_half_an_evaluation_is_rounded_up(budget, rounds, evaluations):
    """By a budget and by the policy's own default, as the node shows it and as it runs."""
    assert evaluations_of(budget, rounds) == evaluations
    sched = schedule_of("wan", "euler", rounds)
    config = CacheConfig(budget=budget, min_steps=1)
    assert config.plan(FAMILIES["wan"], sched).evaluations == evaluations
    assert drive(config, "wan", sched, lambda k: 0.1).evaluations == evaluations
    if budget == 0.5:
        alone = CacheConfig(budget=None, min_steps=1).plan(FAMILIES["wan"], sched)
        assert alone.evaluations == evaluations


def test_no_budget_is_too_small_for_one_evaluation():
    assert evaluations_of(1e-9, 50) == 1
    assert evaluations_of(1.0, 50) == 50


@pytest.mark.parametrize("log_ratio", [-1.0, 0.5])
def test_a_clip_that_errs_twice_as_much_costs_four_times_as_much(log_ratio):
    """Costs are squares of errors; the surprise fades to 1/e over a tenth of the run."""
    hardness = Hardness(50, log_ratio=log_ratio)
    errors = np.exp(log_ratio * np.exp(-np.maximum(np.arange(50) - 20, 0) / 5.0))
    assert hardness.factors(20) == pytest.approx(np.square(errors))


@pytest.mark.parametrize("rule", [Hold(), Linear(), Quadratic()], ids=lambda rule: rule.name)
def test_a_plan_follows_the_rule_that_makes_the_outputs(rule):
    """What a sample was to err by is what it errs by: nothing is learned of it, nothing moved."""
    sched = schedule_of("wan", "euler", 20)
    config = CacheConfig(rule=rule, budget=0.4, profile=profile_of("wan"), hindsight=False)
    plan = config.plan(FAMILIES["wan"], sched)
    others = CacheConfig(budget=0.4, profile=profile_of("wan"), hindsight=False)
    fitted = others.plan(FAMILIES["wan"], sched)
    assert plan.error > fitted.error
    assert plan.errors[2:] != fitted.errors[2:]
    session, row = config.start(FAMILIES["wan"], sched), FAMILIES["wan"]
    for k, sigma in enumerate(sched.rounds):
        session.begin((noise(*SHAPE) + 0.1 * k,), sigma)
        if predict(session, (COND,), SHAPE) is None:
            observe(session, (COND,), output(row.time(sigma), seed=0))
    report = session.finish(True)
    run = "".join("." if r.decision == "reused" else "C" for r in report.steps)
    assert run == str(plan)
    ratios = [
        math.log(record.error / expected)
        for record, expected in zip(report.steps, plan.errors, strict=True)
        if record.error is not None and math.isfinite(expected)
    ]
    assert len(ratios) >= 6
    assert abs(np.mean(ratios)) < 0.5
