"""Terminal sensitivity: probes of models whose propagators are known, and what they cost."""

import math
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
import torch
from toys import COND, WAN, Counted, curved, noise, schedule

from sencache_core import (
    FAMILIES,
    CacheConfig,
    Calibration,
    Guards,
    Planned,
    ProfileHeader,
    Recorder,
    Schedule,
    flow_sigmas,
)
from sencache_core.hosts import loop
from sencache_core.measure.calibration import probe_masks
from sencache_core.measure.probe import Probe
from sencache_core.measure.profile import combine
from sencache_core.policies.plan import Plan

STEPS = 12
SHAPE = (2, 2, 3, 4)
PAIR = {"cond": 1.0, "uncond": 0.0}


def slope(sigma, condition):
    """Of the linear model ``v = slope x + condition``."""
    return 0.8 - 1.1 * sigma + 0.3 * condition


def linear(x, sigma, condition):
    return slope(sigma, condition) * x + condition * sigma


def skipping(*rounds, steps=STEPS):
    return tuple(k not in rounds for k in range(steps))


def travels(model, sched, masks, conditions, guidance=None, family=WAN):
    drive = partial(loop.sample, model, noise(*SHAPE), sched, conditions, guidance or 1.0)
    drive = partial(drive, prediction=family.prediction)
    kept = Recorder.start(family, sched, guidance=guidance, keep=True)
    drive(runner=kept)
    out = []
    for mask in masks:
        probe = kept.probe(mask)
        drive(runner=probe)
        out.append(probe.travel())
    return out


@pytest.mark.parametrize("guidance", [None, 5.0])
def test_gain_and_response_of_a_linear_model(guidance):
    """Euler takes a displacement along by the product of (1 + h a); the model answers by a."""
    sched, at = schedule(STEPS, 3.0, sampler="dpmpp_2m"), [1, 2, 5, STEPS - 2]
    conditions = {"cond": 1.0} if guidance is None else PAIR
    found = travels(linear, sched, [skipping(k) for k in at], conditions, guidance)
    g = 1.0 if guidance is None else guidance
    a = [g * slope(s, 1.0) + (1 - g) * slope(s, 0.0) for s in sched.sigmas]
    h = np.diff(sched.sigmas)
    for k, travel in zip(at, found, strict=True):
        propagator = math.prod(abs(1 + h[j] * a[j]) for j in range(k + 1, STEPS))
        assert travel.t == travel.answered == pytest.approx(sched.sigmas[k + 1])
        assert travel.gain == pytest.approx(propagator, rel=1e-3)
        assert travel.response == pytest.approx(a[k + 1], rel=1e-3, abs=1e-3)


def test_gain_and_response_of_a_linear_v_model():
    """DDIM: the product of (cos + a sin). Latents are measured relative to their own size."""
    cog = FAMILIES["cogvideox"]
    sched = Schedule(tuple(cog.sigma(t) for t in np.linspace(0.95, 0, STEPS + 1)), "dpmpp_2m")
    parts, a = noise(2, 1, *SHAPE[1:], seed=3), 0.25

    def model(x, sigma, condition):
        t = cog.time(sigma)
        return a * x + 0.3 * (parts[0] * t + 4 * parts[1] * t * t)

    angles = np.diff(np.arctan(sched.sigmas))
    masks = [skipping(2), skipping(6)]
    for k, travel in zip((2, 6), travels(model, sched, masks, {"cond": 0.0}, None, cog)):
        steps = (math.cos(x) + a * math.sin(x) for x in angles[k + 1 :])
        assert travel.gain == pytest.approx(math.prod(steps), rel=0.25)
        assert travel.response == pytest.approx(a, rel=0.25)


@pytest.mark.parametrize("mask", [skipping(4), skipping(3, 5, 7), skipping(2, 3, 4, 8, 9)])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_a_probe_is_a_cached_run(mask, sampler):
    """Its error is that of the session which a user would run with the same mask and profile."""
    sched, model, x = schedule(STEPS, sampler=sampler), curved(), noise(*SHAPE)
    kept = Recorder.start(WAN, sched, guidance=3.0, keep=True)
    whole = loop.sample(model, x, sched, PAIR, 3.0, kept)
    probe = kept.probe(mask)
    again = loop.sample(model, x, sched, PAIR, 3.0, probe)
    config = CacheConfig(
        Planned(mask=str(Plan(mask))),
        guards=Guards(cooldown=0),
        budget=None,
        profile=combine([kept.recording()], ProfileHeader("wan")),
    )
    session = config.start(WAN, sched)
    cached = loop.sample(model, x, sched, PAIR, 3.0, session)
    assert torch.allclose(again, cached, atol=1e-6)
    assert session.report.evaluations == sum(mask)
    error = (cached - whole).square().mean().sqrt().item()
    plan = config.plan(WAN, sched)
    assert probe.travel().gain == pytest.approx(error / plan.error, rel=0.02)


def test_a_probe_runs_the_model_after_its_error_only():
    sched, model = schedule(STEPS), curved()
    kept = Recorder.start(WAN, sched, guidance=3.0, keep=True)
    loop.sample(model, noise(*SHAPE), sched, PAIR, 3.0, kept)
    model.calls = 0
    probe = kept.probe(skipping(4, 6))
    loop.sample(model, noise(*SHAPE), sched, PAIR, 3.0, probe)
    assert model.calls == probe.report.calls == 2 * (STEPS - 6)
    assert probe.report.calls_saved == 2 * 6
    made = ["reused"] * 5 + ["computed", "reused"] + ["computed"] * 5
    assert [r.decision for r in probe.report.steps] == made
    assert probe.report.completed


def test_a_run_that_does_not_repeat_the_recorded_one_tells_nothing():
    sched = schedule(STEPS)
    kept = Recorder.start(WAN, sched, keep=True)
    loop.sample(curved(), noise(*SHAPE), sched, {"cond": 1.0}, 1.0, kept)

    def probed(x, sched=sched, conditions=None):
        probe = kept.probe(skipping(4))
        loop.sample(curved(), x, sched, conditions or {"cond": 1.0}, 1.0, probe)
        return probe.travel()

    assert probed(noise(*SHAPE)) is not None
    assert probed(noise(*SHAPE, seed=1)) is None  # another seed
    assert probed(noise(2, 2, 3, 6)) is None  # another shape
    assert probed(noise(*SHAPE), schedule(STEPS - 3)) is None  # other steps
    assert probed(noise(*SHAPE), conditions={"extra": 1.0, "cond": 1.0}) is None  # another call


def calibrate(model, sched, samples, calibration, conditions=None, guidance=None):
    rounds = len(sched.rounds)
    for sample in range(samples):
        for _ in range(calibration.runs_of(rounds)):
            runner = calibration.start(WAN, sched, guidance=guidance)
            x = noise(*SHAPE, seed=sample)
            with suppress(KeyboardInterrupt):
                loop.sample(model, x, sched, conditions or {"cond": 1.0}, guidance or 1.0, runner)
            calibration.finished(runner)


@pytest.mark.parametrize("steps", [2, 3, 4, 5, 6, 12, 50])
@pytest.mark.parametrize("probes", [0, 1, 4])
@pytest.mark.parametrize("samples", [1, 4])
def test_costs_what_it_said(steps, probes, samples):
    sched, model, calibration = schedule(steps), curved(), Calibration(probes)
    calibrate(model, sched, samples, calibration)
    assert model.calls == calibration.evaluations(samples, steps)
    assert len(calibration.recordings) == samples
    probed = [len(r.travels) for r in calibration.recordings]
    assert probed == [len(probe_masks(steps, probes))] * samples
    assert not any(seen.outputs for r in calibration._recorders for seen in r.seen)


def test_guidance_costs_two_calls_a_round():
    sched, model, calibration = schedule(STEPS), curved(), Calibration(2)
    calibrate(model, sched, 2, calibration, PAIR, 3.0)
    rounds = calibration.evaluations(2, STEPS)
    extra = 2 * (STEPS - 1)  # of the leading branch alone
    assert model.calls == 2 * (rounds - extra) + extra


@pytest.mark.parametrize("rounds", [*range(1, 9), 20, 23, 50])
def test_probes_share_the_run(rounds):
    """Parts follow one another; each reuses one round in two, between computed ones."""
    for probes in range(6):
        masks = probe_masks(rounds, probes)
        assert len(masks) == min(probes, max(rounds - 2, 0) // 2)
        reused = [[k for k in range(rounds) if not mask[k]] for mask in masks]
        together = [k for part in reused for k in part]
        assert together == sorted(set(together))
        assert all(part and 2 <= part[0] and part[-1] <= rounds - 2 for part in reused)
        for part in reused:
            assert set(np.diff(part)) <= {2}
        if masks:
            assert len(together) >= (rounds - 3) // 2


@pytest.mark.parametrize("stop", [13, 26, 30, 45])
def test_an_interrupted_calibration_keeps_what_it_has(stop):
    """Whatever ended early is left out, and what follows is none the worse for it."""

    def velocity(x, sigma, condition):
        if model.calls == stop:
            raise KeyboardInterrupt
        return linear(x, sigma, condition)

    model, sched, calibration = Counted(velocity), schedule(STEPS), Calibration(2)
    calibrate(model, sched, 2, calibration)
    for runner in (calibration.start(WAN, sched) for _ in range(2)):  # made up for
        loop.sample(linear, noise(*SHAPE), sched, {"cond": 1.0}, 1.0, runner)
        calibration.finished(runner)
    recordings = calibration.recordings
    assert len(recordings) >= 2
    moments = combine(recordings, ProfileHeader("wan", samples=len(recordings))).moments
    assert moments.gram.shape[0] == len(recordings)
    assert np.isfinite(moments.gram).all()
    assert moments.gain is not None


@pytest.mark.parametrize("guidance", [None, 4.0])
def test_moments_are_those_of_the_guided_outputs(guidance):
    outputs = {}

    def model(x, sigma, condition):
        outputs[sigma, condition] = linear(x, sigma, condition)
        return outputs[sigma, condition].clone()

    sched = schedule(STEPS)
    kept = Recorder.start(WAN, sched, guidance=guidance)
    x = noise(1, *SHAPE[1:])
    rounds = [(sigma, sigma) for sigma in sched.sigmas[:-1]]
    loop.sample(model, x, sched, PAIR, guidance or 4.0, kept)
    seen = [r.guided.reshape(-1) for r in kept.seen]
    g = 1.0 if guidance is None else guidance
    recording = kept.recording()
    assert recording.visited == pytest.approx(sched.sigmas[:-1])
    # The recorder's extra call comes before the next round's own, and is at the last noise level.
    last = sched.sigmas[-2]
    own = outputs[last, 0.0] + g * (outputs[last, 1.0] - outputs[last, 0.0])
    assert torch.allclose(seen[-1], own.reshape(-1), atol=1e-5)
    stacked = torch.stack(seen).double().numpy()
    assert np.allclose(recording.gram, stacked @ stacked.T / stacked.shape[1], rtol=1e-4)
    assert len(rounds) == len(seen)


def test_profiles_keep_moments(tmp_path):
    sched, calibration = schedule(STEPS), Calibration(3)
    calibrate(linear, sched, 3, calibration, PAIR, 4.0)
    profile = combine(calibration.recordings, ProfileHeader("wan", samples=3))
    moments = profile.moments
    assert moments.gram.shape == (3, STEPS, STEPS)
    assert moments.gain.shape == moments.response.shape == (3, STEPS)
    profile.save(tmp_path / "kept.safetensors")
    loaded = type(profile).load(tmp_path / "kept.safetensors").moments
    for name in ("t", "gram", "gain", "response"):
        assert np.array_equal(getattr(loaded, name), getattr(moments, name))


def test_a_probe_says_what_it_is():
    kept = Recorder.start(WAN, schedule(STEPS), keep=True)
    loop.sample(linear, noise(*SHAPE), schedule(STEPS), {"cond": 1.0}, 1.0, kept)
    probe = kept.probe(skipping(3))
    assert isinstance(probe, Probe)
    assert probe.report.policy == "calibration"
    assert kept.seen[0].outputs.keys() == {COND}
    assert flow_sigmas(STEPS, 5.0) == kept.run.schedule.sigmas
