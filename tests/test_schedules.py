"""Published schedules, as presets of ``planned``."""

import pytest
from toys import cached_run, schedule

from sencache_core import CacheConfig
from sencache_core.policies.presets import PRESETS
from sencache_core.policies.schedules import SKIPPED, mask_of, published


def test_masks_are_written_as_runs():
    assert mask_of("2 4-6 8", 10) == "CC.C...C.C"


@pytest.mark.parametrize("one", SKIPPED, ids=str)
def test_as_many_steps_are_skipped_as_the_name_says(one):
    mask = mask_of(SKIPPED[one])
    assert (len(mask), mask.count(".")) == (50, one[1])
    assert mask.startswith("CCC")


def test_a_preset_runs_its_mask():
    name = "BudCache Wan 2.1 1.3B, 37 of 50 skipped"
    preset = PRESETS[name]
    config = CacheConfig(preset.policy, preset.rule, preset.guards, budget=None)
    report = cached_run(config, schedule(50))[1]
    done = "".join("." if step.decision == "reused" else "C" for step in report.steps)
    assert done == preset.policy.mask
    assert set(published()) <= set(PRESETS)
