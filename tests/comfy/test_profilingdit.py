"""ProfilingDiT on ComfyUI's own models: its runs of blocks are replayed, the others run."""

from __future__ import annotations

from dataclasses import replace

import models
import pytest

from sencache_core.policies.profilingdit import ProfilingDiT

pytestmark = pytest.mark.comfyui


@pytest.mark.parametrize("name", models.CACHED)
def test_background_blocks_are_replayed(runs, host, name):
    """On paired sigmas every partial round has a truth: the full one before it."""
    case, reports = models.load(name), runs.Reports()
    network = case.model.model.diffusion_model
    blocks = getattr(network, "transformer_blocks", None) or network.blocks
    sigmas = runs.paired(case.model, 3)
    plain = runs.sample(case.model, case, sigmas=sigmas)
    policy = ProfilingDiT(2.0, 1.0, f"0-1 of {len(blocks)}")
    out = runs.sample(
        host.attach(case.model, replace(runs.REPLAY, policy=policy), reports), case, sigmas=sigmas
    )
    report = reports.last
    assert (report.evaluations, report.partial, report.reused) == (6, 3, 0)
    assert report.steps[1].cost == pytest.approx(1 - 2 / len(blocks))
    assert runs.error(out, plain) <= 1e-5
