"""Rounds of the conditional branch alone: what is run, what is rebuilt, what it costs."""

from dataclasses import replace

import pytest
import torch
from toys import (
    COND,
    UNCOND,
    WAN,
    Counted,
    cached_run,
    curved,
    half_up,
    noise,
    observe,
    plain_run,
    predict,
    schedule,
)

from sencache_core import CacheConfig, CfgCache, Fitted, Guards, Hold, Linear, Planned, TwoBands
from sencache_core.forecast.pairs import Pairs
from sencache_core.forecast.reuse.bands import LOW_RADIUS, low_pass
from sencache_core.hosts import loop
from sencache_core.policies.presets import PRESETS
from sencache_core.types import Anchor, Branch

FREE = Guards(cooldown=0, longest_run=20)


def masked(mask, **options):
    options = {"gap_rule": Linear(), "guards": FREE, "hindsight": False, **options}
    return CacheConfig(Planned(mask=mask), budget=None, **options)


def pair_of(gap):
    """A model whose conditional output lies ``gap(sigma)`` above its unconditional one."""
    base = curved()
    return Counted(lambda x, sigma, c: base(x, sigma, 0.0) + (gap(sigma) if c else 0.0))


def test_conditional_rounds_run_one_branch():
    asked = []

    def model(x, sigma, condition):
        asked.append((round(sigma, 6), condition))
        return curved()(x, sigma, condition)

    sched, mask = schedule(12), "CCh.hhCC.h.C"
    report = cached_run(masked(mask), sched, model, guidance=4.0)[1]
    wanted = []
    for sigma, letter in zip(sched.sigmas, mask, strict=False):
        wanted += [(round(sigma, 6), 0.4)] * (letter in "Ch")
        wanted += [(round(sigma, 6), 0.0)] * (letter == "C")
    assert asked == wanted
    kinds = {"C": ("forced", "computed"), "h": ("partial",), ".": ("reused",)}
    assert all(s.decision in kinds[m] for s, m in zip(report.steps, mask, strict=True))
    assert [s.cost for s in report.steps] == [{"C": 1, "h": 0.5, ".": 0}[m] for m in mask]
    assert report.cost == pytest.approx((5 + 4 / 2) / 12)
    assert (report.calls, report.calls_saved) == (14, 10)
    assert report.partial == 4
    assert "4 of them in part" in str(report.summary())


@pytest.mark.parametrize(
    ("rule", "gap"),
    [(Hold(), lambda s: 0.7), (Linear(), lambda s: 0.7 - 0.4 * s), (Fitted(), lambda s: 0.3)],
)
def test_a_difference_that_the_rule_foresees_costs_nothing(rule, gap):
    sched = schedule(12, 1.0)
    config = masked("CChhChhhhhhC", gap_rule=rule)
    out, report = cached_run(config, sched, pair_of(gap), guidance=4.0)
    plain = plain_run(sched, pair_of(gap), guidance=4.0)
    torch.testing.assert_close(out, plain, rtol=1e-4, atol=1e-4)
    assert report.partial == 8


def test_hindsight_takes_conditional_rounds_for_true_ones():
    """Outputs quadratic in sigma alone, differences linear: both corrections are exact."""
    gap = Counted(lambda x, s, c: torch.full_like(x, 3 * s * s - s + (1 + s if c else 0)))
    sched = schedule(12, 1.0)
    config = masked("CC.hC.CC.h.C", rule=Linear(), hindsight=True)
    config = replace(config, profile=None)
    session = config.start(WAN, sched)
    session.outputs.hindsight.response = lambda t: 0.0  # this model does not see the latent
    x = noise(1, 2, 3, 4)
    out = loop.sample(gap, x, sched, {"cond": 1, "uncond": 0}, 4.0, session)
    plain = plain_run(sched, Counted(lambda x, s, c: gap(x, s, c)), guidance=4.0)
    wrong = cached_run(replace(config, hindsight=False), sched, gap, guidance=4.0)[0]
    torch.testing.assert_close(out, plain, rtol=1e-5, atol=1e-5)
    assert (wrong - plain).abs().max() > 1e-3


def test_a_pair_that_is_not_taken_apart_is_computed():
    """A host that only ever asks for both branches at once gets both computed, and is told."""
    session = masked("CCh.CC......").start(WAN, schedule(12))
    for sigma in schedule(12).sigmas[:4]:
        session.begin((noise(1, 2, 3, 4),), sigma)
        y = predict(session, (COND, UNCOND), (2, 2, 3, 4))
        if y is None:
            observe(session, (COND, UNCOND), noise(2, 2, 3, 4), None)
    report = session.finish(False)
    assert [s.decision for s in report.steps] == ["forced", "computed", "forced", "reused"]
    assert [s.cost for s in report.steps] == [1, 1, 1, 0]
    assert any("computed in full" in message for message in report.texts)


@pytest.mark.parametrize("others", [(), (Branch("uncond", "other", "pass"),), (Branch("cond", 2),)])
def test_without_a_partner_known_for_sure_everything_is_computed(others):
    """No guidance, a pass of another kind, two conditional branches that could be meant."""
    config, sched = masked("CChhhhhhhhhC"), schedule(12)
    session, ran = config.start(WAN, sched), 0
    for sigma in sched.sigmas[:-1]:
        session.begin((noise(1, 2, 3, 4),), sigma)
        for branch in (COND, *others, *([UNCOND] if Branch("cond", 2) in others else [])):
            if predict(session, (branch,), (1, 2, 3, 4)) is None:
                observe(session, (branch,), noise(1, 2, 3, 4), None)
                ran += 1
    report = session.finish(True)
    assert report.cost == 1.0
    assert report.calls_saved == 0
    assert any("computed in full" in message for message in report.texts)


def test_nothing_is_kept_past_the_run_and_little_during_it():
    config, sched = masked("CChhCChh.ChC", rule=Linear()), schedule(12)
    session = config.start(WAN, sched)
    x = noise(1, 2, 3, 4)
    loop.sample(curved(), x, sched, {"cond": 0.4, "uncond": 0.0}, 4.0, session)
    assert not session.outputs.pairs.nbytes
    latent = x.nbytes
    assert session.report.history_bytes <= 2 * 3 * latent + latent  # and the sketch of the latent


@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize("percent", range(60, 101, 5))
def test_cfg_cache_spends_its_budget(steps, percent):
    sched = schedule(steps)
    config = CacheConfig(CfgCache(), budget=percent / 100)
    report = cached_run(config, sched, guidance=4.0)[1]
    assert abs(report.cost * steps - half_up(percent / 100 * steps)) <= 0.5
    assert not report.reused


def test_cfg_cache_says_what_it_cannot_save():
    report = cached_run(CacheConfig(CfgCache(), budget=0.3), schedule(20), guidance=4.0)[1]
    assert report.cost < 0.6
    assert any("cannot be met" in message for message in report.texts)


def test_fastercaches_preset_spends_what_its_authors_spend():
    """Their code computes 24 of 50 steps in full: the first 17, then those that 5 divides."""
    preset = PRESETS["FasterCache CFG-Cache"]
    rules = {"rule": preset.rule, "gap_rule": preset.gap_rule, "guards": preset.guards}
    config = CacheConfig(preset.policy, **rules, budget=None, hindsight=False)
    report = cached_run(config, schedule(50), guidance=6.0)[1]
    assert [s.decision for s in report.steps[:17]] == ["forced"] * 17
    assert (report.evaluations, report.partial, report.reused) == (50, 26, 0)


def test_two_bands_weigh_their_frequencies():
    gap = noise(1, 2, 3, 12, 20)
    rule, low = TwoBands(low=1.5, high=3.0, low_until=0.4, high_from=0.6), low_pass(gap)
    cases = {0.9: 1.5 * low + gap - low, 0.5: 1.5 * low + 3 * (gap - low), 0.1: 3 * gap - 2 * low}
    for t, wanted in cases.items():
        torch.testing.assert_close(rule.predict(t, [Anchor(1.0, gap)]), wanted)
    tokens = noise(1, 7, 4)
    assert torch.equal(rule.predict(0.9, [Anchor(1.0, tokens)]), tokens)


def test_the_low_band_is_a_disc_around_frequency_zero():
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    radius = LOW_RADIUS * 20
    for fy, fx in [(0, 0), (3, 2), (4, 0), (0, 5), (3, 3), (9, 14)]:
        wave = torch.cos(2 * torch.pi * (fy * rows / 20 + fx * columns / 30))[None]
        wanted = wave if fy**2 + fx**2 <= radius**2 else torch.zeros_like(wave)
        torch.testing.assert_close(low_pass(wave), wanted, rtol=1e-4, atol=1e-5)


def test_differences_beside_each_other_by_rounding_make_no_line():
    pairs, y = Pairs(Linear()), noise(1, 2, 3, 4)
    for k, t in enumerate((0.9, 0.8, 0.8 - 6e-8)):
        other = noise(1, 2, 3, 4, seed=k)
        pairs.keep(t, {COND: [Anchor(t, y)], UNCOND: [Anchor(t, other)]})
    pairs.alone(COND, y)
    (rebuilt,) = pairs.rebuild([UNCOND], 0.7, y.shape)
    assert rebuilt.abs().max() < 20


def test_a_difference_serves_the_pair_that_it_was_measured_on():
    pairs, y = Pairs(Hold()), noise(1, 2, 3, 4)
    pairs.keep(0.9, {COND: [Anchor(0.9, y)], UNCOND: [Anchor(0.9, y - 1)]})
    pairs.alone(Branch("cond", "another"), y)
    assert pairs.rebuild([UNCOND], 0.8, y.shape) is None
    pairs.forget()
    pairs.alone(COND, y)
    (rebuilt,) = pairs.rebuild([UNCOND], 0.8, y.shape)
    torch.testing.assert_close(rebuilt, y - 1)
    assert pairs.rebuild([UNCOND], 0.8, (2, *y.shape[1:])) is None
