"""PAB: its ranges, its window, what a run computes and costs, and what a budget makes of it."""

import numpy as np
import pytest
from layered import PAIRS, REST, WEIGHTS, ran, sampled
from toys import WAN, run_info, schedule

from sencache_core import FAMILIES, CacheConfig, Guards, Schedule
from sencache_core.policies import Prior, RunInfo
from sencache_core.policies.layered import Work
from sencache_core.policies.pab import PAB
from sencache_core.policies.presets import PRESETS
from sencache_core.types import CROSS, MLP, SELF

OPEN = Guards(warmup=1, cooldown=0, longest_run=99)
WORK = Work(2, {kind: np.full(2, 0.1) for kind in (SELF, CROSS, MLP)})


def letters(policy, run=None, kind=SELF) -> str:
    run = run or run_info(schedule(20, 1.0))
    forced = [number == 0 for number in range(len(run.times))]
    reused = policy.schedule(policy.measured(run, WORK), WORK, forced)
    assert all((row == reused[kind][0]).all() for row in reused[kind])
    return "".join(".C"[not skip] for skip in reused[kind][0])


def origins(levels, distance, low, high) -> str:
    """diffusers' rule: at the first, outside of the window, and at multiples of the range."""
    return "".join(
        ".C"[number == 0 or not low < level < high or number % distance == 0]
        for number, level in enumerate(levels)
    )


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.85), (0.1, 0.8), (0.45, 0.93), (0.0, 1.0)])
@pytest.mark.parametrize("distance", [2, 3, 6])
@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_rounds_are_those_of_the_origin(distance, low, high, shift):
    sched = schedule(20, shift)
    policy = PAB(self_range=distance, low=low, high=high)
    expected = origins(sched.sigmas[:-1], distance, low, high)
    assert letters(policy, run_info(sched)) == expected


def test_kinds_have_ranges_of_their_own():
    policy = PAB(self_range=2, cross_range=6, mlp_range=1, low=0.0, high=1.0)
    assert letters(policy) == "C.C.C.C.C.C.C.C.C.C."
    assert letters(policy, kind=CROSS) == "C.....C.....C.....C."
    assert policy.kinds == (SELF, CROSS)
    assert PAB(mlp_range=2).kinds == (SELF, CROSS, MLP)
    assert not PAB(self_range=1, cross_range=1).reuses


@pytest.mark.parametrize(
    ("reach", "expected"),
    [(0.0, "C" * 20), (0.5, "C.CC.CC.CC.CC.CC.CC."), (2.0, "C..C..C..C..C..C..C.")],
)
def test_reach_stretches_the_ranges(reach, expected):
    assert letters(PAB(reach, low=0.0, high=1.0)) == expected


def test_on_cogvideox_levels_are_shares_of_the_steps():
    family = FAMILIES["cogvideox"]
    sigmas = [np.tan(np.pi / 2 * (0.999 - 0.999 * k / 20)) for k in range(20)]
    run = RunInfo(family, Schedule((*map(float, sigmas), 0.0), "ddim"), Prior(family))
    expected = origins([1 - k / 20 for k in range(20)], 2, 0.1, 0.85)
    assert letters(PAB(), run) == expected
    later = RunInfo(family, Schedule((*map(float, sigmas[10:]), 0.0), "ddim"), Prior(family))
    assert letters(PAB(), later)[:8] == "C.C.C.C."  # begins at half of the noise


def test_a_run_computes_and_costs_what_its_ranges_say():
    config = CacheConfig(PAB(low=0.0, high=1.0), guards=OPEN, budget=None)
    report, outputs, network = sampled(config)
    assert ran(network, SELF) == [10] * 3
    assert ran(network, CROSS) == [4] * 3
    assert ran(network, MLP) == [20] * 3
    block = sum(WEIGHTS.values()) + REST + PAIRS
    spared = 10 * (WEIGHTS[SELF] + PAIRS) + 16 * WEIGHTS[CROSS]
    assert report.cost == pytest.approx(1 - spared / 20 / block)
    assert {step.part for step in report.steps} == {
        "",
        "all but cross-attention",
        "all but self-attention and cross-attention",
    }
    assert report.steps[5].part == "all but self-attention and cross-attention"
    assert report.reused == 0 and all(y.isfinite().all() for y in outputs)


def test_each_branch_holds_its_own():
    """A pair in two calls: diffusers' hooks would hand the second one the first one's output."""
    config = CacheConfig(PAB(low=0.0, high=1.0), guards=OPEN, budget=None)
    _, alone, _ = sampled(config)
    _, outputs, network = sampled(config, guided=True)
    assert ran(network, SELF) == [20] * 3
    for a, b in zip(alone, outputs, strict=True):
        assert (a == b).all()


def test_a_budget_stretches_the_ranges_too():
    roomy = PAB(low=0.0, high=1.0, mlp_range=3)
    for budget in (0.5, 0.7, 0.9):
        config = CacheConfig(roomy, guards=OPEN, budget=budget)
        report, *_ = sampled(config)
        assert 20 * budget - 1 < report.cost * 20 <= 20 * budget + 1e-6


def test_a_budget_that_the_kinds_of_layers_forbid_is_told():
    """Known only once layers have been met: feed-forward layers run at every round."""
    config = CacheConfig(PAB(low=0.0, high=1.0), guards=OPEN, budget=0.3)
    report, *_ = sampled(config)
    assert report.cost * 20 > 7
    assert any("the policy's settings leave no more" in said for said in report.texts)


def test_a_budget_that_the_window_forbids_is_told():
    config = CacheConfig(PAB(low=0.4, high=0.6), guards=OPEN, budget=0.5)
    session = config.start(WAN, schedule(20, 1.0))
    assert any("cannot be met" in message for message in session.report.texts)


def test_the_preset_is_the_published_one():
    preset = PRESETS["PAB CogVideoX"]
    assert (preset.family, preset.policy) == ("cogvideox", PAB(1.0, 2, 6, 1, 0.1, 0.85))


@pytest.mark.parametrize(
    "wrong", [{"reach": -1}, {"self_range": 0}, {"low": 0.5, "high": 0.4}, {"high": 1.5}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w{3}"):
        PAB(**wrong)
