"""Samplers that carry outputs on: their factors, and the aim ``true`` through them."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from equations import U_TRUTH, X, angles, error, every, flow, u_of, v_of, v_path

from sencache_core import CacheConfig, Schedule
from sencache_core.forecast.reuse import Linear
from sencache_core.hosts.loop import _call, sample
from sencache_core.model.families import FAMILIES
from sencache_core.policies import Guards, Planned
from sencache_core.run.facts import Facts
from sencache_core.sampler.path import clean_of
from sencache_core.sampler.response import measure
from sencache_core.types import OUTPUT, Branch, Key

WAN, COG = FAMILIES["wan"], FAMILIES["cogvideox"]

#: Adams and Bashforth's weights, the newest first (Hairer, Norsett and Wanner 1993, III.1).
ADAMS = {
    1: [1],
    2: [3 / 2, -1 / 2],
    3: [23 / 12, -16 / 12, 5 / 12],
    4: [55 / 24, -59 / 24, 37 / 24, -9 / 24],
}


def adams(levels, model, x):
    """Four steps of slopes, of equal length or not; the last step is the clean latent."""
    slopes = []
    for now, after in zip(levels[:-1], levels[1:], strict=True):
        clean = model(x, now)
        slopes = [(x - clean) / now, *slopes][:4]
        weights = ADAMS[len(slopes)] if after else [1]
        x = x + (after - now) * sum(w * d for w, d in zip(weights, slopes, strict=False))
    return x


def dpmpp(levels, model, x):
    """DPM-Solver++ 2M of Lu et al. 2022."""
    before = None
    for k, (now, after) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        clean = point = model(x, now)
        if before is not None and after:
            share = math.log(now / after) / math.log(levels[k - 1] / now) / 2
            point = clean + share * (clean - before)
        x, before = after / now * x + (1 - after / now) * point, clean
    return x


def corrected(levels, model, x):
    """Asks at a predicted latent, and corrects that by the trapezoid once it knows the answer."""
    state, slopes = x, []
    for k, (now, after) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        slopes = [(x - model(x, now)) / now, *slopes][:2]
        if k:
            state = state + (now - levels[k - 1]) * (slopes[0] + slopes[1]) / 2
        x = state + (after - now) * sum(
            w * d for w, d in zip(ADAMS[len(slopes) if after else 1], slopes, strict=False)
        )
    return x


SAMPLERS = {"adams": adams, "dpmpp": dpmpp, "corrected": corrected}


def session(sampler, family, schedule, aim="true", measured=True, **options):
    how = partial(measure, partial(sampler, schedule.sigmas), schedule.sigmas)
    facts = Facts(guided=False, multistep=how if measured else None)
    options = {"rule": Linear(), "guards": Guards(warmup=1), **options}
    return CacheConfig(aim=aim, **options).start(family, schedule, facts=facts)


def sampled(sampler, field, family, schedule, runner=None, x=X, conditions=None, guidance=1.0):
    """The last latent, float64, by a sampler that sees clean latents as ``family`` has them.

    ``conditions(sigma)``: the condition of every branch there is.
    """
    conditions = conditions or (lambda sigma: {"cond": 1.0})
    clean = clean_of(family)

    def model(x, sigma):
        if runner is not None:
            runner.begin((x,), sigma)
        outputs = {
            role: _call(field, x, sigma, Branch(role), condition, runner)
            for role, condition in conditions(sigma).items()
        }
        y = outputs["cond"]
        if "uncond" in outputs:
            y = outputs["uncond"] + guidance * (y - outputs["uncond"])
        p, q = clean(sigma)
        return p * x + q * y

    try:
        return sampler(schedule.sigmas, model, x.float()).double()
    finally:
        if runner is not None:
            runner.finish(True)


def scaled_v(x, sigma, condition):
    """:func:`v_of`, for latents ``x0 + sigma noise``."""
    return v_of(x * math.cos(math.atan(sigma)), sigma, condition)


def test_factors_are_those_of_the_formula():
    levels = (*(0.9 ** (k * k / 8) for k in range(9)), 0.0)
    found = measure(partial(dpmpp, levels), levels)
    assert not found.slopes and found.carries == 1
    for k, (now, after) in enumerate(zip(levels[1:-2], levels[2:-1], strict=True), start=1):
        share = math.log(now / after) / math.log(levels[k - 1] / now) / 2
        a, b = found.steps[k]
        assert a == pytest.approx(after / now, abs=1e-4)
        assert b == pytest.approx((1 - after / now) * (1 + share), rel=2e-3)
        assert found.carried[k][0] == pytest.approx(-(1 - after / now) * share, rel=2e-3, abs=1e-5)
    assert found.steps[-1] == pytest.approx((0.0, 1.0), abs=1e-5)


def test_the_shorter_memory_is_found():
    levels = flow(20).sigmas
    found = {name: measure(partial(run, levels), levels) for name, run in SAMPLERS.items()}
    assert found["adams"].slopes and found["adams"].carries == 3
    assert not found["dpmpp"].slopes and found["dpmpp"].carries == 1
    # Predicted from 2, corrected by 2, of which one is the newest: those of three steps in all.
    assert found["corrected"].slopes and found["corrected"].carries == 2


def draws(levels, model, x):
    for now, after in zip(levels[:-1], levels[1:], strict=True):
        clean = model(x, now)
        x = clean + after / now * (x - clean) + 0.1 * after * torch.randn_like(x)
    return x


def asks_twice(levels, model, x):
    for now, after in zip(levels[:-1], levels[1:], strict=True):
        x = model(x, now) + after / now * (x - model(x, now))
    return x


def stops_short(levels, model, x):
    return dpmpp(levels[:-1], model, x)


def bends(levels, model, x):
    for now, after in zip(levels[:-1], levels[1:], strict=True):
        clean = model(x, now).clamp(-1, 1)
        x = clean + after / now * (x - clean)
    return x


def remembers(levels, model, x):
    """All it was ever told."""
    told = []
    for now, after in zip(levels[:-1], levels[1:], strict=True):
        told.append(model(x, now))
        x = after / now * x + (1 - after / now) * sum(told) / len(told)
    return x


def swings(levels, model, x):
    """The newest output counts less than the one before: what is handed on would grow."""
    before = None
    for now, after in zip(levels[:-1], levels[1:], strict=True):
        clean = model(x, now)
        mixed = clean if before is None else 0.4 * clean + 0.6 * before
        x, before = after / now * x + (1 - after / now) * mixed, clean
    return x


@pytest.mark.parametrize("sampler", [draws, asks_twice, stops_short, bends, remembers, swings])
def test_what_cannot_be_led_is_refused(sampler):
    levels = flow(20).sigmas
    before = torch.random.get_rng_state()
    assert measure(partial(sampler, levels), levels) is None
    assert torch.equal(torch.random.get_rng_state(), before)
    refused = session(sampler, WAN, Schedule(levels, "own"))
    assert any("The aim is the same clip" in text for text in refused.report.texts)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("family", [WAN, COG], ids=lambda f: f.name)
@pytest.mark.parametrize("name", SAMPLERS)
def test_second_order_whatever_the_sampler(name, family, stride):
    """Halving the steps quarters the error: slope at least 1.9."""
    sampler, errors = SAMPLERS[name], []
    for steps in (24, 48, 96):
        policy = Planned(mask=every(stride, steps))
        if family is WAN:
            schedule = Schedule(flow(steps).sigmas, name)
            runner = session(sampler, WAN, schedule, policy=policy)
            end, truth = sampled(sampler, u_of, WAN, schedule, runner), U_TRUTH
        else:
            schedule = Schedule(angles(steps).sigmas, name)
            runner = session(sampler, COG, schedule, policy=policy)
            x = X / math.cos(1.4)
            end, truth = sampled(sampler, scaled_v, COG, schedule, runner, x), v_path(X, 1.4)
        assert runner.report.evaluations == every(stride, steps).count("C")
        errors.append(error(end, truth))
    assert math.log2(errors[0] / errors[2]) / 2 > 1.9


@pytest.mark.parametrize("name", SAMPLERS)
def test_it_lands_where_a_sampler_without_memory_does(name):
    options = {"policy": Planned(mask=every(2, 24))}
    schedule = Schedule(flow(24).sigmas, name)
    runner = session(SAMPLERS[name], WAN, schedule, **options)
    end = sampled(SAMPLERS[name], u_of, WAN, schedule, runner)
    config = CacheConfig(aim="true", rule=Linear(), guards=Guards(warmup=1), **options)
    like_euler = config.start(WAN, flow(24), facts=Facts(guided=False))
    euler = sample(u_of, X.float(), flow(24), {"cond": 1.0}, 1.0, like_euler).double()
    assert error(end, euler) < 1e-4 < error(euler, U_TRUTH)
    carried = measure(partial(SAMPLERS[name], schedule.sigmas), schedule.sigmas).carries
    assert runner.report.history_bytes == like_euler.report.history_bytes + carried * 4 * X.numel()


@pytest.mark.parametrize("name", SAMPLERS)
def test_branches_are_put_together(name):
    def half(x, sigma, condition):
        return u_of(x, sigma, None) + condition * (x - 0.5) * sigma

    def guided(x, sigma, condition):
        return 3 * half(x, sigma, 0.2) - 2 * half(x, sigma, 0.1)

    schedule, ends = Schedule(flow(24).sigmas, name), []
    for field, pair in ((half, {"cond": 0.2, "uncond": 0.1}), (guided, {"cond": 1.0})):
        runner = session(SAMPLERS[name], WAN, schedule, policy=Planned(mask="C" * 24))
        ends.append(
            sampled(SAMPLERS[name], field, WAN, schedule, runner, X, lambda _, pair=pair: pair, 3.0)
        )
    assert error(*ends) < 0.02 * error(ends[1], X)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_branch_that_comes_late_ends_it(name):
    """What the sampler carries on of it is not known; the run goes on as it would without."""

    def conditions(sigma):
        return {"cond": 1.0, **({"uncond": 1.0} if sigma < 0.5 else {})}

    schedule = Schedule(flow(24).sigmas, name)
    runner = session(SAMPLERS[name], WAN, schedule, policy=Planned(mask=every(2, 24)))
    end = sampled(SAMPLERS[name], u_of, WAN, schedule, runner, X, conditions, 3.0)
    plain = sampled(SAMPLERS[name], u_of, WAN, schedule)
    assert error(end, U_TRUTH) < 0.02 + 2 * error(plain, U_TRUTH)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_clip_knows_nothing_of_it(name):
    schedule = Schedule(flow(24).sigmas, name)
    ends = [
        sampled(
            SAMPLERS[name],
            u_of,
            WAN,
            schedule,
            session(SAMPLERS[name], WAN, schedule, "same", measured, policy=Planned()),
        )
        for measured in (True, False)
    ]
    assert torch.equal(*ends)


def test_what_is_handed_on_by_hand():
    """Second step of a sampler that carries the first on."""
    schedule = Schedule((1.0, 0.5, 0.25, 0.0), "dpmpp")
    runner = session(dpmpp, WAN, schedule, budget=1.0, min_steps=1)
    keys, latents, handed = [Key(Branch("cond"), OUTPUT)], [X.float(), 0.5 * X.float()], []
    for x, sigma in zip(latents, (1.0, 0.5), strict=True):
        runner.begin((x,), sigma)
        y = runner.observe(keys, torch.ones_like(x))
        handed.append(torch.ones_like(x) if y is None else y)
    runner.finish(True)
    # Outputs that do not change need no correction: only what is carried on is taken off.
    first, (a, b) = (
        latents[0] - handed[0],
        measure(partial(dpmpp, schedule.sigmas), schedule.sigmas).steps[1],
    )
    carried = -0.5 * 0.5  # (1 - 1/2) of half the difference to the clean latent before
    landed = a * latents[1] + b * (latents[1] - 0.5 * handed[1]) + carried * first
    torch.testing.assert_close(landed, latents[1] - 0.25, atol=1e-4, rtol=1e-4)
