"""Profiling of blocks on ComfyUI's own models."""

from __future__ import annotations

import models
import pytest

from sencache_core import CacheConfig, ProfileError
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


def test_attention_is_listened_to_where_it_is_pytorchs(runs, host, monkeypatch):
    """As on most cards; on a processor ComfyUI has one of its own, and the mask says nothing."""
    import comfy.ldm.wan.model as wan
    from comfy.ldm.modules.attention import attention_pytorch

    case, found = models.load("wan_t2v"), []
    runs.sample(host.watch_blocks(case.model, found.append), case, steps=6)
    monkeypatch.setattr(wan, "optimized_attention", attention_pytorch)
    runs.sample(host.watch_blocks(case.model, found.append), case, steps=6)
    own, pytorchs = (watch.profile() for watch in found)
    if own.foreground is None:
        with pytest.raises(ProfileError, match="attention was not seen"):
            own.listed("attention")
    assert len(pytorchs.foreground) == len(pytorchs.changes) == 3
    assert pytorchs.listed("attention").endswith("of 3")
