"""Calibration: slopes and forecast errors of models whose answers are known."""

import numpy as np
import pytest
import torch
from toys import (
    COND,
    UNCOND,
    WAN,
    Counted,
    curved,
    noise,
    observe,
    predict,
    recorder,
    report,
    schedule,
    toy_signal,
)

from sencache_core import Profile, ProfileHeader, Recorder, Schedule
from sencache_core.hosts import loop
from sencache_core.measure.profile import CHANGES, CURVES, combine
from sencache_core.model.signals import TIME_EMBEDDING
from sencache_core.policies import Prior, RunInfo


def record(model, sched, conditions=None, x=None):
    runner = recorder(sched)
    x = noise(1, 2, 3, 4) if x is None else x
    out = loop.sample(model, x, sched, conditions or {"cond": 0.4}, 3.0, runner)
    return runner, out


def test_slopes_of_a_linear_model_are_exact():
    """f = a x + b t: alpha_x = |a| and alpha_t = |b| at every time."""
    runner, _ = record(lambda x, sigma, c: 0.7 * x - 1.9 * sigma, schedule(20))
    curves = runner.recording().curves
    assert np.allclose(curves["alpha_x"], 0.7, rtol=1e-4)
    assert np.allclose(curves["alpha_t"], 1.9, rtol=1e-4)


def test_speed_size_and_ratio():
    sched = Schedule((1.0, 0.8, 0.5, 0.0), "euler")
    runner, _ = record(lambda x, sigma, c: torch.full_like(x, 2 * sigma), sched)
    recording = runner.recording()
    assert recording.t == (1.0, 0.8)
    assert np.allclose(recording.curves["speed"], [2.0, 1.6])  # |dx/dt| = |v|
    assert np.allclose(recording.curves["output_rms"], [1.6, 1.0])
    assert np.allclose(recording.curves["ratio"], [0.8, 1.0 / 1.6])


@pytest.mark.parametrize("guided", [False, True])
def test_costs_one_extra_call_a_round(guided):
    model = curved()
    conditions = {"cond": 0.4, "uncond": 0.0} if guided else {"cond": 0.4}
    runner, _ = record(model, schedule(20), conditions)
    assert model.calls == 20 * len(conditions) + 19
    assert runner.report.calls == model.calls == sum(r.calls for r in runner.report.steps)
    assert runner.report.evaluations == 20
    assert runner.report.completed


def test_recording_does_not_change_the_run():
    x, sched = noise(1, 2, 3, 4), schedule(20)
    _, out = record(curved(), sched, {"cond": 0.4, "uncond": 0.0})
    plain = loop.sample(curved(), x, sched, {"cond": 0.4, "uncond": 0.0}, 3.0)
    assert torch.equal(out, plain)


def test_batched_guidance_measures_the_conditional_half():
    def run(batched):
        runner = recorder(schedule(3))
        for k, sigma in enumerate(schedule(3).sigmas[:-1]):
            x = noise(1, 6, seed=k)
            runner.begin((x,), sigma)
            both = torch.cat([5 * x + sigma, 0.7 * x - 1.9 * sigma])
            at = {UNCOND: lambda s, x=x: 5 * x + s, COND: lambda s, x=x: 0.7 * x - 1.9 * s}
            if batched:
                assert predict(runner, (UNCOND, COND), both.shape) is None
                observe(
                    runner,
                    (UNCOND, COND),
                    both,
                    lambda s, at=at: torch.cat([at[UNCOND](s), at[COND](s)]),
                )
            else:
                for branch, part in zip((UNCOND, COND), both.chunk(2), strict=True):
                    observe(runner, (branch,), part, at[branch])
        runner.finish(True)
        return runner.recording().curves

    split, batched = run(False), run(True)
    assert np.allclose(batched["alpha_x"], 0.7, rtol=1e-4)
    assert np.allclose(split["alpha_t"], batched["alpha_t"])


def test_a_time_visited_twice_counts_once():
    """Heun-like visits: no division by zero, rising table."""
    runner = recorder(schedule(4))
    for k, sigma in enumerate((1.0, 0.8, 0.8, 0.5, 0.5, 0.2)):
        x = noise(1, 6, seed=k)
        runner.begin((x,), sigma)
        observe(runner, (COND,), 0.5 * x + sigma, lambda s, x=x: 0.5 * x + s)
    runner.finish(True)
    recording = runner.recording()
    assert recording.t == (1.0, 0.8, 0.5)
    assert np.allclose(recording.curves["alpha_x"], 0.5, rtol=1e-4)


def test_changed_shapes_and_missing_outputs_are_passed_over():
    runner = recorder(schedule(5))
    for sigma, size in ((1.0, 4), (0.8, 6), (0.6, 6)):
        x = noise(1, size)
        runner.begin((x,), sigma)
        observe(runner, (COND,), x * sigma, lambda s, x=x: x * s)
    runner.begin((noise(1, 6, seed=1),), 0.4)
    observe(runner, (COND,), None, lambda s: None)
    runner.begin((noise(1, 6, seed=2),), 0.2)
    observe(runner, (COND,), noise(1, 6), lambda s: noise(1, 6))
    runner.finish(True)
    assert runner.recording().t == ()  # x did not move from 0.8 to 0.6; 0.4 gave no output


def test_calibrate_save_load_and_use(tmp_path):
    """The whole way: record two seeds, combine, save, load, and the slopes come back."""
    sched = schedule(20)
    recordings = [
        record(curved(), sched, x=noise(1, 2, 3, 4, seed=s))[0].recording() for s in (0, 1)
    ]
    header = ProfileHeader("wan", sampler="euler", sigmas=sched.sigmas, samples=2)
    profile = combine(recordings, header)
    assert set(profile.mean) == {*CURVES} - {*CHANGES}
    profile.save(tmp_path / "toy.safetensors")
    loaded = Profile.load(tmp_path / "toy.safetensors")
    t = recordings[0].t[3]
    mean = np.mean([r.curves["alpha_x"][3] for r in recordings])
    assert loaded.at(t)[0] == pytest.approx(mean)
    assert loaded.header == header


def test_scale_free_families_measure_relative_latents():
    from sencache_core import FAMILIES

    family = FAMILIES["cogvideox"]
    sched = Schedule((8.0, 4.0, 2.0, 1.0, 0.0))

    def slopes(scale):
        runner = Recorder(RunInfo(family, sched, Prior(family)), report(4))
        for k, sigma in enumerate(sched.sigmas[:-1]):
            x = noise(1, 6, seed=k)
            runner.begin((x * scale,), sigma)
            observe(runner, (COND,), x + sigma, lambda s, x=x: x + s)
        runner.finish(True)
        return runner.recording().curves["alpha_x"]

    assert np.allclose(slopes(1.0), slopes(50.0), rtol=1e-4)


def test_an_interrupted_calibration_says_so():
    def failing(x, sigma, condition):
        if model.calls > 4:
            raise KeyboardInterrupt
        return x

    model, runner = Counted(failing), recorder(schedule(20))
    with pytest.raises(KeyboardInterrupt):
        loop.sample(model, noise(1, 4), schedule(20), {"cond": None}, runner=runner)
    assert not runner.report.completed
    assert WAN.name == runner.report.family


def looked(look, sched, keep=False):
    """A recording of one run with a recorder that looks."""
    runner = Recorder.start(WAN, sched, keep=keep, looks=True)
    x, conditions = noise(1, 2, 3, 4), {"cond": 0.4, "uncond": 0.0}
    loop.sample(curved(), x, sched, conditions, 3.0, runner=runner, look=look)
    return runner


def test_changes_of_what_teacache_looks_at_are_measured_beside_the_outputs(tmp_path):
    sched = schedule(20)
    runner = looked(toy_signal, sched)
    recording = runner.recording()
    series = [toy_signal(TIME_EMBEDDING, noise(1, 1), s, 0.0) for s in sched.sigmas[:-1]]
    expected = [
        float((b - a).abs().mean() / a.abs().mean())
        for a, b in zip(series[:-1], series[1:], strict=True)
    ]
    assert recording.curves["signal_change"] == pytest.approx(expected, rel=1e-5)
    assert recording.curves.keys() == {*CURVES}
    model, x = curved(), noise(1, 2, 3, 4)
    first = model(x, sched.sigmas[0], 0.4)
    guided = 3 * first - 2 * model(x, sched.sigmas[0], 0.0)
    second = model(x + (sched.sigmas[1] - sched.sigmas[0]) * guided, sched.sigmas[1], 0.4)
    change = float((second - first).abs().mean() / first.abs().mean())
    assert recording.curves["output_change"][0] == pytest.approx(change, rel=1e-5)
    profile = combine([recording], ProfileHeader("wan", sigmas=sched.sigmas))
    profile.save(tmp_path / "seen.safetensors")
    signal, output = Profile.load(tmp_path / "seen.safetensors").changes()
    assert signal == pytest.approx(recording.curves["signal_change"][::-1])
    assert len(signal) == len(output) == 19


def test_where_nothing_is_seen_the_rest_is_measured_as_ever():
    sched = schedule(10)
    curves = looked(lambda *_: None, sched).recording().curves
    plain = record(curved(), sched, x=noise(1, 2, 3, 4))[0].recording().curves
    assert curves.keys() == plain.keys() == {*CURVES} - {*CHANGES}
    profile = combine([looked(None, sched).recording()], ProfileHeader("wan"))
    assert profile.changes() is None
