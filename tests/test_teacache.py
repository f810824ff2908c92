"""TeaCache: its polynomials, its gate, and what it says where it cannot look."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import COND, WAN, cached_run, curved, noise, plain_run, run_info, schedule, toy_signal

from sencache_core import FAMILIES, CacheConfig, Guards, ProfileHeader, Recorder
from sencache_core.hosts import loop
from sencache_core.measure.profile import combine
from sencache_core.model.families import GENERIC
from sencache_core.model.signals import MODULATED_INPUT, TIME_EMBEDDING, TIME_PROJECTION
from sencache_core.policies import TeaCache
from sencache_core.policies.presets import PRESETS
from sencache_core.policies.teacache import FITS, Fit
from sencache_core.types import Look, Reason, Step

#: Values of the published polynomials at changes of 0, .01, .02, .05, .1, .15, .2, .3 and .4.
CHANGES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
VALUES = {
    "Wan 2.1 T2V 1.3B": (0.138, 0.074, 0.042, 0.077, 0.250, 0.211, -0.123, -0.218, 6.5),
    "Wan 2.1 T2V 14B": (-13.0, -10.6, -8.6, -4.1, -0.64, 0.131, 0.126, 1.14, 0.384),
    "Wan 2.1 I2V 14B 480p": (-0.202, -0.148, -0.104, -0.014, 0.054, 0.1, 0.179, 0.429, 0.333),
    "Wan 2.1 I2V 14B 720p": (-0.234, -0.187, -0.143, -0.028, 0.123, 0.242, 0.335, 0.382, -0.03),
    "Wan 2.1 T2V 1.3B, retention": (-0.05, 0.043, 0.078, 0.142, 0.049, -5.1, -28, -217, -824),
    "Wan 2.1 T2V 14B, retention": (-0.316, 0.052, 0.141, 0.219, -2.3, -39, -188, -1354, -5027),
    "Wan 2.1 I2V 14B 480p, retention": (0.133, 0.104, 0.18, 0.14, 3.1, 40, 182, 1249, 4535),
    "Wan 2.1 I2V 14B 720p, retention": (-0.042, 0.089, 0.16, 0.174, 0.84, 5.4, 18, 95, 291),
    "CogVideoX 2B": (-0.004, 0.013, 0.029, 0.072, 0.135, 0.197, 0.265, 0.427, 0.587),
    "CogVideoX 5B": (-0.052, 0.015, 0.060, 0.106, 0.091, 0.187, 0.451, 0.549, -3.8),
    "CogVideoX 1.5 5B": (0.036, 0.031, 0.033, 0.067, 0.175, 0.293, 0.391, 0.592, 1.29),
    "CogVideoX 1.5 5B I2V": (0.037, 0.037, 0.041, 0.075, 0.178, 0.294, 0.392, 0.497, 0.606),
    "LTX-Video": (0.010, 0.018, 0.026, 0.054, 0.101, 0.148, 0.193, 0.284, 0.427),
    "Wan 2.2 TI2V 5B": (-4.81, None, None, -0.099, 0.118, 0.494, 0.140, None, None),
}


@pytest.mark.parametrize("name", FITS)
def test_polynomials_have_their_published_values_within_their_range(name):
    fit, largest = FITS[name], 0.0
    for change, value in zip(CHANGES, VALUES[name], strict=True):
        if value is None or not fit.low <= change <= fit.high:
            continue
        assert fit(change) == pytest.approx(min(value, 1.0), abs=0.006)
        largest = max(largest, fit(change))
    if fit.low > 0:
        assert fit(0.9 * fit.low) == 0.0
    if fit.high < 1:
        assert fit(2 * fit.high) >= largest


def test_a_small_change_never_counts_as_less_than_none():
    """That of TI2V-5B is -4.8 at 0: added up as it is, it would reuse without an end."""
    assert min(fit(k / 1000) for fit in FITS.values() for k in range(1000)) == 0.0


def origins_mask(series, rescale, threshold, first, last):
    """The repository's own loop over a series of signals, step by step; ``True`` computes."""
    mask, total, previous = [], 0.0, None
    for number, now in enumerate(series):
        if number < first or number >= last:
            compute, total = True, 0.0
        else:
            change = (now - previous).abs().mean() / previous.abs().mean()
            total += rescale(float(change))
            compute = not total < threshold
            total = 0.0 if compute else total
        mask.append(compute)
        previous = now
    return mask


@pytest.mark.parity("teacache", "the authors' loop, written down")
@pytest.mark.parametrize("retention", [False, True])
@pytest.mark.parametrize("threshold", [0.02, 0.05, 0.1, 0.2, 0.4])
def test_decisions_are_those_of_the_origin(threshold, retention):
    """Of the same signals, at the presets' guards: first and last, or the first five alone."""
    steps = 50
    guards = Guards(5, 0, 10_000) if retention else Guards(1, 1, 10_000)
    policy = TeaCache(threshold, model="none", retention=retention)
    sched = schedule(steps)
    report = cached_run(CacheConfig(policy, guards=guards, budget=None), sched)[1]
    x = noise(1, 2, 3, 4)
    series = [toy_signal(TIME_EMBEDDING, x, sigma, 0.0) for sigma in sched.sigmas[:-1]]
    first, last = (5, steps) if retention else (1, steps - 1)
    expected = origins_mask(series, lambda change: change, threshold, first, last)
    assert [step.decision != "reused" for step in report.steps] == expected
    assert 0 < report.reused < steps - first or threshold == 0.02


def test_changes_of_reused_rounds_are_taken_from_round_to_round():
    """Three steps of 0.1 of what was seen: the third exceeds 0.25, the evaluation starts anew."""
    policy, run = TeaCache(0.25, model="none"), run_info()
    state, decided = policy.start(run), []
    size = 1.0
    for number in range(8):
        look = Look(COND, torch.full((1, 4), size))
        now = Step((noise(1, 4),), 0.1, 0.5, 0.9 - 0.1 * number, number, 20, number, look=look)
        if number == 0:
            last, state = now, policy.observe(now, state)
        else:
            decision, state = policy.decide(now, last, state)
            decided.append((decision.reason, pytest.approx(decision.score)))
            if decision.reason is Reason.OVER:
                last, state = now, policy.observe(now, state)
        size *= 1.1
    within, over = Reason.WITHIN, Reason.OVER
    assert decided == [(within, 0.1), (within, 0.2), (over, 0.3)] * 2 + [(within, 0.1)]


@pytest.mark.parametrize(("budget", "clips"), [(None, 2), (0.4, 2)])
def test_where_time_alone_is_seen_every_clip_has_one_schedule(budget, clips):
    config = CacheConfig(TeaCache(0.2), budget=budget)
    masks = set()
    for seed in range(clips):
        report = cached_run(config, schedule(30), x=noise(1, 2, 3, 4, seed=seed))[1]
        masks.add("".join(step.decision[0] for step in report.steps))
    assert len(masks) == 1 and "r" in masks.pop()


@pytest.mark.parametrize(
    ("family", "policy", "signal"),
    [
        ("wan", TeaCache(), TIME_EMBEDDING),
        ("wan", TeaCache(retention=True), TIME_PROJECTION),
        ("wan", TeaCache(model="Wan 2.1 T2V 14B", retention=True), TIME_PROJECTION),
        ("wan", TeaCache(model="Wan 2.2 TI2V 5B", retention=True), TIME_EMBEDDING),
        ("cogvideox", TeaCache(), TIME_EMBEDDING),
        ("cogvideox", TeaCache(model="CogVideoX 1.5 5B"), TIME_EMBEDDING),
        ("ltx", TeaCache(), MODULATED_INPUT),
        ("ltx2", TeaCache(), MODULATED_INPUT),
    ],
)
def test_what_is_looked_at(family, policy, signal):
    assert policy.signal(FAMILIES[family]) == signal
    assert not policy.misfit(replace(run_info(), family=FAMILIES[family]))


@pytest.mark.parametrize(
    ("width", "retention", "name"),
    [
        (1536, False, "Wan 2.1 T2V 1.3B"),
        (5120, True, "Wan 2.1 T2V 14B, retention"),
        (3072, False, "Wan 2.2 TI2V 5B"),
        (3072, True, None),
        (64, False, None),
    ],
)
def test_wan_is_told_by_its_width(width, retention, name):
    found = TeaCache(retention=retention)._fit(WAN, width)
    assert found is FITS.get(name)


@pytest.mark.parametrize(
    ("family", "model", "why"),
    [
        (GENERIC, "auto", "no known family"),
        (FAMILIES["ltx"], "Wan 2.1 T2V 1.3B", "does not fit a model of LTX-Video"),
    ],
)
def test_a_model_it_cannot_serve_is_computed_and_told(family, model, why):
    session = CacheConfig(TeaCache(model=model)).start(family, schedule(20))
    assert session.course.policy.name == "off"
    assert any(why in message for message in session.report.texts)


@pytest.mark.parametrize("look", [None, lambda *_: None])
def test_where_nothing_is_seen_everything_is_computed_and_said(look):
    session = CacheConfig(TeaCache(0.5), budget=None).start(WAN, schedule())
    x, conditions = noise(1, 2, 3, 4), {"cond": 0.4}
    out = loop.sample(curved(), x, schedule(), conditions, runner=session, look=look)
    assert torch.equal(out, plain_run(schedule()))
    report = session.report
    assert report.reused == 0
    assert {step.reason for step in report.steps[2:-1]} == {Reason.UNSEEN.value}
    assert sum("time embedding, which was not found" in said for said in report.texts) == 1


def test_the_branch_that_is_looked_at_stays_the_same():
    """A conditional output that is asked for first leads; another branch's signal says nothing."""
    session = CacheConfig(TeaCache(0.5, model="none"), budget=None, min_steps=1).start(
        WAN, schedule()
    )
    other = COND._replace(ident="another prompt")
    for number, branches in enumerate([(COND,), (other, COND), (other,), (other,)]):
        session.begin((noise(1, 4),), 1 - number / 20)
        assert session.awaits == TIME_EMBEDDING
        session.saw(branches, torch.ones(len(branches), 4))
        assert session.awaits == ""
        session.called(branches, 1.0)
    scores = [step.score for step in session.report.steps]
    assert scores == [None, None, None, 0.0]  # two first evaluations, an unknown, a known one


def test_presets_are_the_published_thresholds():
    found = {name: p.policy.threshold for name, p in PRESETS.items() if "TeaCache" in name}
    assert found["TeaCache Wan 2.1 T2V 1.3B slow"] == 0.05
    assert found["TeaCache Wan 2.1 T2V 14B, retention fast"] == 0.2
    assert found["TeaCache LTX-Video fast"] == 0.05
    assert found["TeaCache Wan 2.2 TI2V 5B slow"] == 0.26
    assert len(found) == 2 * len(FITS) - 1


@pytest.mark.parametrize("wrong", [{"threshold": -0.1}, {"model": "Wan 3"}, {"place": "blocks"}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w{3}"):
        TeaCache(**wrong)


def test_a_polynomial_is_fitted_to_measured_changes_and_kept_to_their_range():
    """Of a known quartic it is that quartic; below the smallest change it goes in proportion."""
    changes = np.linspace(0.02, 0.2, 30)
    wanted = 0.01 + 0.8 * changes - 3 * changes**2 + 40 * changes**4
    fit = Fit.to(WAN, changes, wanted)
    assert fit.powers == pytest.approx((40, 0, -3, 0.8, 0.01), abs=1e-6)
    assert (fit.low, fit.high, fit.signal) == (0.02, 0.2, TIME_EMBEDDING)
    assert fit(0.1) == pytest.approx(0.01 + 0.08 - 0.03 + 0.004)
    assert fit(0.01) == pytest.approx(fit(0.02) / 2)
    assert fit(0.5) == pytest.approx(max(wanted), rel=1e-3)
    assert fit(0.0) == 0.0


def test_a_fit_of_few_or_wild_points_stays_within_what_was_measured():
    two = Fit.to(WAN, [0.1, 0.3], [0.2, 0.4])
    assert two(0.2) == pytest.approx(0.3)
    assert Fit.to(WAN, [0.1, 0.1], [0.2, 0.4])(0.1) == pytest.approx(0.3)
    wild = Fit.to(WAN, [0.01, 0.02, 0.3, 0.31, 0.32], [0.1, 0.3, 0.1, 0.3, 0.1])
    values = [wild(k / 1000) for k in range(10, 400)]
    assert 0.1 - 1e-9 <= min(values) and max(values) <= 0.3 + 1e-9


def measured_profile(steps=30):
    recorder = Recorder.start(WAN, schedule(steps), tap="stack", looks=True)
    x, conditions = noise(1, 2, 3, 4), {"cond": 0.4}
    loop.sample(curved(), x, schedule(steps), conditions, runner=recorder, look=toy_signal)
    return combine([recorder.recording()], ProfileHeader("wan", tap="stack"))


def test_a_profiles_runs_give_the_polynomial():
    """Measured once, its values of the same signal are what a cached run adds up."""
    profile, policy = measured_profile(), TeaCache(0.3, model="measured")
    config = CacheConfig(policy, guards=Guards(1, 1, 99), budget=None, profile=profile)
    report = cached_run(config, schedule(30))[1]
    assert 0 < report.reused < 28 and not report.texts
    fit = Fit.to(WAN, *profile.changes())
    scores = [step.score for step in report.steps if step.score is not None]
    series = [toy_signal(TIME_EMBEDDING, noise(1, 1), s, 0.0) for s in schedule(30).sigmas[:2]]
    first = float((series[1] - series[0]).abs().mean() / series[0].abs().mean())
    assert scores[0] == pytest.approx(fit(first), rel=1e-4)


def test_without_measured_changes_it_says_so():
    session = CacheConfig(TeaCache(model="measured")).start(WAN, schedule(20))
    assert any("Connect a profile" in message for message in session.report.texts)
    assert TeaCache(model="measured", retention=True).signal(WAN) == TIME_EMBEDDING
