"""GOC: FORA's schedule, corrections along the change, and where they are left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from layered import SITE, Network, curves_of, latent, measured, profile_of, ran, sampled
from toys import half_up, schedule

from sencache_core import CacheConfig, Guards
from sencache_core.forecast.reuse import Gradient
from sencache_core.policies.goc import Goc
from sencache_core.policies.layered import Work
from sencache_core.types import CROSS, MLP, SELF, Anchor

OPEN = Guards(warmup=1, cooldown=0, longest_run=99)
#: Of the repository, for 20 steps with reuse at every odd one.
CORRECTED = [3, 5, 7, 9, 11, 13, 15, 19]


def origins_run(eta, corrected, steps=20):
    """Outputs of a loop over the same latents: hold, or go on by ``eta`` of the change a step."""
    network, kept, outputs = Network(), {}, []
    for step, sigma in enumerate(schedule(steps, 1.0).sigmas[:-1]):
        x = latent(sigma)
        network.at(sigma)
        with torch.no_grad():
            for block in network.blocks:
                for part in (block.attn, block.cross, block.mlp):
                    past = kept.setdefault(part, [])
                    if step % 2 == 0:
                        past.append(part(x))
                        y = past[-1]
                    elif step in corrected:
                        y = past[-1] + eta * (past[-1] - past[-2]) / 2
                    else:
                        y = past[-1]
                    x = x + 0.05 * y
        outputs.append(x)
    return outputs


@pytest.mark.parity("goc", "the authors' steps")
@pytest.mark.parametrize(
    ("turns", "corrected"), [("published", CORRECTED), ("nowhere", [*range(3, 20, 2)])]
)
def test_steps_that_are_corrected_are_the_origins(turns, corrected):
    """Step 1 has no history; the 17th is left out as published."""
    config = CacheConfig(Goc(eta=1.2, turns=turns), guards=OPEN, budget=None)
    report, outputs, network = sampled(config)
    assert [step.decision == "partial" for step in report.steps] == [False, True] * 10
    assert {step.part for step in report.steps} == {"", "no layers"}
    assert ran(network, SELF) == ran(network, CROSS) == ran(network, MLP) == [10] * 3
    for made, truth in zip(outputs, origins_run(1.2, corrected), strict=True):
        torch.testing.assert_close(made, truth)


def test_the_origins_history_holds_its_own_forecasts():
    """The deviation by name, on outputs that grow by 1 a step, at eta 1: the repository's change is
    that from what stood in at the step before, and each error comes back with the other sign.
    """
    kept, theirs = [None, None], []
    for step in range(20):
        y = float(step)
        if step % 2:
            y = kept[0] if kept[1] is None else kept[0] + 1.0 * (kept[0] - kept[1])
            theirs.append(y - step)
        kept = [y, kept[0]]
    assert theirs == [-1, 1] * 5
    rule, ours = Gradient(eta=1.0), []
    for step in range(1, 20, 2):
        known = [Anchor(1 - s / 20, torch.full((1, 2), float(s))) for s in range(0, step, 2)]
        ours.append(float(rule.predict(1 - step / 20, known[-2:]).mean()) - step)
    assert ours == pytest.approx([-1] + [0] * 9, abs=1e-5)


def test_without_a_gradient_it_is_fora():
    config = CacheConfig(Goc(eta=0.0, turns="nowhere"), guards=OPEN, budget=None)
    for made, truth in zip(sampled(config)[1], origins_run(0.0, []), strict=True):
        torch.testing.assert_close(made, truth)


def test_where_the_change_turns_outputs_are_repeated():
    """Outputs that rise and then fall: going on overshoots from the turn on, and not before."""
    y = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0))
    outputs = [level * y for level in (1.0, 1.5, 2.0, 1.6, 1.2)]
    rule = Gradient(eta=1.0, curves=curves_of(outputs)).at(SITE)
    times = [1.0, 0.75, 0.5, 0.25, 0.0]
    anchors = [Anchor(t, value) for t, value in zip(times, outputs, strict=True)]
    for newest in range(1, 4):
        before, last, truth = outputs[newest - 1], outputs[newest], outputs[newest + 1]
        further = last + (last - before)
        nearer = (further - truth).square().sum() < (last - truth).square().sum()
        assert rule.helps(times[newest - 1], times[newest], times[newest + 1]) == nearer
        made = rule.predict(times[newest + 1], anchors[newest - 1 : newest + 1])
        torch.testing.assert_close(made, further if nearer else last)
    assert [rule.helps(*times[k : k + 3]) for k in range(3)] == [True, False, True]
    assert not rule.helps(1.0, 0.75, 0.1)  # further apart than was measured
    assert torch.equal(rule.predict(0.5, anchors[1:2]), outputs[1])


def test_measured_turns_are_better_than_going_on_or_repeating_everywhere():
    plain, profile, errors = sampled(CacheConfig(budget=1.0))[1], profile_of(measured(20)), []
    for policy in (Goc(), Goc(turns="nowhere"), Goc(eta=0.0)):
        config = CacheConfig(policy, guards=OPEN, budget=None, profile=profile)
        pairs = zip(sampled(config)[1], plain, strict=True)
        errors.append(sum(float((a - b).square().sum()) for a, b in pairs))
    assert 0 < errors[0] < min(errors[1:])


@pytest.mark.parametrize("interval", [1.0, 2.0, 2.5, 3.0])
def test_rounds_that_compute_layers_lie_evenly(interval):
    work = Work(2, {MLP: np.full(2, 0.5)})
    table = Goc(interval).schedule(None, work, [True] + [False] * 39)[MLP]
    assert (table[0] == table[1]).all()
    when = [k for k in range(40) if not table[0, k]]
    gaps = np.diff(when)
    assert gaps.max() - gaps.min() <= 1 and gaps.mean() == pytest.approx(interval, abs=0.1)


@pytest.mark.parametrize("budget", [0.3, 0.5, 0.75])
def test_budgets_are_met_from_below(budget):
    """What runs beside the layers counts: a reduced round costs an eighth of the toy's work."""
    config = CacheConfig(Goc(), guards=OPEN, budget=budget, profile=profile_of(measured(50)))
    report, *_ = sampled(config, 50)
    asked = half_up(budget * 50)
    assert asked - 1 < report.cost * 50 <= asked + 1e-6
    assert min(step.cost for step in report.steps) == pytest.approx(8 / 80)


def test_what_was_not_measured_is_said():
    session = CacheConfig(Goc()).start(None, schedule(20))
    assert any("tap layers" in message for message in session.report.texts)
    session = CacheConfig(Goc(turns="published")).start(None, schedule(20))
    assert session.course.policy.name != "off"


@pytest.mark.parametrize(
    "wrong",
    [lambda: Goc(0.5), lambda: Goc(eta=-1), lambda: Goc(turns="x")],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w{3}"):
        wrong()
