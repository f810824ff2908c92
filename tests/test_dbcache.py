"""DBCache: the blocks that run, the order of its limits, and its masks of steps."""

from dataclasses import replace

import pytest
from blocks import letters, sampled, tenths
from toys import cached_run, run_info, schedule

from sencache_core import CacheConfig, Guards
from sencache_core.policies import DBCache
from sencache_core.policies.dbcache import MASKS, steps_mask
from sencache_core.policies.presets import PRESETS

FREE = Guards(1, 0, 10_000)


def falling(number, sigma):
    """The first two blocks add half of the noise level each, the others as :func:`tenths`."""
    return sigma / 2 if number < 2 else tenths(number, sigma)


def test_first_and_last_blocks_run_and_the_rest_is_added_again():
    report, outputs, network = sampled(DBCache(0.12, 2, 1), FREE, 6, 20, falling)
    last = None
    for step, output in zip(report.steps, outputs, strict=True):
        last = step.sigma if step.decision != "partial" else last
        assert output == pytest.approx(1.5 * step.sigma + 0.9 * last, rel=1e-5)
        assert step.cost == pytest.approx(0.5 if step.decision == "partial" else 1)
    assert report.steps[1].part == "first 2 blocks and last block"
    assert letters(report).startswith("ChhChhChC")
    full = 20 - report.partial
    assert [block.ran for block in network.blocks] == [20, 20, full, full, full, 20]


@pytest.mark.parametrize(
    ("settings", "guards", "expected"),
    [
        ({}, Guards(4, 0, 99), "CCCChhCh"),
        ({}, Guards(1, 0, 1), "ChChChCh"),
        ({"most": 3}, FREE, "ChhChCCC"),
        ({"most": 3, "threshold": 5.0}, FREE, "ChhhCCCC"),
        # 0.05 and 0.1 are reused, 0.15 is not and counts all the same: 0.3 of 0.3
        ({"most_change": 0.299}, FREE, "ChhCCCCC"),
        ({"most_change": 0.31}, FREE, "ChhChCCC"),
        ({"threshold": 1.0}, FREE, "Chhhhhhh"),
        ({"threshold": 0.0}, FREE, "CCCCCCCC"),
    ],
)
def test_whoever_says_so_first_computes(settings, guards, expected):
    policy = replace(DBCache(0.12, 2, 0), **settings)
    report, *_ = sampled(policy, guards, 6, 20, falling)
    assert letters(report).startswith(expected)


def test_a_threshold_of_one_reuses_what_changes_more():
    def jumps(number, sigma):
        return 1.0 if sigma > 0.8 else 9.0

    for threshold, expected in ((0.99, "C"), (1.0, "h")):
        report, *_ = sampled(DBCache(threshold, 2), FREE, 6, 20, jumps)
        assert letters(report)[4] == expected


def test_masks_are_cache_dits():
    """As it prints them for the 28 steps that they were made for, and for fewer and more."""
    drawn = {n: "".join("C" if c else "." for c in steps_mask(n, 28)) for n in MASKS}
    assert drawn == {
        "slow": "CCCCCCCC.CCC..CCC..CC..C...C",
        "medium": "CCCCCC.CC...CC...CC...CC...C",
        "fast": "CCCCCC.C...C....C.....C....C",
        "ultra": "CCCC..C.....C......C.......C",
    }
    assert "".join("C" if c else "." for c in steps_mask("ultra", 9)) == "CCC..C..C"
    assert [sum(steps_mask(name, 50)) for name in MASKS] == [38, 29, 20, 14]
    with pytest.raises(ValueError, match="8 steps or more"):
        steps_mask("slow", 7)


@pytest.mark.parametrize("name", MASKS)
def test_masks_are_those_of_the_library(name):
    cache_dit = pytest.importorskip("cache_dit")
    for steps in range(8, 101):
        theirs = cache_dit.steps_mask(total_steps=steps, mask_policy=name)
        assert [int(computed) for computed in steps_mask(name, steps)] == theirs, steps


@pytest.mark.parametrize("budget", [None, 0.3, 1.0])
def test_a_mask_rules_over_budget_and_guards(budget):
    policy = DBCache(0.0, 1, steps="fast")
    report = cached_run(CacheConfig(policy, budget=budget), schedule(28), guidance=3.0)[1]
    assert letters(report) == "CCCCCChChhhChhhhChhhhhChhhhC"
    assert report.budget is None
    assert report.cost * 28 == pytest.approx(11 + 17 / 4)


def test_a_dynamic_mask_leaves_the_rest_to_the_threshold():
    policy = DBCache(0.0, 1, steps="fast", static=False)
    assert letters(sampled(policy, FREE, 6, 28, falling)[0]) == "C" * 28
    some = letters(sampled(replace(policy, threshold=0.05), FREE, 6, 28, falling)[0])
    whole = letters(sampled(replace(policy, static=True), FREE, 6, 28, falling)[0])
    assert 0 < some.count("h") < whole.count("h")
    assert all(w == "h" for s, w in zip(some, whole, strict=True) if s == "h")


def test_masks_of_few_steps_are_refused_in_words():
    policy = DBCache(first=1, steps="slow")
    assert "8 steps or more" in str(policy.misfit(run_info(schedule(7), 4)))
    config = CacheConfig(policy, min_steps=1)
    report = cached_run(config, schedule(7))[1]
    assert report.reused == report.partial == 0
    assert any("8 steps or more" in said for said in report.texts)


def test_presets_are_the_published_points():
    found = {n: p for n, p in PRESETS.items() if n.startswith("DBCache")}
    assert (found["DBCache"].policy, found["DBCache"].guards.warmup) == (DBCache(), 8)
    limits = {n: (p.guards.warmup, p.policy.most) for n, p in found.items() if "noise" in n}
    assert list(limits.values()) == [(4, 8), (2, 20)]
    assert [p.policy.steps for p in found.values() if p.policy.masked] == list(MASKS)


@pytest.mark.parametrize(
    "wrong", [{"threshold": -1}, {"first": 0}, {"last": -1}, {"most": -1}, {"steps": "slower"}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w{3}"):
        DBCache(**wrong)
