"""After EOC: FORA's schedule, outputs scaled where that was measured to help."""

import pytest
import torch
from layered import SITE, curves_of, measured, profile_of, sampled
from toys import half_up, schedule

from sencache_core import CacheConfig, Guards
from sencache_core.forecast.reuse import ScaleShift
from sencache_core.policies.eoc import Eoc
from sencache_core.policies.goc import Goc
from sencache_core.types import Anchor

OPEN = Guards(warmup=1, cooldown=0, longest_run=99)


def test_after_eoc_outputs_are_scaled_where_that_lowers_the_error():
    y = torch.randn(1, 40, 8, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(1, 40, 8, generator=torch.Generator().manual_seed(1))
    shrinking, wandering = curves_of([y, 0.8 * y]), curves_of([y, 0.999 * y + 0.5 * noise])
    rule = ScaleShift(curves=shrinking, shift=False, margin=0.02).at(SITE)
    torch.testing.assert_close(rule.predict(0.75, [Anchor(1.0, y)]), 0.8 * y)
    rule = ScaleShift(curves=wandering, shift=False, margin=0.02).at(SITE)
    assert torch.equal(rule.predict(0.75, [Anchor(1.0, y)]), y)
    never = ScaleShift(curves=shrinking, shift=False, margin=1.0).at(SITE)
    assert never.fit(1.0, 0.75) == (1.0, 0.0)


def test_scaling_is_nearer_to_the_truth_than_fora():
    plain, profile = sampled(CacheConfig(budget=1.0))[1], profile_of(measured(20))
    errors = []
    for policy in (Goc(eta=0.0), Eoc()):
        config = CacheConfig(policy, guards=OPEN, budget=None, profile=profile)
        pairs = zip(sampled(config)[1], plain, strict=True)
        errors.append(sum(float((a - b).square().sum()) for a, b in pairs))
    assert 0 < errors[1] < errors[0] / 4


@pytest.mark.parametrize("budget", [0.3, 0.6])
def test_budgets_are_met_from_below(budget):
    config = CacheConfig(Eoc(), guards=OPEN, budget=budget, profile=profile_of(measured(50)))
    report, *_ = sampled(config, 50)
    asked = half_up(budget * 50)
    assert asked - 1 < report.cost * 50 <= asked + 1e-6


def test_what_was_not_measured_is_said():
    session = CacheConfig(Eoc()).start(None, schedule(20))
    assert any("tap layers" in message for message in session.report.texts)


@pytest.mark.parametrize("wrong", [{"interval": 0.5}, {"margin": 2.0}, {"where": "heads"}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w{3}"):
        Eoc(**wrong)
