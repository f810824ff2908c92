"""SmoothCache: the scan of its authors, its curves, its budget, and what a run computes."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from layered import (
    PAIRS,
    PLACES,
    REST,
    WEIGHTS,
    Network,
    latent,
    measured,
    profile_of,
    ran,
    sampled,
)
from toys import WAN, half_up, schedule

from sencache_core import CacheConfig, Guards, Profile
from sencache_core.forecast.layers import LayerCurve, LayerCurves
from sencache_core.measure.layers import average
from sencache_core.model.taps import tapped
from sencache_core.policies.goc import Goc
from sencache_core.policies.smoothcache import SmoothCache, scanned
from sencache_core.run.runner import Call
from sencache_core.types import CROSS, MLP, OUTPUT, SELF, Branch, Reason

OPEN = Guards(warmup=1, cooldown=1, longest_run=99)


def letters(reused) -> str:
    return "".join(".C"[not skip] for skip in reused)


@pytest.mark.parametrize(
    ("rows", "threshold", "expected"),
    [
        # Two ahead at 0, one ahead at 3, none at 5; the last one is computed in any case.
        (([0.1, 9, 9, 0.1, 9, 9, 9], [0.2, 9, 9, 9, 9, 9]), 0.2, "C..C.CCC"),
        # The furthest within the limit counts, whatever lies between.
        (([9] * 7, [9] * 6, [0.1, 9, 9, 9, 9]), 0.1, "C...CCCC"),
        # Nothing is compared with what lies beyond the end, and the last one is computed.
        (([0.0] * 7, [0.0] * 6, [0.0] * 5), 0.1, "C...C..C"),
        (([0.3] * 7,), 0.2, "CCCCCCCC"),
        ((), 0.2, "CCCCCCCC"),
    ],
)
def test_the_scan_by_hand(rows, threshold, expected):
    assert letters(scanned(rows, threshold, 8)) == expected


@pytest.mark.parity("smoothcache", "the authors' scan, written down")
def test_the_scan_is_the_authors():
    """Their calibration helper, on tables made up at random."""
    helper = pytest.importorskip(
        "SmoothCache.calibration.calibration_helper",
        reason="the authors' repository is not on the path; its package on PyPI has no calibration",
    )
    random.seed(0)
    for trial in range(200):
        rounds, lags = random.choice((2, 7, 20, 50)), random.randint(1, 3)
        rows = [[random.random() for _ in range(rounds - lag - 1)] for lag in range(lags)]
        theirs = helper.CalibrationHelper(torch.nn.Module(), [], [], lags, schedule_length=rounds)
        threshold = random.random()
        expected = theirs._scan_nrows_sublists(rows, threshold)
        assert [not r for r in scanned(rows, threshold, rounds)] == [*map(bool, expected)], trial


def test_curves_are_what_the_layers_do():
    """Relative L1, mean products, mean squares and means of the outputs at every two times."""
    curves, network = measured(12), Network()
    sigmas = schedule(12, 1.0).sigmas[:-1]
    outputs = {SELF: [], CROSS: [], MLP: []}
    for block in network.blocks[:1]:  # the first block's input is the latent
        for sigma in sigmas[::-1]:
            network.at(sigma)
            with torch.no_grad():
                x = latent(sigma)
                found = {SELF: block.attn(x)}
                found[CROSS] = block.cross(x := x + 0.05 * found[SELF])
                found[MLP] = block.mlp(x + 0.05 * found[CROSS])
            for kind, y in found.items():
                outputs[kind].append(y)
    assert curves.t == pytest.approx(sigmas[::-1])
    assert curves.kinds.keys() == outputs.keys()
    for kind, seen in outputs.items():
        curve = curves.kinds[kind]
        assert curve.depth == 3 and curve.change.shape == (3, 11, 12)
        for n in range(12):
            for lag in range(1, 12 - n):
                now, before = seen[n], seen[n + lag]
                change = (before - now).abs().sum() / now.abs().sum()
                assert curve.change[0, lag - 1, n] == pytest.approx(float(change), rel=1e-4)
                product = float((before * now).mean())
                assert curve.inner[0, lag - 1, n] == pytest.approx(product, rel=1e-4)
            assert curve.square[0, n] == pytest.approx(float(seen[n].square().mean()), rel=1e-4)
            assert curve.mean[0, n] == pytest.approx(float(seen[n].mean()), rel=1e-3, abs=1e-6)


def line(depth: int = 2, times: int = 5) -> LayerCurves:
    """Changes of a tenth per step and step of distance, in every block times its number."""
    change = np.zeros((depth, 3, times))
    for lag in range(1, 4):
        change[:, lag - 1, : times - lag] = 0.1 * lag * np.arange(1, depth + 1)[:, None]
    flat = np.ones((depth, times))
    return LayerCurves(np.linspace(0, 1, times), {MLP: LayerCurve(change, change, flat, flat)})


def test_between_measured_times_curves_are_lines():
    curves = line()
    assert curves.change(MLP, 0.75, 0.5) == pytest.approx([0.1, 0.2])
    assert curves.change(MLP, 0.7, 0.575) == pytest.approx([0.05, 0.1])
    assert curves.change(MLP, 0.9, 0.4) == pytest.approx([0.2, 0.4])
    assert curves.change(MLP, 0.5, 0.5) == pytest.approx([0, 0])
    assert np.isinf(curves.change(MLP, 1.0, 0.1)).all()  # further apart than was measured
    assert np.isinf(curves.change(MLP, 0.5, 0.6)).all()
    assert curves.change(MLP, 1.2, 1.0) == pytest.approx([0.08, 0.16])  # beyond: as at the end


def test_other_depths_take_the_block_where_they_lie():
    assert line(2).at_depth(4).change(MLP, 0.75, 0.5) == pytest.approx([0.1, 0.1, 0.2, 0.2])
    assert line(4).at_depth(2).change(MLP, 0.75, 0.5) == pytest.approx([0.2, 0.4])


def test_samples_are_averaged_where_they_are_alike():
    one, other = measured(12), measured(12)
    doubled = {k: LayerCurve(*(2 * v for v in vars(c).values())) for k, c in other.kinds.items()}
    mean = average([one, LayerCurves(other.t, doubled)])
    assert mean.kinds[SELF].change == pytest.approx(1.5 * one.kinds[SELF].change)
    assert average([one, None]) is None
    assert average([one, measured(14)]) is None


def test_curves_survive_the_file(tmp_path):
    curves = measured(12)
    profile_of(curves).save(tmp_path / "p.safetensors")
    again = Profile.load(tmp_path / "p.safetensors").layers
    assert again.t == pytest.approx(curves.t)
    for kind, curve in curves.kinds.items():
        for name, values in vars(curve).items():
            assert getattr(again.kinds[kind], name) == pytest.approx(values, rel=1e-6)
    profile_of(None).save(tmp_path / "old.safetensors")
    assert Profile.load(tmp_path / "old.safetensors").layers is None


@pytest.mark.parametrize("threshold", [0.1, 0.3])
def test_layers_of_a_kind_run_when_their_curve_says(threshold):
    curves, steps = measured(20), 20
    policy = SmoothCache(threshold)
    config = CacheConfig(policy, guards=OPEN, budget=None, profile=profile_of(curves))
    report, _, network = sampled(config, steps)
    said = []
    for kind, curve in curves.kinds.items():
        rows = [curve.change[:, k, : steps - k - 1].mean(axis=0)[::-1] for k in range(3)]
        expected = scanned(rows, threshold, steps)
        assert ran(network, kind) == [steps - sum(expected)] * 3
        said.append(expected)
    assert 0 < sum(said[2]) < sum(said[1])  # feed-forward changes most, cross-attention least
    spared = {
        kind: (WEIGHTS[kind] + (PAIRS if kind == SELF else 0))
        / (sum(WEIGHTS.values()) + REST + PAIRS)
        for kind in WEIGHTS
    }
    total = sum(spared[kind] * sum(when) for kind, when in zip(curves.kinds, said, strict=True))
    assert report.cost * steps == pytest.approx(steps - total)
    assert report.reused == 0 and report.partial == sum(map(any, zip(*said, strict=True)))
    names = {step.part for step in report.steps}
    assert "" in names and "all but cross-attention and feed-forward" in names


def test_outputs_are_held_from_the_last_time_they_were_computed():
    """Of the origin: a reused layer answers with its last output, at either end of its block."""
    curves, steps = measured(20), 20
    config = CacheConfig(SmoothCache(0.3), guards=OPEN, budget=None, profile=profile_of(curves))
    _, outputs, _ = sampled(config, steps)
    rows = {
        kind: [c.change[:, k, : steps - k - 1].mean(axis=0)[::-1] for k in range(3)]
        for kind, c in curves.kinds.items()
    }
    when = {kind: scanned(found, 0.3, steps) for kind, found in rows.items()}
    network, kept = Network(), {}
    for number, sigma in enumerate(schedule(steps, 1.0).sigmas[:-1]):
        x = latent(sigma)
        network.at(sigma)
        with torch.no_grad():
            for block in network.blocks:
                for kind, part in zip((SELF, CROSS, MLP), (block.attn, block.cross, block.mlp)):
                    if not when[kind][number]:
                        kept[part] = part(x)
                    x = x + 0.05 * kept[part]
        torch.testing.assert_close(outputs[number], x)


@pytest.mark.parametrize("budget", [0.35, 0.5, 0.65, 0.8, 0.95])
def test_budgets_are_met_from_below(budget):
    config = CacheConfig(
        SmoothCache(), guards=OPEN, budget=budget, profile=profile_of(measured(50))
    )
    report, *_ = sampled(config, 50)
    assert half_up(budget * 50) - 2 < report.cost * 50 <= half_up(budget * 50) + 1e-6


def test_what_may_be_reused_can_be_narrowed():
    config = CacheConfig(
        SmoothCache(5.0, where="self-attention"),
        guards=OPEN,
        budget=None,
        profile=profile_of(measured(20)),
    )
    report, _, network = sampled(config)
    assert ran(network, CROSS) == ran(network, MLP) == [20] * 3
    assert max(ran(network, SELF)) < 20
    assert {step.part for step in report.steps} == {"", "all but self-attention"}
    # One output of every self-attention is kept, and the latent.
    assert report.history_bytes == 3 * 12 * 4 + 12 * 4


def test_a_model_of_no_known_family_is_computed_in_full_and_that_is_said():
    session = CacheConfig(SmoothCache()).start(None, schedule(20))
    assert session.course.policy.name == "off"
    assert any("profile that was measured with the tap layers" in m for m in session.report.texts)


def test_both_branches_follow_one_schedule():
    config = CacheConfig(
        SmoothCache(0.3), guards=OPEN, budget=None, profile=profile_of(measured(20))
    )
    alone, *_ = sampled(config)
    both, *_ = sampled(config, guided=True)
    assert [s.cost for s in both.steps] == pytest.approx([s.cost for s in alone.steps])


@torch.no_grad()
def test_a_branch_that_comes_in_mid_run_is_no_model_without_places():
    """A prompt schedule: of the second prompt's layers nothing is known when it comes."""
    config = CacheConfig(Goc(2.0), guards=OPEN, budget=None, profile=profile_of(measured(20)))
    sched, network = schedule(20, 1.0), Network()
    session = config.start(WAN, sched)
    for number, sigma in enumerate(sched.sigmas[:-1]):
        session.begin((latent(sigma),), sigma)
        network.at(sigma)
        call = Call(session, (Branch("cond", number >= 9),))
        with call, tapped(config.tapping, network, PLACES, call):
            call.ran(OUTPUT, network(latent(sigma)))
    report = session.finish(True)
    assert [step.decision for step in report.steps[8:11]] == ["computed", "forced", "computed"]
    assert report.steps[9].reason == Reason.NO_HISTORY.value
    assert not any("no places" in said for said in report.texts)


@pytest.mark.parametrize("budget", [0.75, None])
def test_a_second_model_of_another_depth_has_a_schedule_of_its_own(budget):
    """As guidance by a smaller model asks it."""
    config = CacheConfig(
        SmoothCache(0.3), guards=OPEN, budget=budget, profile=profile_of(measured(20))
    )
    alone, *_ = sampled(config)
    small = Network(2)
    both, _, network = sampled(config, guided=True, other=small)
    for kind in (SELF, CROSS, MLP):
        assert len(set(ran(network, kind))) == len(set(ran(small, kind))) == 1
    assert ran(network, SELF)[0] > ran(network, CROSS)[0] > 1
    assert ran(small, SELF)[0] > ran(small, CROSS)[0] > 1
    assert both.cost == pytest.approx(alone.cost, abs=0.06)
    assert budget is None or both.cost <= budget + 1e-6


@pytest.mark.parametrize("wrong", [{"threshold": -0.1}, {"where": "heads"}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w{3}"):
        SmoothCache(**wrong)
