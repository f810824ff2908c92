"""DeepCache's analogue: its steps, its shallow blocks, and what a run costs."""

import pytest
from blocks import letters, sampled, tenths
from toys import run_info

from sencache_core import Guards
from sencache_core.policies import DeepCache

FREE = Guards(1, 0, 10_000)


@pytest.mark.parametrize(("interval", "depth"), [(3, 1), (5, 2), (2, 1)])
def test_every_nth_step_is_full_and_the_shallow_blocks_run_in_between(interval, depth):
    report, outputs, network = sampled(DeepCache(interval, depth), FREE, 8, 20, tenths)
    full = [step.ordinal for step in report.steps if step.decision != "partial"]
    assert full == list(range(0, 20, interval))
    shallow = [*range(depth), *range(8 - depth, 8)]
    assert [block.ran for block in network.blocks] == [
        20 if k in shallow else len(full) for k in range(8)
    ]
    for step, output in zip(report.steps, outputs, strict=True):
        last = report.steps[max(k for k in full if k <= step.ordinal)].sigma
        ways = [step.sigma if k in shallow else last for k in range(8)]
        assert output == pytest.approx(sum(k / 10 * s for k, s in enumerate(ways)), rel=1e-5)
    assert report.steps[1].part == "shallow blocks"
    assert report.steps[1].cost == pytest.approx(2 * depth / 8)


def test_models_without_deep_blocks_are_told():
    assert not DeepCache(3.0, 2).misfit(run_info(blocks=5)) and not DeepCache().misfit(run_info())
    assert "all 4 blocks" in str(DeepCache(3.0, 2).misfit(run_info(blocks=4)))
    report, *_ = sampled(DeepCache(3.0, 2), FREE, 4, 20)
    assert letters(report) == "C" * 20
    assert any("all 4 blocks" in said for said in report.texts)


@pytest.mark.parametrize("wrong", [{"interval": 0.5}, {"depth": 0}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w{3}"):
        DeepCache(**wrong)
