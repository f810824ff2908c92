"""Samplers that nobody told us of: where they ask is learnt from their first evaluations."""

import math

import pytest
import torch
from toys import COND, WAN, curved, noise, observe, predict, schedule

from sencache_core import CacheConfig, Interval, Schedule, SenCache, flow_sigmas
from sencache_core.sampler import pattern

SHAPE = (1, 2, 3, 4)
STEPS = 20
#: Places of evaluation within a step, of the sampler by that name.
SAMPLERS = {
    "midpoint": (0.0, 0.5),
    "ends": (0.0, 1.0),
    "kutta3": (0.0, 0.5, 1.0),
    "runge_kutta4": (0.0, 0.5, 0.5, 1.0),
}


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    monkeypatch.setattr(pattern, "_KNOWN", {})


def levels(sigmas, places):
    """Noise levels that such a sampler asks at; the last step, to 0, has one evaluation."""
    out = []
    for start, end in zip(sigmas[:-1], sigmas[1:], strict=True):
        out += [start + p * (end - start) for p in (places if end > 0 else places[:1])]
    return out


def play(config, name, asked=None):
    sched = Schedule(flow_sigmas(STEPS, 5.0), name)
    session, model = config.start(WAN, sched), curved()
    asked = asked or levels(sched.sigmas, SAMPLERS[name])
    x, said = noise(*SHAPE), None
    for number, sigma in enumerate(asked):
        session.begin((x,), sigma)
        y = predict(session, (COND,), SHAPE)
        if y is None:
            y = model(x, sigma, 0.4)
            handed = observe(session, (COND,), y)
            y = y if handed is None else handed
        after = asked[number + 1] if number + 1 < len(asked) else 0.0
        x = x + (after - sigma) * y
        if said is None and any("times a step" in m for m in session.report.texts):
            said = number
    assert x.isfinite().all()
    return session.finish(True), said


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("policy", [None, Interval(), SenCache()], ids=["planned", "even", "bound"])
@pytest.mark.parametrize("budget", [0.36, 0.5])
def test_the_budget_is_met_on_the_first_run(name, policy, budget):
    config = CacheConfig(budget=budget) if policy is None else CacheConfig(policy, budget=budget)
    stages = len(SAMPLERS[name])
    report, said = play(config, name)
    rounds = stages * (STEPS - 1) + 1
    assert len(report.steps) == rounds
    assert abs(report.evaluations - math.floor(budget * rounds + 0.5)) <= 1
    assert said <= 2 * stages  # long before the run ends
    assert any(f"asks {stages} times a step" in message for message in report.texts)


def test_the_next_run_is_planned_right_from_its_start():
    first, said = play(CacheConfig(budget=0.5), "midpoint")
    assert said is not None and "evaluation that was not expected" in {
        r.reason for r in first.steps
    }
    again, said = play(CacheConfig(budget=0.5), "midpoint")
    assert said is None and again.evaluations == first.evaluations == 20
    assert "evaluation that was not expected" not in {r.reason for r in again.steps}


@pytest.mark.parametrize(("places", "back"), [((0.0,), True), ((0.0, 0.5), False)])
def test_nothing_is_taken_back_where_a_sampler_asks_more_often_than_its_name_tells(places, back):
    sched, x = Schedule(flow_sigmas(STEPS, 5.0), "euler"), noise(*SHAPE)
    session, handed = CacheConfig(budget=0.5, aim="same").start(WAN, sched), []
    for sigma in levels(sched.sigmas, places):
        session.begin((x,), sigma)
        if predict(session, (COND,), SHAPE) is None:
            handed.append(observe(session, (COND,), (1 + sigma**2) * x))
    assert session.finish(True).reused >= 10
    assert any(y is not None for y in handed) == back


@pytest.mark.parametrize("head", [((0.0, 0.5),), ((0.0, 0.5, 1.0), (0.0, 0.5)), ((0.0, 1.0),)])
def test_a_sampler_may_begin_otherwise_than_it_goes_on(head):
    """As multistep samplers do, whose first steps have evaluations of their own."""
    sigmas, asked = flow_sigmas(STEPS, 5.0), []
    for step, (start, end) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        asked += [start + p * (end - start) for p in (head[step] if step < len(head) else (0.0,))]
    for _ in range(2):
        report, _ = play(CacheConfig(budget=0.5), "starts_slowly", asked)
        assert len(report.steps) == len(asked)
        assert abs(report.evaluations - len(asked) / 2) <= 1.5
    reasons = {record.reason for record in report.steps}
    assert "evaluation that was not expected" not in reasons  # the second time it is known


def test_two_latents_at_every_noise_level_are_computed():
    """Editing samplers ask about a source and a target: no forecast may mix the two."""
    sigmas = flow_sigmas(STEPS, 5.0)
    asked = [sigma for sigma in sigmas[:-1] for _ in range(2)]
    report, _ = play(CacheConfig(budget=0.5), "editing", asked)
    assert all(record.decision != "reused" for record in report.steps[2:])
    assert sum("follow no pattern" in message for message in report.texts) == 1
    assert pattern._KNOWN == {}


def test_a_sampler_without_a_pattern_is_computed_from_there_on():
    sigmas, generator = flow_sigmas(STEPS, 5.0), torch.Generator().manual_seed(1)
    asked = []
    for start, end in zip(sigmas[:-1], sigmas[1:], strict=True):
        more = torch.rand(int(torch.randint(4, (), generator=generator)), generator=generator)
        asked += [start, *(start + p * (end - start) for p in sorted(more.tolist()))]
    report, _ = play(CacheConfig(budget=0.5), "restless", asked)
    first = next(k for k, r in enumerate(report.steps) if "not expected" in r.reason)
    assert first < 6
    assert report.steps[-1].decision == "forced"


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm_2", "dpmpp_2s_ancestral", "seeds_3"])
def test_samplers_of_the_tables_surprise_nobody(sampler):
    sched = schedule(STEPS, sampler=sampler)
    report, said = play(CacheConfig(budget=0.5), sampler, list(sched.rounds))
    assert said is None and pattern._KNOWN == {}
    assert "evaluation that was not expected" not in {r.reason for r in report.steps}


def test_what_is_remembered_is_bounded():
    for number in range(200):
        pattern.remember(f"sampler {number}", ((0.0, 0.5),))
    pattern.remember("", ((0.0, 0.5),))
    assert len(pattern._KNOWN) == 64 and "sampler 199" in pattern._KNOWN
