"""Every family: exact when off, counted right when on, replays exact."""

from __future__ import annotations

import models
import pytest
import torch

from sencache_core import CacheConfig, SenCache

pytestmark = pytest.mark.comfyui

FULL = CacheConfig(budget=1.0, min_steps=1)
FAMILY = {"wan": "wan", "ltxv": "ltx", "ltxav": "ltx2", "cog": "cogvideox"}
#: One of each architecture.
PLAINEST = ["wan_t2v", "ltxv", "ltxav", "cog_1_0"]
ZERO = CacheConfig(policy=SenCache(), min_steps=1).with_tolerance(0.0)


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        *((name, "euler") for name in models.CACHED),
        *((name, sampler) for name in PLAINEST for sampler in ("heun", "uni_pc")),
    ],
)
def test_computing_everything_changes_nothing(runs, host, name, sampler):
    case = models.load(name)
    plain = runs.sample(case.model, case, sampler, steps=4)
    for config in (FULL, ZERO):
        patched = host.attach(case.model, config)
        assert runs.same(runs.sample(patched, case, sampler, steps=4), plain)


@pytest.mark.parametrize("name", models.CACHED)
def test_budget_is_met_and_counted(runs, host, name):
    case = models.load(name)
    reports = runs.Reports()
    patched = host.attach(case.model, CacheConfig(), reports)
    with runs.counted(case.model) as calls:
        out = runs.sample(patched, case, steps=12)
    report = reports.last
    assert report.completed
    assert len(report.steps) == 12
    assert report.evaluations == 6
    assert report.calls == calls[0]
    assert report.calls + report.calls_saved == 12 * report.calls // 6
    assert sum(record.calls for record in report.steps) == calls[0]
    assert report.family == FAMILY[name.split("_")[0]]
    assert runs.flat(out).isfinite().all()


@pytest.mark.parametrize("name", models.CACHED)
def test_replay_of_an_evaluation_is_exact(runs, host, name):
    case = models.load(name)
    sigmas, plain = runs.truth(name)
    reports = runs.Reports()
    patched = host.attach(case.model, runs.REPLAY, reports)
    with runs.counted(case.model) as calls:
        out = runs.sample(patched, case, sigmas=sigmas)
    assert reports.last.evaluations == 2
    assert reports.last.calls == calls[0]
    assert runs.error(out, plain) <= 1e-5


@pytest.mark.parametrize("name", PLAINEST)
def test_the_callers_tensors_are_only_read(runs, host, name):
    case = models.load(name)
    seen = []

    def spy(executor, x, timestep, *args, **kwargs):
        before = x.clone()
        out = executor(x, timestep, *args, **kwargs)
        seen.append((torch.equal(before, x), out))
        return out

    import comfy.patcher_extension

    patched = host.attach(case.model, CacheConfig(), None)
    patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREDICT_NOISE, "spy", spy)
    latent = runs.flat(case.latent).clone()
    runs.sample(patched, case, steps=12)
    assert all(untouched for untouched, _ in seen)
    assert torch.equal(runs.flat(case.latent), latent)
