"""Learning from ordinary runs in ComfyUI."""

from __future__ import annotations

import models
import pytest

from sencache_core import CacheConfig
from sencache_core.measure.learnt_store import LearntStore
from sencache_core.model.fingerprint import fingerprint

pytestmark = pytest.mark.comfyui

STEPS = 12


@pytest.mark.parametrize("tap", ["output", "stack"])
@pytest.mark.parametrize("name", ["wan_t2v", "ltxv", "cog_1_5"])
def test_the_next_run_plans_from_the_last(runs, host, tmp_path, name, tap):
    case, kept = models.load(name), runs.Reports()
    plain = host.attach(case.model, CacheConfig(tap=tap))
    model = host.attach(case.model, CacheConfig(learn=tmp_path, tap=tap), kept)
    first = runs.sample(model, case, steps=STEPS)
    assert runs.same(first, runs.sample(plain, case, steps=STEPS))
    runs.sample(model, case, steps=STEPS, seed=8)
    runs.sample(model, case, steps=STEPS, seed=8, cfg=6.0)
    assert [report.basis for report in kept] == ["prior", "learnt", "prior"]
    assert {report.evaluations for report in kept} == {STEPS // 2}
    found = [learnt for _, learnt in LearntStore(tmp_path).listed()]
    assert sorted(learnt.header.guidance for learnt in found) == [4.0, 6.0]
    for learnt in found:
        assert learnt.header.fingerprint == fingerprint(case.model.model.diffusion_model)
        assert learnt.header.sampler == "euler" and learnt.header.tap == tap
        assert len(learnt.runs[0].t) == STEPS // 2
        assert (learnt.runs[0].gram != learnt.runs[0].lead).any()


def test_an_interrupted_run_teaches_nothing(runs, host, tmp_path):
    import comfy.model_management as management

    def interrupt(step, *_):
        if step == 8:
            raise management.InterruptProcessingException

    case = models.load("wan_t2v")
    model = host.attach(case.model, CacheConfig(learn=tmp_path / "learnt"))
    with pytest.raises(management.InterruptProcessingException):
        runs.sample(model, case, steps=STEPS, callback=interrupt)
    assert not (tmp_path / "learnt").exists()


def test_first_run_in_full(runs, host, tmp_path):
    case, kept = models.load("wan_t2v"), runs.Reports()
    model = host.attach(case.model, CacheConfig(learn=LearntStore(tmp_path, True)), kept)
    full = runs.sample(model, case, steps=STEPS)
    assert runs.same(full, runs.sample(case.model, case, steps=STEPS))
    runs.sample(model, case, steps=STEPS)
    assert [report.evaluations for report in kept] == [STEPS, STEPS // 2]
    assert kept.last.learnt_from == 1


@pytest.mark.parametrize("sampler", ["heun", "euler_ancestral", "uni_pc"])
def test_samplers(runs, host, tmp_path, sampler):
    case, kept = models.load("wan_t2v"), runs.Reports()
    model = host.attach(case.model, CacheConfig(learn=tmp_path), kept)
    for seed in range(2):
        runs.sample(model, case, sampler, steps=STEPS, seed=seed)
    assert [report.basis for report in kept] == ["prior", "learnt"]
    assert kept[0].evaluations == kept[1].evaluations
