"""Profiling of blocks on ComfyUI's own models."""

from __future__ import annotations

import models
import pytest

from sencache_core import CacheConfig
from sencache_core.policies.profilingdit import ProfilingDiT

pytestmark = pytest.mark.comfyui


@pytest.mark.parametrize("name", ["wan_t2v", "ltxv", "cog_1_0"])
def test_watching_changes_nothing_and_its_list_can_be_used(runs, host, name):
    case, reports, found = models.load(name), runs.Reports(), []
    plain = runs.sample(case.model, case, steps=12)
    assert runs.same(
        runs.sample(host.watch_blocks(case.model, found.append), case, steps=12), plain
    )
    (watch,) = found
    assert watch.report.evaluations == 12
    profile = watch.profile()
    assert (profile.changes.diagonal() > 0).all()
    config = CacheConfig(ProfilingDiT(4.0, blocks=profile.listed()), budget=None)
    runs.sample(host.attach(case.model, config, reports), case, steps=12)
    assert reports.last.partial > 0
