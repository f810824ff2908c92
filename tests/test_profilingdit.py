"""ProfilingDiT: its lists of blocks, its distances, and what a run costs."""

import pytest
from blocks import sampled

from sencache_core import Guards
from sencache_core.policies.presets import PRESETS
from sencache_core.policies.profilingdit import ProfilingDiT, parse_blocks, runs_of


def test_the_published_list_forms_five_runs():
    blocks, count = parse_blocks("0, 2-7, 10-20, 25-32, 37, 38 of 40")
    assert (len(blocks), count) == (28, 40)
    runs = runs_of(blocks)
    assert [(run[0], run[-1]) for run in runs] == [(0, 0), (2, 7), (10, 20), (25, 32), (37, 38)]


def test_the_preset_costs_what_was_published():
    """14 full steps, 36 at 12 of 40 blocks: 24.8 of 50, twice as fast, as reported (2.01)."""
    preset = PRESETS["ProfilingDiT Wan 2.1 14B"]
    report, _, network = sampled(preset.policy, preset.guards, 40, 50)
    assert [step.ordinal for step in report.steps if step.decision != "partial"] == [
        *range(6),
        *range(6, 50, 6),
    ]
    assert report.cost * 50 == pytest.approx(14 + 36 * 12 / 40)
    foreground = {k for k in range(40) if network.blocks[k].ran == 50}
    assert foreground == {1, 8, 9, 21, 22, 23, 24, 33, 34, 35, 36, 39}
    assert {network.blocks[k].ran for k in range(40) if k not in foreground} == {14}


@pytest.mark.parity("profilingdit", "the authors' rule, written down")
def test_a_reduced_step_adds_what_runs_added_at_the_last_full_one():
    """Foreground blocks add for the present noise level, background ones for the full step's."""
    guards = Guards(warmup=2, cooldown=0, longest_run=99)
    report, outputs, _ = sampled(ProfilingDiT(3.0, 1.0, "1-2 of 4"), guards, count=4, steps=20)
    full = 0.0
    for step, output in zip(report.steps, outputs, strict=True):
        full = full if step.decision == "partial" else step.sigma
        assert output == pytest.approx(0.3 * step.sigma + (0.1 + 0.2) * full, rel=1e-5)
    assert report.steps[3].part == "foreground blocks"
    assert report.steps[3].cost == pytest.approx(0.5)
    assert report.history_bytes == 2 * 3 * 4 + 2 * 3 * 4  # one run of two blocks, and the latent


def test_full_steps_come_closer_together():
    """T_max 12 and T_min 2 after the first 6 of 50: T(s) = 12 - 10 (s - 6) / 44."""
    policy = ProfilingDiT(12.0, 1 / 6)
    assert policy.distance(0.0) == policy.distance(0.12) == 12
    assert policy.distance(28 / 50) == pytest.approx(7)
    assert policy.distance(1.0) == pytest.approx(2)
    guards = Guards(warmup=6, cooldown=0, longest_run=99)
    report = sampled(policy, guards, 40, 50)[0]
    full = [step.ordinal for step in report.steps if step.decision != "partial"][5:]
    gaps = [b - a for a, b in zip(full, full[1:], strict=False)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 2 * gaps[-1]


@pytest.mark.parametrize(("count", "least"), [(30, 18), (28, 17), (42, 26), (2, 1)])
def test_other_depths_take_the_list_by_where_blocks_lie(count, least):
    runs = ProfilingDiT().kept(count)
    assert least <= sum(map(len, runs)) <= count - (count > 2)
    assert all(a[-1] + 1 < b[0] for a, b in zip(runs, runs[1:], strict=False))


def test_a_list_for_another_model_reuses_nothing_and_says_so():
    report, *_ = sampled(ProfilingDiT(6.0, blocks="0-3 of 40"), Guards(), count=30, steps=50)
    assert report.partial == report.reused == 0
    assert any("no places to skip" in message for message in report.texts)


@pytest.mark.parametrize(
    "wrong", [{"blocks": "1, 2"}, {"blocks": "1-9 of 4"}, {"blocks": "one of 4"}, {"shrink": 0.0}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w{3}"):
        ProfilingDiT(**wrong)
