"""BAG: its six figures, its network, its exact count, and what the bundled gate has learnt."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import cached_run, noise, run_info, schedule

from sencache_core import CacheConfig, Guards
from sencache_core.policies import bag
from sencache_core.policies.bag import Bag, BagState, Gate, bundled_gate
from sencache_core.types import Reason, Step

#: Says what its fourth figure says: rounds since the last evaluation, above or below 2.5.
COUNTS = Gate(np.zeros(6), np.ones(6), np.array([[0, 0, 0, 1.0, 0, 0]]), np.array([-2.5]),
              np.array([9.0]), 0.0)  # fmt: skip


def step(ordinal, *x, total=20):
    t = 1 - ordinal / total
    return Step(tuple(torch.tensor([part]) for part in x), 0.1, t, t, ordinal, total, ordinal)


def test_the_six_figures():
    """8 of 20 to spend, 3 spent; 3 rounds after the last, 5 latents long, moved by 1 and by 2."""
    state = BagState(run_info(), 8, x=step(6, [4.0, 5.0]).x, spent=3, last=4)
    last = step(4, [3.0, 4.0])
    found = state.figures(step(7, [4.0, 4.0]), last)
    expected = [8 / 20, 5 / 8, 5 / 13, 3.0, 1 / 5, 1 / math.sqrt(41)]
    assert found == pytest.approx(expected)


def test_modalities_count_as_one_latent():
    state = BagState(run_info(), 8, spent=1)
    last = step(4, [3.0], [4.0])
    assert state.figures(step(5, [3.0], [6.0]), last)[4:] == pytest.approx([2 / 5, 2 / 5])


@pytest.mark.parity("bag", "the paper's gate, by hand")
def test_the_network_by_hand():
    gate = Gate(
        np.arange(6.0), np.full(6, 2.0), np.stack([np.ones(6), np.eye(6)[0]]), np.array([0.1, 0.0]),
        np.array([1.0, -2.0]), 0.3,
    )  # fmt: skip
    figures = [1.0, 1.0, 3.0, 3.0, 4.0, 5.0]  # scaled: 1/2, 0, 1/2, 0, 0, 0
    value = math.tanh(1.1) - 2 * math.tanh(0.5) + 0.3
    assert gate(figures) == pytest.approx(1 / (1 + math.exp(-value)))
    assert gate.weights == 12 + 2 + 2 + 1


@pytest.mark.parametrize("budget", [0.3, 0.5, 0.75])
def test_it_computes_where_the_gate_says_so_and_spends_what_is_left(budget, monkeypatch):
    monkeypatch.setattr(bag, "bundled_gate", lambda: COUNTS)
    sched = schedule(20)
    config = CacheConfig(Bag(), budget=budget, guards=Guards(1, 0, 99))
    report = cached_run(config, sched)[1]
    mask = "".join("." if s.decision == "reused" else "C" for s in report.steps)
    asked = round(20 * budget)
    assert report.evaluations == asked
    left, expected, since = asked - 1, "C", 0
    for number in range(1, 20):
        since += 1
        compute = left > 0 and (since > 2.5 or left >= 20 - number)
        expected += "C" if compute else "."
        left, since = left - compute, 0 if compute else since
    assert mask == expected
    reasons = {s.reason for s in report.steps}
    assert (Reason.BUDGET_LEFT.value in reasons) == (budget > 0.35)
    assert (Reason.BUDGET_SPENT.value in reasons) == (budget < 0.35)


def test_a_share_of_its_own_rules_without_a_budget():
    for share, count in ((0.4, 8), (0.75, 15)):
        config = CacheConfig(Bag(share), budget=None, guards=Guards(1, 0, 99))
        assert cached_run(config, schedule(20))[1].evaluations == count


def test_the_bundled_gate_is_small_and_not_indifferent():
    gate = bundled_gate()
    assert gate.weights < 1000
    # The longer the way since the last evaluation, the likelier the next one.
    chances = [gate([0.4, 0.6, 0.4, float(k), 0.03 * k, 0.03]) for k in range(1, 7)]
    assert chances == sorted(chances)
    assert chances[0] < 0.5 < chances[-1]


def test_a_toy_that_the_gate_has_never_seen_is_spread_over_as_a_plan_would():
    """No long run of reuse, nothing left over for the end, and most rounds by its own choice."""
    config = CacheConfig(Bag(), guards=Guards(1, 0, 10_000), budget=0.4)
    report = cached_run(config, schedule(30), x=noise(1, 2, 3, 4))[1]
    done = [step.ordinal for step in report.steps if step.decision != "reused"]
    assert len(done) == 12
    assert max(np.diff([*done, 30])) <= 5
    free = {Reason.OVER.value, Reason.FIRST.value}
    assert sum(report.steps[k].reason in free for k in done) >= 9


def test_what_guards_force_is_kept_for_them():
    guards = replace(Guards(3, 4, 99), start=0.0)
    report = cached_run(CacheConfig(Bag(), guards=guards, budget=0.4), schedule(20))[1]
    assert report.evaluations == 8
    assert all(s.decision == "forced" for s in report.steps[-4:])


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"share": 1.1}, {"place": "blocks"}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w{3}"):
        Bag(**wrong)
