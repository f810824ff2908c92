"""Block Caching: its gate by hand, its scale and shift, its budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from layered import PAIRS, REST, SITE, WEIGHTS, curves_of, measured, profile_of, ran, sampled
from toys import half_up

from sencache_core import CacheConfig, Guards
from sencache_core.forecast.reuse import ScaleShift
from sencache_core.policies.block_caching import BlockCaching
from sencache_core.policies.layered import Work
from sencache_core.types import MLP, SELF, Anchor, Site

OPEN = Guards(warmup=1, cooldown=0, longest_run=99)


@pytest.mark.parity("block_caching", "the paper's rule, by hand")
def test_the_gate_by_hand():
    """A layer runs where its sum would exceed delta, and begins anew; one that leaps always runs.

    Changes of block 0: .2 .2 .2 .2 .2 .2 .2, delta .5: reused twice, run, reused twice, run...
    """
    changes = {MLP: np.array([[0.2] * 7, [0.5, 0.6, 0.1, 0.1, 0.1, 0.3, 0.0], [0.6] * 7])}
    work = Work(3, {MLP: np.full(3, 0.1)})
    reused = BlockCaching(0.5).schedule(changes, work, [True] + [False] * 7)[MLP]
    letters = ["".join(".C"[not r] for r in row) for row in reused]
    assert letters == ["C..C..C.", "C.C...C.", "CCCCCCCC"]
    forced = [True, False, False, False, True, False, False, False]
    reused = BlockCaching(0.5).schedule(changes, work, forced)[MLP]
    assert "".join(".C"[not r] for r in reused[0]) == "C..CC..C"
    assert not BlockCaching(0.0).schedule({MLP: np.zeros((3, 7))}, work, forced)[MLP].any()


def test_layers_run_when_their_own_changes_say():
    curves, steps = measured(20), 20
    config = CacheConfig(BlockCaching(0.3), guards=OPEN, budget=None, profile=profile_of(curves))
    report, _, network = sampled(config, steps)
    spared = 0.0
    for kind, curve in curves.kinds.items():
        share = WEIGHTS[kind] + (PAIRS if kind == SELF else 0)
        for block in range(3):
            total, times = 0.0, 1
            for change in curve.change[block, 0, : steps - 1][::-1]:
                total += change
                if total > 0.3:
                    times, total = times + 1, 0.0
            assert ran(network, kind)[block] == times
            spared += (steps - times) * share / (sum(WEIGHTS.values()) + REST + PAIRS) / 3
    assert report.cost * steps == pytest.approx(steps - spared)
    assert len({step.cost for step in report.steps}) > 5


@pytest.mark.parametrize("budget", [0.2, 0.5, 0.8])
def test_a_budget_is_met_closely(budget):
    config = CacheConfig(
        BlockCaching(), guards=OPEN, budget=budget, profile=profile_of(measured(50))
    )
    report, *_ = sampled(config, 50)
    asked = half_up(budget * 50)
    assert asked - 1 < report.cost * 50 <= asked + 1e-6


def test_an_affine_change_is_undone():
    y = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0)) + 0.4
    rule = ScaleShift(curves=curves_of([y, 0.7 * y + 0.2, 0.5 * y - 0.1])).at(SITE)
    for t, truth in ((0.75, 0.7 * y + 0.2), (0.5, 0.5 * y - 0.1)):
        made = rule.predict(t, [Anchor(1.0, y)])
        torch.testing.assert_close(made, truth, rtol=1e-4, atol=1e-5)
    # The shift is relative to the output's size, so that it carries over to another clip's.
    made = rule.predict(0.75, [Anchor(1.0, 3 * y)])
    torch.testing.assert_close(made, 3 * (0.7 * y + 0.2), rtol=1e-4, atol=1e-4)


def test_the_fit_is_least_squares():
    generator = torch.Generator().manual_seed(1)
    before = torch.randn(1, 40, 8, generator=generator)
    after = 0.8 * before + 0.3 * torch.randn(1, 40, 8, generator=generator) + 0.1
    rule = ScaleShift(curves=curves_of([before, after])).at(SITE)
    scale, shift = rule.fit(1.0, 0.75)
    design = np.stack([before.flatten().numpy(), np.ones(320)], axis=1)
    best = np.linalg.lstsq(design, after.flatten().numpy(), rcond=None)[0]
    size = float(before.square().mean().sqrt())
    assert (scale, shift * size) == pytest.approx(tuple(best), rel=1e-4)
    plain = ScaleShift(curves=curves_of([before, after]), shift=False).at(SITE)
    best = float((before * after).sum() / before.square().sum())
    assert plain.fit(1.0, 0.75) == (pytest.approx(best, rel=1e-5), 0.0)


def test_what_was_not_measured_is_repeated():
    y = torch.randn(1, 6, 8, dtype=torch.bfloat16)
    curves = curves_of([y.float(), 0.5 * y.float()])
    for rule in (
        ScaleShift(curves=curves),
        ScaleShift(curves=curves).at(Site("layers", 0, 1, SELF)),
        ScaleShift().at(SITE),
    ):
        made = rule.predict(0.75, [Anchor(1.0, y)])
        assert torch.equal(made, y) and made.data_ptr() != y.data_ptr()
    far = ScaleShift(curves=curves).at(SITE)
    assert far.fit(1.0, 0.1) == (1.0, 0.0)  # further apart than was measured
    assert far.predict(0.75, [Anchor(1.0, y)]).dtype == torch.bfloat16


def test_scaled_outputs_are_nearer_than_repeated_ones():
    """On the very run that was measured: what is left is how layers act on each other."""
    curves, errors = measured(20), []
    plain = sampled(CacheConfig(budget=1.0))[1]
    for adjust in (False, True):
        policy = BlockCaching(0.5, adjust=adjust)
        config = CacheConfig(policy, guards=OPEN, budget=None, profile=profile_of(curves))
        outputs = sampled(config)[1]
        pairs = zip(outputs, plain, strict=True)
        errors.append(sum(float((a - b).square().sum()) for a, b in pairs))
    assert 0 < errors[1] < errors[0] / 4
