"""DiCache: what its probe accumulates, and how far its forecasts go on."""

from dataclasses import replace

import pytest
import torch
from blocks import Network, letters, sampled
from toys import COND, UNCOND, WAN, noise, run_info, schedule

from sencache_core import CacheConfig, Guards, Hold
from sencache_core.forecast.reuse import TwoPoint
from sencache_core.model.families import Places
from sencache_core.model.taps import tapped
from sencache_core.policies import DiCache
from sencache_core.policies.presets import PRESETS
from sencache_core.run.facts import Facts
from sencache_core.run.runner import Call
from sencache_core.types import ALL, Look, Reason, Step

FREE = Guards(1, 0, 10_000)


def wavy(number, sigma):
    """What blocks add bends with the noise level, each in its own way."""
    return 1 + sigma**2 if number == 0 else number / 10 + sigma ** (number + 1)


def straight(number, sigma):
    return 2 * sigma if number == 0 else number * (1 - sigma)


def origin(adds, count, steps, threshold, first, warmup, start, aligned=True):
    """The repository's rule on the toy, one branch, written out: decisions and outputs."""
    total, before, window, computed, outputs = 0.0, None, [], [], []
    for step in range(steps):
        sigma = 1 - step / steps
        probe = sum(adds(k, sigma) for k in range(first))
        left, residual = start + probe, sum(adds(k, sigma) for k in range(count))
        skip = False
        if step >= warmup:
            total += abs(left - before) / abs(before)
            skip = total < threshold
            total = total if skip else 0.0
        if skip and len(window) > 1 and aligned:
            (older, old_probe), (newer, new_probe) = window[-2:]
            gain = min(max(abs(probe - old_probe) / abs(new_probe - old_probe), 1), 2)
            outputs.append(start + older + gain * (newer - older))
        elif skip:
            outputs.append(start + window[-1][0])
        else:
            outputs.append(start + residual)
            window.append((residual, probe))
            computed.append(step)
        before = left
    return computed, outputs


@pytest.mark.parity("dicache", "the authors' loop, written down")
@pytest.mark.parametrize("adds", [wavy, straight])
@pytest.mark.parametrize(("threshold", "first"), [(0.08, 1), (0.2, 1), (0.08, 2)])
@pytest.mark.parametrize("aligned", [True, False])
def test_decisions_and_outputs_are_the_origins(adds, threshold, first, aligned):
    guards = replace(FREE, start=0.2)
    policy = DiCache(threshold, first, aligned)
    report, outputs, network = sampled(policy, guards, 5, 20, adds, start=1.5)
    computed, expected = origin(adds, 5, 20, threshold, first, 4, 1.5, aligned)
    assert letters(report) == "".join("C" if k in computed else "h" for k in range(20))
    assert 0 < report.partial
    assert outputs == pytest.approx(expected, rel=1e-5)
    assert [block.ran for block in network.blocks] == [20] * first + [len(computed)] * (5 - first)


def test_what_follows_the_probe_is_exact_until_as_far_again():
    """Residuals that are a line in the probe's: exact for one step, at most twice the way."""
    guards = Guards(4, 0, 10_000)
    report, outputs, _ = sampled(DiCache(1e9), guards, 4, 20, straight)
    truth = [2 * s + 6 * (1 - s) for s in (1 - k / 20 for k in range(20))]
    assert outputs[:5] == pytest.approx(truth[:5])
    assert outputs[5:] == pytest.approx([truth[4]] * 15)
    assert report.steps[4].part == "first block"
    held, *_ = sampled(DiCache(1e9, aligned=False), guards, 4, 20, straight)
    assert held.history_bytes < report.history_bytes


def looks(*pairs, branch=COND):
    """Rounds that show what enters the probe and what leaves it."""
    shown = [torch.stack([a, b], dim=1) for a, b in pairs]
    return [
        Step((noise(1, 4),), 0.1, 0.5, 0.9 - k / 10, k, 20, k, look=Look(branch, value))
        for k, value in enumerate(shown)
    ]


def test_gains_are_of_absolute_means():
    """Probe residuals 0, (1, 2), then (2, 2.5): (2 + 2.5) / (1 + 2) = 1.5."""
    zero, one = torch.zeros(1, 1, 2), torch.ones(1, 1, 2)
    rounds = looks(
        (one, one), (one, one + torch.tensor([1.0, 2.0])), (zero, torch.tensor([[[2.0, -2.5]]]))
    )
    policy = DiCache(1e9)
    state = policy.start(run_info())
    for step in rounds[:2]:
        state = policy.observe(step, state)
    decision, state = policy.decide(rounds[2], rounds[1], state)
    assert state.gain == pytest.approx(1.5)
    assert decision.rule == TwoPoint(early=0.5, late=0.5)
    assert decision.score == pytest.approx((0 + 5.5) / 5)


@pytest.mark.parametrize(("way", "gain"), [(0.1, 1.0), (9.0, 2.0), (0.0, None)])
def test_gains_lie_within_1_and_2(way, gain):
    one = torch.ones(1, 1, 2)
    rounds = looks((one, 2 * one), (one, (2 + (way > 0)) * one), (one, (2 + way) * one))
    policy = DiCache(1e9)
    state = policy.start(run_info())
    for step in rounds[:2]:
        state = policy.observe(step, state)
    decision, state = policy.decide(rounds[2], rounds[1], state)
    assert state.gain == gain
    assert isinstance(decision.rule, TwoPoint if gain == 2 else Hold)


@pytest.mark.parametrize("what", ["branch", "shape", "nothing"])
def test_what_cannot_be_compared_is_computed(what):
    policy, one = DiCache(1e9), torch.ones(1, 1, 2)
    last, now = looks((one, one), (one, one))
    if what == "branch":
        now = replace(now, look=now.look._replace(branch=UNCOND))
    if what == "shape":
        now = replace(now, look=now.look._replace(value=torch.ones(1, 2, 1, 3)))
    if what == "nothing":
        last = replace(last, look=None)
    decision, _ = policy.decide(now, last, policy.observe(last, policy.start(run_info())))
    assert (decision.compute, decision.score) == (ALL, None)


def test_one_gain_a_round_rules_all_branches():
    """The origin has a gain of each branch's own; here that of the branch that leads serves both.
    Each goes on along its own residuals."""
    policy, guards = DiCache(1e9), Guards(3, 0, 10_000)
    config, sched = CacheConfig(policy, guards=guards, budget=None), schedule(20, 1.0)
    session = config.start(WAN, sched, facts=Facts(blocks=3))
    speeds = torch.tensor([1.0, 3.0]).reshape(2, 1, 1)

    def adds(number, sigma):
        return (1 + sigma) * speeds**2 if number else sigma**speeds

    network, out = Network(3, adds), None
    for sigma in sched.sigmas[:4]:
        session.begin((torch.ones(1, 2, 3),), sigma)
        with (
            Call(session, (COND, UNCOND)) as call,
            tapped(config.tapping, network, Places("blocks", ("head",)), call),
        ):
            out = network(torch.ones(2, 2, 3), sigma).mean(dim=(1, 2))
    report = session.finish(True)
    assert report.steps[3].reason == Reason.WITHIN.value
    gain = 2.0  # of the branch that leads: 0.95 to 0.85 is twice 0.95 to 0.9
    residuals = [sum(adds(k, s) for k in range(3)).flatten() for s in sched.sigmas[1:3]]
    assert torch.allclose(out, 1 + residuals[0] + gain * (residuals[1] - residuals[0]))
    own = [float(sched.sigmas[k]) ** 3 for k in (1, 2, 3)]
    assert abs(own[2] - own[0]) / abs(own[1] - own[0]) < 1.96


def test_presets_are_the_published_points():
    found = {n: p for n, p in PRESETS.items() if n.startswith("DiCache")}
    assert [p.policy.threshold for p in found.values()] == [0.08, 0.155, 0.365, 0.075, 0.172, 0.396]
    assert {p.guards.start for p in found.values()} == {0.2}


@pytest.mark.parametrize("wrong", [{"threshold": -1}, {"first": 0}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w{3}"):
        DiCache(**wrong)
