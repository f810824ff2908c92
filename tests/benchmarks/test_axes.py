"""The two axes: prices, errors that are known beforehand, and replays that are the model's own."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import Model, Regime, axes
from benchmarks.axes_rows import (
    PATTERNS,
    depth_axis,
    forecast_error,
    gram_of,
    guidance_axis,
    pattern_error,
    price,
)
from benchmarks.axes_runs import branches, record, replay, times
from benchmarks.case import make_case
from sencache_core.tiny import SPECS, build

for extra in ("diffusers", "tqdm"):
    pytest.importorskip(extra, reason=f"needs {extra}, of the extra `bench`")

SHORT = Regime("short", steps=10, shift=5.0, guidance=4.0)
STEPS, BLOCKS, GUIDANCE = 12, 3, 4.0


@pytest.fixture(scope="module", params=sorted(SPECS))
def case(request):
    """A small model of random weights."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = SPECS[request.param]
    config = {**spec.config, "num_layers": BLOCKS}
    module = build(request.param).__class__(**config).eval().requires_grad_(False)
    small = replace(spec, config=config, latent=(spec.latent[0], 2, 4, 4))
    made = make_case(Model(request.param, small, module, None, {}), SHORT, "diffusers", 1, 1, 2)
    yield made
    made.host.close()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def runs(case):
    return [record(case, *one) for one in case.calibration]


def outputs(seed: int = 0) -> torch.Tensor:
    return torch.randn(STEPS, 2, 50, generator=torch.Generator().manual_seed(seed))


def error(outs: torch.Tensor, pattern: str) -> float:
    t = np.linspace(1, 0, STEPS + 1)
    return pattern_error(gram_of(outs), GUIDANCE, t, pattern, range(2 * len(pattern), STEPS))


def test_prices():
    costs = [2 / 3, 2 / 3, 2.5 / 4, 0.5, 0.5, 0.4, 0.4, 0.375, 1 / 3]
    assert [price(pattern) for pattern in PATTERNS] == pytest.approx(costs)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_constants_and_lines_are_forecast(pattern):
    start, slope = outputs()[0], outputs()[1]
    assert error(start.expand(STEPS, -1, -1), pattern) < 1e-12
    ramp = torch.arange(STEPS)[:, None, None]
    assert error(start + slope * ramp, pattern) < 1e-9
    assert error(outputs(), pattern) > 1e-3


def test_the_conditional_branch_is_used_where_it_ran():
    # The unconditional branch never changes: the conditional one says all, at the step it runs.
    outs = outputs()
    outs[:, 1] = outs[0, 1]
    gram, marks = gram_of(outs), "ChC.Ch.C" + "." * (STEPS - 8)
    assert forecast_error(gram, GUIDANCE, marks, 2) == 0
    assert forecast_error(gram, GUIDANCE, marks, 5) < 1e-9
    assert forecast_error(gram, GUIDANCE, marks, 6) > 1
    # Where it changes by itself, half an evaluation leaves an error, smaller than without any.
    gram = gram_of(outputs())
    half, none = (forecast_error(gram, GUIDANCE, f"C.C.C{m}", 5) for m in "h.")
    assert 1 < half < none


def test_forecast_error_is_that_of_least_squares():
    outs, marks, k = outputs(3).double(), "C.hCh.h", 6
    known = [outs[0, 1] - outs[3, 1], *(outs[j, 0] - outs[3, 0] for j in (0, 2, 4, 6))]
    guided = GUIDANCE * outs[:, 0] + (1 - GUIDANCE) * outs[:, 1]
    matrix, wanted = torch.stack(known, dim=1), guided[k] - guided[3]
    left = wanted - matrix @ torch.linalg.lstsq(matrix, wanted).solution
    expected = float(left.square().mean())
    assert forecast_error(gram_of(outs), GUIDANCE, marks, k) == pytest.approx(expected, rel=1e-6)


def test_recorded_runs_are_the_clips(case, runs):
    """Euler or DDIM on the recorded outputs gives the clip: branches and times are right."""
    (prompt, seed), run, t = case.calibration[0], runs[0], times(case)
    assert run.outputs.shape[:2] == (SHORT.steps, 2)
    assert len(t) == SHORT.steps + 1
    assert (np.diff(t) < 0).all()
    hidden = [calls[0]["hidden_states"][-1].flatten() for calls in run.calls]
    guided = SHORT.guidance * run.outputs[:, 0] + (1 - SHORT.guidance) * run.outputs[:, 1]
    for k in range(SHORT.steps - 1):
        if case.model.spec.prediction == "flow":
            after = hidden[k] + (t[k + 1] - t[k]) * guided[k]
        else:
            angle = (t[k + 1] - t[k]) * np.pi / 2
            after = np.cos(angle) * hidden[k] + np.sin(angle) * guided[k]
        torch.testing.assert_close(after.float(), hidden[k + 1], rtol=1e-3, atol=1e-3)
    assert torch.equal(record(case, prompt, seed).outputs, run.outputs)


def test_replays_are_the_models_own(case, runs):
    calls, own = runs[0].calls[4], runs[0].outputs[4]
    every = range(BLOCKS)
    again, added = replay(case, calls, every)
    assert torch.equal(again, own)
    assert [len(deltas) for deltas in added] == [BLOCKS] * len(calls)
    # What blocks added themselves is as good as running them, whichever they are.
    for fresh in (range(0), range(1), range(BLOCKS - 1, BLOCKS)):
        torch.testing.assert_close(replay(case, calls, fresh, added)[0], own, rtol=1e-4, atol=1e-4)
    kept = replay(case, runs[0].calls[2], every)[1]
    errors = [float((replay(case, calls, range(j), kept)[0] - own).norm()) for j in (0, BLOCKS)]
    assert errors[0] > 1e-3
    assert errors[1] == 0
    assert not any("forward" in vars(part) for part in case.model.blocks.modules())


def test_branches_of_both_ways_to_ask():
    positive, negative = torch.ones(1, 4), torch.zeros(1, 4)
    expected = torch.stack([positive[0], negative[0]])
    assert torch.equal(branches([positive, negative]), expected)
    assert torch.equal(branches([torch.cat([negative, positive])]), expected)


def test_rows(case, runs):
    rows = guidance_axis(case, runs)
    assert [row["pattern"] for row in rows] == list(PATTERNS)
    by_pattern = {row["pattern"]: row for row in rows}
    assert by_pattern["C."]["early"] == by_pattern["C."]["late"] == 0
    # Two periods lie before the first step looked at: five of ten steps leave room for two only.
    assert by_pattern["C.C.."]["late"] is None
    assert by_pattern["C.."]["early"] is None
    assert by_pattern["CC."]["late"] < 0 < by_pattern["C.."]["late"]
    ticks = []
    rows = depth_axis(case, runs, lambda: ticks.append(1))
    assert [row["fresh"] for row in rows] == ["first 0", "first 1", "first 2", "last 1", "last 2"]
    assert [row["cost"] for row in rows] == pytest.approx([0, 1 / 3, 2 / 3, 1 / 3, 2 / 3])
    assert len(ticks) == len(runs) * 8
    assert all(value > 0 for row in rows for key, value in row.items() if "_" in key)


def test_command(case, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(axes, "load_tiny", lambda family: case.model)
    monkeypatch.setitem(axes.REGIMES, "rough", SHORT)
    file = tmp_path / "rows.json"
    family = case.model.family
    rows = axes.main(
        ["--family", family, "--regime", "rough", "--samples", "1", "--json", str(file)]
    )
    assert json.loads(file.read_text()) == rows
    assert {row["axis"] for row in rows} == {"guidance", "depth"}
    assert all((row["family"], row["regime"]) == (family, "rough") for row in rows)
    printed = capsys.readouterr().out
    assert "Ch..h" in printed
    assert "first 2" in printed
