"""What the history holds, and that ComfyUI hears of it."""

from __future__ import annotations

from dataclasses import replace

import models
import pytest

from sencache_core import CacheConfig, Hold, Linear, Quadratic
from sencache_core.policies import DiCache, FasterCache, FBCache

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
    settings = (
        config,
        replace(config, tap="stack"),
        *(replace(config, policy=policy) for policy in (FBCache(), DiCache(), FasterCache())),
    )
    for model in (case.model, *(host.attach(case.model, setting) for setting in settings)):
        runs.sample(model, case, steps=2)
    plain, *more = asked
    one = 4 * runs.flat(case.latent).numel()
    kept = [
        2 * 3,
        2 * 3 * 40,
        2 * 3 * 40,
        (2 * 2 + 4) * 40,  # two residuals of either branch, and what the probe has shown
        2 * 2 * 3 * 40,  # two outputs of the self-attention of each of three blocks
    ]
    assert [held - plain for held in more] == [pytest.approx(n * one, rel=1e-3) for n in kept]
