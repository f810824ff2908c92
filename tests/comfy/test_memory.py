"""What the history holds, and that ComfyUI hears of it."""

from __future__ import annotations

import importlib

import models
import pytest

from sencache_core import CacheConfig, Hold, Linear, Quadratic
from sencache_core.policies import DiCache, FasterCache, FBCache, MiddleBlocks, SeaCache, TeaCache

pytestmark = pytest.mark.comfyui


@pytest.mark.parametrize("rule", [Hold(), Linear(), Quadratic()])
@pytest.mark.parametrize("name", ["wan_t2v", "ltxav"])
def test_history_is_bounded(runs, host, name, rule):
    case = models.load(name, batch=2)
    reports = runs.Reports()
    runs.sample(host.attach(case.model, CacheConfig(rule=rule), reports), case, steps=12)
    latent = 4 * runs.flat(case.latent).numel()
    sketch = latent  # small latents are sketched whole
    assert reports.last.history_bytes <= 2 * rule.history * latent + sketch


@pytest.mark.parametrize("name", ["wan_t2v", "ltxv", "ltxav", "cog_1_0"])
def test_comfyui_is_asked_for_more(runs, host, monkeypatch, name):
    import comfy.model_management

    case = models.load(name)
    asked = []
    load = comfy.model_management.load_models_gpu

    def spy(*args, **kwargs):
        asked.append(kwargs["memory_required"])
        return load(*args, **kwargs)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", spy)
    config = CacheConfig()
    for model in (case.model, host.attach(case.model, config)):
        runs.sample(model, case, steps=2)
    plain, output = asked
    held = 2 * 3 * 4 * runs.flat(case.latent).numel()
    assert output - plain == pytest.approx(held, rel=1e-3)


@pytest.mark.parametrize(
    "policy", [TeaCache(), SeaCache(), MiddleBlocks(), FasterCache(), FBCache(), DiCache()]
)
@pytest.mark.parametrize("name", ["wan_t2v", "ltxv", "cog_1_0"])
def test_what_is_reckoned_is_what_is_kept(runs, host, memory, name, policy):
    """By the places of the tap and what the rule reads of each; rather too much than too little."""
    case, reports = models.load(name), runs.Reports()
    config = CacheConfig(policy, budget=0.5)
    runs.sample(host.attach(case.model, config, reports), case, steps=20)
    kept, model = memory.Kept.of(config), case.model.model
    reckoned = memory.expected_bytes(kept, model, [list(case.latent.shape)])
    sketches = 4 * runs.flat(case.latent).numel()
    assert 0.7 * (reports.last.history_bytes - sketches) < reckoned
    assert reckoned < 2 * reports.last.history_bytes


def test_much_memory_is_told_before_the_run(runs, host, memory, monkeypatch):
    case, reports, told = models.load("wan_t2v"), runs.Reports(), []
    monkeypatch.setattr(memory, "MUCH", 1)
    live = lambda report: told.append(list(report.texts))  # noqa: E731
    config = CacheConfig(FasterCache(), budget=None)
    runs.sample(host.attach(case.model, config, reports, live), case, steps=12)
    assert any(said.endswith("GiB to predict from.") for said in told[0])
    monkeypatch.setattr(memory, "room_of", lambda patcher: 10)
    runs.sample(host.attach(case.model, CacheConfig(FasterCache()), reports), case, steps=12)
    assert "more than the 0 GiB that can be made free" in " ".join(reports.last.texts)
    assert "a policy that skips whole steps" in " ".join(reports.last.texts)
    runs.sample(host.attach(case.model, CacheConfig(tap="stack"), reports), case, steps=12)
    assert "Choose the output tap" in " ".join(reports.last.texts)


@pytest.fixture
def memory(host):
    return importlib.import_module("sencache_core.hosts.comfy_memory")
