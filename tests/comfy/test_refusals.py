"""What is not cached, and that the user is told."""

from __future__ import annotations

import importlib

import models
import pytest
import torch

from sencache_core import CacheConfig
from sencache_core.model import families

pytestmark = pytest.mark.comfyui


@pytest.mark.parametrize("cls", ["EasyCache", "LazyCache"])
def test_stock_caches_are_refused(runs, host, cls):
    node = getattr(importlib.import_module("comfy_extras.nodes_easycache"), f"{cls}Node")
    case = models.load("wan_t2v")

    def other(model):
        return node.execute(model, 0.2, 0.15, 0.95, False).result[0]

    with pytest.raises(host.UnsupportedModel, match=f"{cls} is already on this model"):
        host.attach(other(case.model), CacheConfig())
    reports = runs.Reports()
    after = other(host.attach(case.model, CacheConfig(), reports))
    with pytest.raises(host.UnsupportedModel, match=f"either {cls} or SenCache"):
        runs.sample(after, case, steps=12)
    assert not reports
    runs.sample(host.attach(case.model, CacheConfig(), reports), case, steps=12)
    assert reports.last.reused == 6


def test_teacache_is_recognised_by_its_option(runs, host):
    model = models.load("wan_t2v").model.clone()
    model.model_options["transformer_options"]["rel_l1_thresh"] = 0.1
    with pytest.raises(host.UnsupportedModel, match="TeaCache"):
        host.attach(model, CacheConfig())


def test_causal_models_are_refused(runs, host):
    case = models.load("wan_causal")
    for patch in (
        lambda: host.attach(case.model, CacheConfig()),
        lambda: host.record(case.model, print),
    ):
        with pytest.raises(host.UnsupportedModel, match="causal"):
            patch()


def test_short_runs_are_computed_unless_asked(runs, host):
    case = models.load("wan_t2v")
    reports = runs.Reports()
    plain = runs.sample(case.model, case, steps=8)
    out = runs.sample(host.attach(case.model, CacheConfig(), reports), case, steps=8)
    assert runs.same(out, plain)
    assert any("8 steps" in message for message in reports.last.texts)
    runs.sample(host.attach(case.model, CacheConfig(min_steps=8), reports), case, steps=8)
    assert reports.last.evaluations == 4
    assert not any("is off" in message for message in reports.last.texts)


def test_rising_noise_is_computed(runs, host):
    case = models.load("wan_t2v")
    reports = runs.Reports()
    sigmas = torch.cat((torch.linspace(1, 0.3, 8), torch.linspace(0.9, 0, 8)))
    plain = runs.sample(case.model, case, sigmas=sigmas)
    out = runs.sample(host.attach(case.model, CacheConfig(), reports), case, sigmas=sigmas)
    assert runs.same(out, plain)
    assert any("do not fall" in message for message in reports.last.texts)


@pytest.mark.parametrize("tap", ["output", "stack"])
def test_unknown_models(runs, host, monkeypatch, tap):
    case = models.load("wan_t2v")
    others = {name: row for name, row in families.FAMILIES.items() if name != "wan"}
    monkeypatch.setattr(families, "FAMILIES", others)
    assert host.model_family(case.model.model) is None
    reports = runs.Reports()
    plain = runs.sample(case.model, case, steps=12)
    out = runs.sample(host.attach(case.model, CacheConfig(tap=tap), reports), case, steps=12)
    report = reports.last
    assert report.family == "generic"
    assert sum("no known family" in message for message in report.texts) == 1
    if tap == "output":
        assert report.evaluations == 6
        return
    assert report.evaluations == report.calls == 12
    assert sum("no block stack" in message for message in report.texts) == 1
    assert runs.same(out, plain)


def test_rotating_windows_have_nothing_to_forecast_from(runs, host):
    """Each step asks for other frames: the report must not claim a reuse."""
    case = models.load("wan_t2v")
    case.latent = torch.zeros(1, 16, 9, 8, 8)
    reports = runs.Reports()
    cached = host.attach(case.model, CacheConfig(), reports)
    windowed = runs.windowed(cached, "looped_uniform", overlap=1, closed_loop=True)
    with runs.counted(case.model) as calls:
        runs.sample(windowed, case, steps=12)
    report = reports.last
    assert report.calls == calls[0]
    saved = [r for r in report.steps if r.decision == "reused"]
    assert all(r.calls < report.calls / report.evaluations for r in saved)
    assert report.reused == len(saved)
