"""Rounds of the conditional branch alone: what ComfyUI's own network is asked, and by whom."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import models
import pytest
import torch

from sencache_core import CfgCache, Planned

pytestmark = pytest.mark.comfyui


@contextmanager
def rows_of(model):
    """Rows that each forward pass of the network is asked for, as a list."""
    rows = []
    network = model.model.diffusion_model
    handle = network.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    try:
        yield rows
    finally:
        handle.remove()


def alone(runs, **changes):
    return replace(runs.REPLAY, policy=CfgCache(2.0), **changes)


@pytest.mark.parametrize("tap", ["output", "stack"])
@pytest.mark.parametrize("tokens", [(5, 5), (5, 8)])
@pytest.mark.parametrize("name", ["wan_t2v", "cog_1_0"])
def test_only_conditional_rows_are_run(runs, host, name, tokens, tap):
    case, reports = models.load(name, tokens=tokens), runs.Reports()
    sigmas = runs.paired(case.model, 3)
    plain = runs.sample(case.model, case, sigmas=sigmas)
    patched = host.attach(case.model, alone(runs, tap=tap), reports)
    with rows_of(case.model) as rows:
        out = runs.sample(patched, case, sigmas=sigmas)
    report = reports.last
    assert (report.partial, report.reused, report.cost) == (3, 0, 0.75)
    assert runs.error(out, plain) <= 1e-5
    if tap == "output":  # what surrounds the stack runs for every branch
        assert sum(rows) == 2 * 3 + 3
        assert report.calls == len(rows)


def test_without_guidance_caching_is_off_and_that_is_said(runs, host):
    case, reports = models.load("wan_t2v"), runs.Reports()
    plain = runs.sample(case.model, case, cfg=1.0)
    out = runs.sample(host.attach(case.model, alone(runs), reports), case, cfg=1.0)
    assert runs.same(out, plain)
    assert reports.last.cost == 1.0
    assert any("without guidance" in message for message in reports.last.texts)


def test_several_conditional_passes_are_computed_in_full(runs, host):
    """Which of two positives an unconditional output belongs to cannot be known."""
    case, reports = models.load("wan_t2v"), runs.Reports()
    case.positive = case.positive + models.text("wan_t2v", 3)
    plain = runs.sample(case.model, case)
    out = runs.sample(host.attach(case.model, alone(runs), reports), case)
    assert runs.same(out, plain)
    assert reports.last.cost == 1.0


def test_each_context_window_has_a_pair_of_its_own(runs, host):
    case, reports = models.load("wan_t2v"), runs.Reports()
    case.latent = torch.zeros(1, 16, 7, 8, 8)
    model = runs.windowed(case.model, "standard_static")
    sigmas = runs.paired(model, 3)
    plain = runs.sample(model, case, sigmas=sigmas)
    out = runs.sample(host.attach(model, alone(runs), reports), case, sigmas=sigmas)
    assert reports.last.cost == 0.75
    assert runs.error(out, plain) <= 1e-5


def test_rebuilt_outputs_differ_from_held_ones(runs, host):
    """On sigmas that move, the conditional branch is fresh: better than reusing both."""
    case = models.load("wan_t2v")
    plain = runs.sample(case.model, case, steps=12)
    found = {}
    for name, config in (("half", alone(runs)), ("reused", runs.REPLAY)):
        out = runs.sample(host.attach(case.model, config), case, steps=12)
        found[name] = runs.error(out, plain)
    assert 0 < found["half"] < found["reused"]


def test_a_new_positive_is_computed_until_its_own_difference_is_known(runs, host):
    """A prompt that changes in mid-run: the negative is never rebuilt by another's difference."""
    case, reports = models.load("wan_t2v"), runs.Reports()
    early, late = ([[t, dict(o)]] for t, o in (case.positive[0], models.text("wan_t2v", 3)[0]))
    early[0][1]["end_percent"], late[0][1]["start_percent"] = 0.5, 0.5
    case.positive = early + late
    mask = replace(runs.REPLAY, policy=Planned(mask="CC" + "h" * 9 + "C"))
    runs.sample(host.attach(case.model, mask, reports), case, steps=12)
    kinds = [step.decision for step in reports.last.steps]
    # Both positives hold at the very change; only the round after it shows the new pair.
    assert kinds.count("partial") == 7 and kinds[2:11].count("forced") == 2
    assert any("computed in full" in message for message in reports.last.texts)


@pytest.mark.parametrize(("negative", "half"), [((4, 8, 0, 0), 9), ((4, 8, 4, 0), 0)])
def test_a_pair_covers_one_area(runs, host, negative, half):
    case, reports = models.load("wan_t2v"), runs.Reports()
    for conds, area in ((case.positive, (4, 8, 0, 0)), (case.negative, negative)):
        conds[0] = [conds[0][0], {**conds[0][1], "area": area}]
    mask = replace(runs.REPLAY, policy=Planned(mask="CC" + "h" * 9 + "C"))
    runs.sample(host.attach(case.model, mask, reports), case, steps=12)
    assert reports.last.partial == half
