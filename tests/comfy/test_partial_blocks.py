"""Blocks that run now and then, on ComfyUI's own models: they are replayed, the others run."""

from __future__ import annotations

from dataclasses import replace

import models
import pytest

from sencache_core.policies import DeepCache, DeltaDiT, ProfilingDiT

pytestmark = pytest.mark.comfyui

#: By name: a policy for a number of blocks, and how many of them run in between.
METHODS = {
    "profilingdit": (lambda n: ProfilingDiT(2.0, 1.0, f"0-1 of {n}"), lambda n: n - 2),
    "deepcache": (lambda n: DeepCache(2.0), lambda n: 2),
    "delta_dit, rear": (lambda n: DeltaDiT(2.0, 0.7, 1.0), lambda n: n - round(0.7 * n)),
    "delta_dit, front": (lambda n: DeltaDiT(2.0, 0.4, 0.0), lambda n: n - round(0.4 * n)),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", models.CACHED)
def test_blocks_are_replayed(runs, host, name, method):
    """On paired sigmas every partial round has a truth: the full one before it."""
    case, reports = models.load(name), runs.Reports()
    network = case.model.model.diffusion_model
    count = len(getattr(network, "transformer_blocks", None) or network.blocks)
    sigmas, plain = runs.truth(name)
    policy, ran = (make(count) for make in METHODS[method])
    out = runs.sample(
        host.attach(case.model, replace(runs.REPLAY, policy=policy), reports), case, sigmas=sigmas
    )
    report = reports.last
    assert (report.evaluations, report.partial, report.reused) == (4, 2, 0)
    assert report.steps[1].cost == pytest.approx(ran / count)
    assert runs.error(out, plain) <= 1e-5
