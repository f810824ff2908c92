"""MagCache on ComfyUI's own models: by published ratios, or by measured ones."""

from __future__ import annotations

import models
import pytest

from sencache_core import CacheConfig
from sencache_core.policies import MagCache

pytestmark = pytest.mark.comfyui


@pytest.mark.parametrize(
    ("name", "place", "told"),
    [
        ("wan_t2v", "stack", ""),
        ("cog_1_0", "stack", ""),
        ("ltxv", "output", ""),
        ("ltxv", "stack", "no ratios for the block stack"),
    ],
)
def test_families_are_served_or_told(runs, host, name, place, told):
    case, reports = models.load(name), runs.Reports()
    config = CacheConfig(MagCache(place=place), budget=0.5)
    runs.sample(host.attach(case.model, config, reports), case, steps=12)
    report = reports.last
    assert any(told and told in said for said in report.texts) == bool(told)
    assert report.evaluations == (12 if told else 6)
