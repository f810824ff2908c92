"""FBCache: what it compares, what it adds again, and what a run costs."""

from dataclasses import replace

import pytest
import torch
from blocks import letters, sampled, tenths
from toys import COND, UNCOND, noise, run_info

from sencache_core import Guards
from sencache_core.policies import FBCache
from sencache_core.policies.presets import PRESETS
from sencache_core.types import ALL, Look, Step

FREE = Guards(1, 0, 10_000)


def falling(number, sigma):
    """The first block adds the noise level, the others as :func:`tenths`."""
    return sigma if number == 0 else tenths(number, sigma)


def test_the_change_counts_from_the_last_evaluation():
    """It falls by a twentieth a step: 1 - s / s_c < 0.12 until s is below 0.88 s_c."""
    report, *_ = sampled(FBCache(0.12), FREE, 4, 20, falling)
    computed, last, expected = [0], 1.0, []
    for k in range(1, 20):
        sigma = 1 - k / 20
        expected.append(1 - sigma / last)
        if expected[-1] >= 0.12:
            computed.append(k)
            last = sigma
    assert letters(report) == "".join("C" if k in computed else "h" for k in range(20))
    assert letters(report).startswith("ChhChhChC")
    assert [step.score for step in report.steps[1:]] == pytest.approx(expected, abs=1e-6)


def test_what_all_but_the_first_block_added_is_added_again():
    report, outputs, network = sampled(FBCache(0.12), FREE, 4, 20, falling)
    last = None
    for step, output in zip(report.steps, outputs, strict=True):
        last = step.sigma if step.decision != "partial" else last
        assert output == pytest.approx(step.sigma + 0.6 * last, rel=1e-5)
        assert step.cost == (0.25 if step.decision == "partial" else 1)
    assert report.steps[1].part == "first block"
    full = 20 - report.partial
    assert [block.ran for block in network.blocks] == [20, full, full, full]
    # the residual, what the first block added now and at the last evaluation, and the latent
    assert report.history_bytes == 4 * 2 * 3 * 4


def looks(*values, branch=COND):
    """Rounds, a tenth of the time apart, that show these values."""
    return [
        Step((noise(1, 4),), 0.1, 0.5, 0.9 - k / 10, k, 20, k, look=Look(branch, value))
        for k, value in enumerate(values)
    ]


def test_the_score_is_that_of_absolute_means():
    policy, state = FBCache(), FBCache().start(run_info())
    last, now = looks(torch.tensor([[[1.0, -3.0]]]), torch.tensor([[[1.5, -3.5]]]))
    state = policy.observe(last, state)
    assert policy.score(now, last, state) == pytest.approx(1.0 / 4.0)
    assert policy.expected(0.9, 0.7, state) == pytest.approx(2 * 0.25)


@pytest.mark.parametrize("what", ["branch", "shape", "zero", "nothing"])
def test_what_cannot_be_compared_is_computed(what):
    policy = FBCache(1e9)
    last, now = looks(torch.ones(1, 2, 3), torch.ones(1, 2, 3))
    if what == "branch":
        now = replace(now, look=now.look._replace(branch=UNCOND))
    if what == "shape":
        now = replace(now, look=now.look._replace(value=torch.ones(1, 2, 4)))
    if what == "zero":
        last = replace(last, look=last.look._replace(value=torch.zeros(1, 2, 3)))
    if what == "nothing":
        last = replace(last, look=None)
    state = policy.observe(last, policy.start(run_info()))
    decision, _ = policy.decide(now, last, state)
    assert (decision.compute, decision.score) == (ALL, None)


def test_presets_are_the_published_points():
    found = {n: (p.family, p.policy.threshold) for n, p in PRESETS.items() if "FBCache" in n}
    assert found == {
        "FBCache as in diffusers": ("wan", 0.05),
        "FBCache CogVideoX": ("cogvideox", 0.025),
    }


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="threshold"):
        FBCache(-0.1)
