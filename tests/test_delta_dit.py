"""Delta-DiT: which run is kept when, and what a reused step adds."""

import pytest
from blocks import letters, sampled
from toys import run_info, schedule

from sencache_core import Guards
from sencache_core.policies import DeltaDiT

FREE = Guards(1, 0, 10_000)


def doubling(number, sigma):
    """Sums tell which blocks are in them."""
    return 2.0**number * sigma


def deltas(numbers, sigma):
    return sum(doubling(number, sigma) for number in numbers)


@pytest.mark.parametrize(("spared", "length"), [(0.75, 6), (0.5, 4), (0.25, 2)])
@pytest.mark.parametrize("boundary", [0.0, 0.5, 1.0])
def test_rear_blocks_are_kept_early_and_front_blocks_late(spared, length, boundary):
    """Whether the two runs overlap, meet, or leave blocks between them."""
    policy, last = DeltaDiT(2.0, spared, boundary), 0.0
    report, outputs, network = sampled(policy, FREE, 8, 20, doubling)
    assert letters(report) == "Ch" * 10
    ran = dict.fromkeys(range(8), 10)
    for step, output in zip(report.steps, outputs, strict=True):
        if step.decision != "partial":
            last = step.sigma
        early = step.ordinal < 20 * boundary
        kept = range(8 - length, 8) if early else range(length)
        now = [k for k in range(8) if k not in kept]
        assert output == pytest.approx(deltas(kept, last) + deltas(now, step.sigma), rel=1e-5)
        if step.decision == "partial":
            assert step.part == ("front blocks" if early else "rear blocks")
            assert step.cost == pytest.approx(1 - length / 8)
            ran.update({k: ran[k] + 1 for k in now})
    assert [block.ran for block in network.blocks] == list(ran.values())


def test_a_cycle_ends_as_it_began():
    """Full steps 0, 4, 8, 12, 16 of 20: steps 10 and 11 lie behind the boundary."""
    report, outputs, _ = sampled(DeltaDiT(4.0, 0.75, 0.5), FREE, 4, 20, doubling)
    assert [step.part for step in report.steps[8:14]] == [
        *("", *["front blocks"] * 3, "", "rear blocks")
    ]
    full, now = report.steps[8].sigma, report.steps[11].sigma
    assert outputs[11] == pytest.approx(deltas([0], now) + deltas([1, 2, 3], full), rel=1e-5)


@pytest.mark.parity("delta_dit", "the published costs")
def test_the_study_costs_what_was_published():
    """21 of 28 blocks, every second of 20 steps: 1.6 times as fast."""
    policy = DeltaDiT(2.0, 0.75)
    report, *_ = sampled(policy, FREE, 28, 20, lambda number, sigma: sigma)
    assert 1 / report.cost == pytest.approx(1.6)
    assert policy.length(28) == 21
    run = run_info(schedule(20), 28)
    assert policy.for_budget(12.5, run, FREE).interval == pytest.approx(2.0, abs=0.3)


def test_only_what_may_be_reused_is_kept():
    pieces = {b: [(p[0], len(p)) for p in DeltaDiT(2.0, 0.75, b).kept(8)] for b in (0.0, 0.5, 1.0)}
    assert pieces == {
        0.0: [(0, 2), (2, 4)],
        0.5: [(0, 2), (2, 4), (6, 2)],
        1.0: [(2, 4), (6, 2)],
    }
    assert [(p[0], len(p)) for p in DeltaDiT(2.0, 0.25).kept(8)] == [(0, 2), (6, 2)]
    assert DeltaDiT(2.0).kept(1) == []


@pytest.mark.parametrize(
    "wrong", [{"interval": 0.5}, {"spared": 0.0}, {"spared": 1.0}, {"boundary": 1.1}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w{3}"):
        DeltaDiT(**wrong)
