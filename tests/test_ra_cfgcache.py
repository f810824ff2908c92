"""RA-CFGCache: how errors of a pair compose, what steps weigh, and the scores that it wraps."""

import math
from dataclasses import replace

import pytest
import torch
from toys import COND, WAN, cached_run, noise, run_info, schedule, toy_signal

from sencache_core import FAMILIES, CacheConfig, Guards
from sencache_core.measure.prior import prior_moments
from sencache_core.model.signals import NOISY_LATENT, TIME_EMBEDDING, TIME_PROJECTION
from sencache_core.policies.presets import PRESETS
from sencache_core.policies.ra_cfgcache import RACFGCache, guided_error, step_weights
from sencache_core.policies.teacache import FITS
from sencache_core.run.facts import Facts
from sencache_core.types import Look, Step

#: Nothing but the composition: no polynomial, no weights, one likeness, one scale.
BARE = RACFGCache(model="none", weight="none", likeness=0.9, guidance=5.0)


@pytest.mark.parametrize(
    ("cond", "uncond", "likeness", "scale", "error"),
    [
        (0.2, 0.2, 1.0, 5.0, 0.2),  # both move together: guidance takes nothing apart
        (0.2, 0.2, 0.95, 5.0, 0.2 * math.sqrt(3)),
        (1.0, 1.0, 0.9, 5.0, math.sqrt(5)),
        (1.0, 1.0, 0.8, 5.0, 3.0),
        (0.3, 0.7, 0.5, 1.0, 0.3),  # no guidance: the conditional branch alone
        (0.1, 0.2, 0.0, 3.0, 0.5),  # 2 x 0.2 and 3 x 0.1 at right angles
        (0.2, 0.1, -1.0, 2.0, 0.5),
        (0.1, 0.125, 1.0, 5.0, 0.0),
    ],
)
def test_a_guided_error_is_that_of_the_combined_branches(cond, uncond, likeness, scale, error):
    found = guided_error(cond, uncond, likeness, scale)
    assert found == pytest.approx(error, abs=1e-8)
    turn = math.acos(likeness)
    one = torch.tensor([cond, 0.0])
    other = uncond * torch.tensor([math.cos(turn), math.sin(turn)])
    assert found == pytest.approx(float((scale * one + (1 - scale) * other).norm()), abs=1e-6)


def test_weights_are_the_published_curves():
    """A x^alpha + b over its mean, by hand for five steps of Wan: x = 1, 3/4, 1/2, 1/4, 0."""
    raw = [1.214 * x**3.832 + 0.2463 for x in (1, 0.75, 0.5, 0.25, 0)]
    mean = sum(raw) / 5
    assert step_weights("Wan 2.1 1.3B", 5) == pytest.approx([value / mean for value in raw])
    cog = step_weights("CogVideoX 2B", 50)
    assert sum(cog) == pytest.approx(50)
    assert cog == sorted(cog, reverse=True)
    assert cog[0] / cog[-1] == pytest.approx((2.185 + 0.213) / 0.213)


def decided(policy, looks, state=None, run=None):
    """Scores of rounds that all look back to the first."""
    state, scores = policy.start(run or run_info()), []
    for number, value in enumerate(looks):
        look = Look(COND, torch.full((1, 4), value))
        x = (torch.full((1, 4), value),)
        t = 0.9 - 0.1 * number
        now = Step(x, 0.1, t, t, number, 20, number, look=look)
        if number == 0:
            last, state = now, policy.observe(now, state)
            continue
        decision, state = policy.decide(now, last, state)
        scores.append(decision.score)
    return scores, state


def test_changes_are_those_since_the_evaluation_and_add_up():
    """1.1, 1.2, 1.3 after 1.0: 0.1 + 0.2 + 0.3, times sqrt(5)."""
    scores, state = decided(replace(BARE, threshold=9.0), [1.0, 1.1, 1.2, 1.3])
    assert scores == pytest.approx([math.sqrt(5) * k for k in (0.1, 0.3, 0.6)], rel=1e-5)
    assert float(state.inner.seen.value.mean()) == 1.0


def test_a_new_evaluation_starts_anew():
    policy = replace(BARE, threshold=9.0)
    _, state = decided(policy, [1.0, 1.1, 1.2])
    look = Look(COND, torch.full((1, 4), 2.0))
    now = Step((noise(1, 4),), 0.1, 0.5, 0.5, 3, 20, 3, look=look)
    state = policy.observe(now, state)
    after = replace(now, t=0.4, look=Look(COND, torch.full((1, 4), 2.2)), ordinal=4)
    assert policy.decide(after, now, state)[0].score == pytest.approx(math.sqrt(5) * 0.1, rel=1e-5)


def test_other_scores_are_taken_from_the_evaluation_too():
    """SeaCache's and EasyCache's own scores would compare with the round before."""
    sea = replace(BARE, inner="seacache", threshold=9.0)
    scores, _ = decided(sea, [1.0, 1.1, 1.2])  # of channels alone: nothing is filtered
    assert scores == pytest.approx([math.sqrt(5) * k for k in (0.1, 0.3)], rel=1e-3)
    easy = replace(BARE, inner="easycache", threshold=9.0)
    state, outputs = easy.start(run_info()), (1.0, 2.0, None, None)
    scores = []
    for number, (x, output) in enumerate(zip((1.0, 1.5, 1.6, 1.7), outputs, strict=True)):
        t = 0.9 - 0.1 * number
        sketch = None if output is None else torch.full((1, 4), output)
        now = Step((torch.full((1, 4), x),), 0.1, t, t, number, 20, number, output=sketch)
        if output is not None:
            last, state = now, easy.observe(now, state)
            continue
        scores.append(easy.decide(now, last, state)[0].score)
    # The output of 2 changes at a rate of 2: 0.1 on, 0.2 on.
    assert scores == pytest.approx([math.sqrt(5) * k for k in (0.1, 0.3)], rel=1e-4)
    assert easy.reads_outputs and not sea.reads_outputs
    assert (sea.signal(WAN), easy.signal(WAN)) == (NOISY_LATENT, "")


def origins_mask(series, rescale, weights, amplified, threshold):
    """The repository's loop: error since the last refresh, weighed, added up; ``True`` computes."""
    mask, total, anchor, reference = [], 0.0, None, 0
    for number, now in enumerate(series):
        compute = anchor is None
        if not compute:
            change = float((now - anchor).abs().mean() / (anchor.abs().mean() + 1e-6))
            risk = max(rescale(change), 0.0) * amplified(reference, number) * weights[number]
            compute = total + risk > threshold
            total += risk
        if compute:
            anchor, total, reference = now, 0.0, number
        mask.append(compute)
    return mask


@pytest.mark.parity("ra_cfgcache", "the authors' loop, written down")
@pytest.mark.parametrize("weight", ["Wan 2.1 1.3B", "none", "measured"])
@pytest.mark.parametrize("threshold", [0.2, 0.6, 2.0])
def test_decisions_are_those_of_the_origin(threshold, weight):
    """Of the same signals, with likeness and gains of the bundled Wan."""
    sched = schedule(50)
    policy = RACFGCache(threshold, model="none", weight=weight, guidance=5.0)
    config = CacheConfig(policy, guards=Guards(1, 0, 10_000), budget=None)
    report = cached_run(config, sched, guidance=5.0)[1]
    x, times, moments = noise(1, 2, 3, 4), sched.sigmas[:-1], prior_moments("wan")
    series = [toy_signal(TIME_EMBEDDING, x, sigma, 0.0) for sigma in times]
    likeness = moments.likeness_at(times)
    if weight == "measured":
        ways = [a - b for a, b in zip(sched.sigmas[:-1], sched.sigmas[1:], strict=True)]
        raw = [moments.gain_at(t) * way for t, way in zip(times, ways, strict=True)]
        weights = [value * 50 / sum(raw) for value in raw]
    else:
        weights = [1.0] * 50 if weight == "none" else step_weights(weight, 50)

    def amplified(known, now):
        return math.sqrt(1 + 2 * 5 * 4 * (1 - likeness[known, now]))

    expected = origins_mask(series, lambda change: change, weights, amplified, threshold)
    assert [step.decision != "reused" for step in report.steps] == expected
    assert 0 < report.reused < 49


def test_every_clip_has_one_schedule():
    masks = set()
    for seed in range(2):
        config = CacheConfig(RACFGCache(), budget=0.4)
        report = cached_run(config, schedule(30), x=noise(1, 2, 3, 4, seed=seed), guidance=4.0)[1]
        masks.add("".join(step.decision[0] for step in report.steps))
    assert len(masks) == 1 and "r" in masks.pop()


@pytest.mark.parametrize(
    ("facts", "scale"),
    [(Facts(guidance=7.5), 7.5), (Facts(), 5.0), (Facts(guided=False, guidance=7.5), 1.0)],
)
def test_the_scale_of_guidance_is_the_runs(facts, scale):
    session = CacheConfig(RACFGCache(), budget=None).start(WAN, schedule(), facts=facts)
    run = session.course.run
    assert RACFGCache().start(run).scale == scale
    assert RACFGCache(guidance=3.0).start(run).scale == (3.0 if facts.guided else 1.0)


def test_without_moments_one_likeness_and_published_weights_do():
    policy, run = RACFGCache(), replace(run_info(), moments=None)
    state = policy.start(run)
    assert state.likeness is None
    assert policy._risk(0, 3, 0, state) == pytest.approx(state.weights[0] * math.sqrt(5))
    assert state.weights == pytest.approx(step_weights("Wan 2.1 1.3B", 20))
    ltx = policy.start(replace(run, family=FAMILIES["ltx"]))
    assert set(ltx.weights) == {1.0}


def test_the_mismatched_preset_looks_at_another_signal_with_the_same_polynomial():
    """Theirs adds nothing where that polynomial is negative, 0.185 to 0.31; ours its largest."""
    theirs = PRESETS["RA-CFGCache Wan 2.1 1.3B slow"].policy
    matched = PRESETS["RA-CFGCache Wan 2.1 1.3B, matched slow"].policy
    assert theirs == replace(matched, projection=True)
    assert theirs.signal(WAN) == TIME_PROJECTION
    assert matched.signal(WAN) == TIME_EMBEDDING
    assert theirs.signal(FAMILIES["cogvideox"]) == TIME_EMBEDDING
    fit = FITS["Wan 2.1 T2V 1.3B"]
    assert fit._value(0.25) < 0 < fit(0.25)
    assert fit(0.1) == pytest.approx(max(fit._value(0.1), 0.0))


def test_presets_are_the_published_points():
    found = {n: p.policy.threshold for n, p in PRESETS.items() if "RA-CFG" in n and "HiC" not in n}
    assert list(found.values()) == [0.4, 0.6, 0.4, 0.6, 0.6, 1.4]
    assert PRESETS["RA-CFGCache CogVideoX 2B fast"].family == "cogvideox"


def test_a_model_that_the_score_cannot_serve_is_told():
    run = replace(run_info(), family=FAMILIES["ltx2"])
    assert "picture and sound" in str(RACFGCache(inner="seacache").misfit(run))
    assert not RACFGCache(inner="teacache").misfit(run)
    assert not RACFGCache(inner="easycache").misfit(run)


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": -1},
        {"inner": "magcache"},
        {"likeness": 1.5},
        {"guidance": -1},
        {"weight": "x"},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w{3}"):
        RACFGCache(**wrong)
