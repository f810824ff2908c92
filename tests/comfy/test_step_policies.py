"""Policies of whole steps on ComfyUI's own models: a budget is met, the strictest is exact."""

from __future__ import annotations

import models
import pytest

from sencache_core import POLICIES, CacheConfig

pytestmark = pytest.mark.comfyui
STRICTEST = {"tafc": {"threshold": 0.0}, "ra_cfgcache": {"threshold": 0.0}, "bag": {"share": 1.0}}


@pytest.mark.parametrize("place", ["stack", "output"])
@pytest.mark.parametrize("model", ["wan_t2v", "ltxv", "cog_1_0"])
@pytest.mark.parametrize("name", STRICTEST)
def test_half_is_half(runs, host, name, model, place):
    case, reports = models.load(model), runs.Reports()
    plain = runs.sample(case.model, case, steps=12)
    config = CacheConfig(POLICIES[name](place=place), budget=0.5)
    out = runs.sample(host.attach(case.model, config, reports), case, steps=12)
    report = reports.last
    assert (report.evaluations, report.tap) == (6, place)
    assert 0 < runs.error(out, plain) < 1


@pytest.mark.parametrize("name", STRICTEST)
def test_strictest_is_bit_identical(runs, host, name):
    case, reports = models.load("wan_t2v"), runs.Reports()
    config = CacheConfig(POLICIES[name](**STRICTEST[name]), budget=None, min_steps=1)
    out = runs.sample(host.attach(case.model, config, reports), case, steps=6)
    assert reports.last.reused == 0
    assert runs.same(out, runs.sample(case.model, case, steps=6))
