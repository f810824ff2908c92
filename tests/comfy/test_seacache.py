"""SeaCache on ComfyUI's own models: it looks at the latent, and enters none to do so."""

from __future__ import annotations

import models
import pytest

from sencache_core import CacheConfig
from sencache_core.policies import SeaCache

pytestmark = pytest.mark.comfyui


@pytest.mark.parametrize("place", ["stack", "output"])
@pytest.mark.parametrize("name", ["wan_t2v", "ltxv", "cog_1_0", "ltxav"])
def test_families_are_served_or_told(runs, host, name, place):
    case, reports = models.load(name), runs.Reports()
    plain = runs.sample(case.model, case, steps=12)
    config = CacheConfig(SeaCache(place=place), budget=0.5)
    out = runs.sample(host.attach(case.model, config, reports), case, steps=12)
    report = reports.last
    if name == "ltxav":
        assert any("picture and sound" in said for said in report.texts)
        assert runs.same(out, plain)
    else:
        assert (report.evaluations, report.tap) == (6, place)
        assert 0 < runs.error(out, plain) < 1


def test_strictest_is_bit_identical(runs, host):
    case, reports = models.load("wan_t2v"), runs.Reports()
    config = CacheConfig(SeaCache(0.0), budget=None, min_steps=1)
    out = runs.sample(host.attach(case.model, config, reports), case, steps=6)
    assert reports.last.reused == 0
    assert runs.same(out, runs.sample(case.model, case, steps=6))
