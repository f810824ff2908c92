"""EasyCache: its rate, its gate, what it reuses."""

from dataclasses import replace

import pytest
import torch
from toys import (
    COND,
    WAN,
    cached_run,
    curved,
    noise,
    observe,
    plain_run,
    predict,
    run_info,
    schedule,
)

from sencache_core import CacheConfig, Guards
from sencache_core.hosts import loop
from sencache_core.model.families import GENERIC
from sencache_core.policies import EasyCache
from sencache_core.policies.presets import PRESETS
from sencache_core.types import Reason, Step

ANY = 10_000


def reference(origin, kalman, threshold, first, last, steps=40):
    """The originals' own recursion, with ``v - x`` held: mask and last latent."""
    sched, model = schedule(steps), curved()
    x, mask = noise(1, 2, 3, 4), []
    x_before = x_c = v_c = k = None
    total, spread = 0.0, 1.0
    for number, sigma in enumerate(sched.sigmas[:-1]):
        inside = first <= number < last
        compute = True
        if inside and k is not None:
            since = x_before if origin == "paper" else x_c
            total += float(k * (x - since).abs().mean() / v_c.abs().mean())
            compute = not total < threshold
        if compute:
            v, total = model(x, sigma, 0.4), 0.0
            if v_c is not None:
                z = (v - v_c).abs().mean() / (x - x_c).abs().mean()
                if k is None or not kalman:
                    k = z
                else:
                    spread += 0.05
                    gain = spread / (spread + 0.05 + 1e-8)
                    k, spread = k + gain * (z - k), spread * (1 - gain)
            if origin == "paper" or number >= first:
                v_c, x_c = v, x
            payload = v - x
        else:
            v = x + payload
        mask.append(compute)
        x_before = x
        x = x + (sched.sigmas[number + 1] - sigma) * v
    return mask, x


@pytest.mark.parity("easycache", "the authors' loop, written down")
@pytest.mark.parametrize("threshold", [0.03, 0.1, 0.3])
@pytest.mark.parametrize(("origin", "kalman"), [("paper", 0), ("paper", 1), ("comfyui", 0)])
def test_decisions_and_outputs_are_those_of_the_original(origin, kalman, threshold):
    first, last = (8, 39) if origin == "paper" else (6, 38)
    expected, end = reference(origin, kalman, threshold, first, last)
    policy = EasyCache(threshold, origin, bool(kalman))
    guards = Guards(8, 1, ANY) if origin == "paper" else Guards(1, 0, ANY, start=0.15, end=0.95)
    out, report = cached_run(CacheConfig(policy, guards=guards, budget=None), schedule(40))
    assert [step.decision != "reused" for step in report.steps] == expected
    assert 0 < report.reused
    torch.testing.assert_close(out, end, rtol=1e-5, atol=1e-5)


def test_comfyui_counts_what_was_passed_again():
    """Three rounds of 0.1 each: 0.1, 0.2, 0.3 by the paper; 0.1, 0.3, 0.6 by ComfyUI's rule."""

    def scores(origin):
        policy, run = EasyCache(9.0, origin), run_info()
        state = policy.start(run)

        def at(place, output=None):
            return Step((torch.full((1, 4), place),), 0.1, 0.5, 0.5, 10, 20, 10, output=output)

        for place in (0.0, 1.0):
            state = policy.observe(at(place, torch.full((1, 4), place + 1)), state)
        found, last = [], at(1.0)
        for number in (1, 2, 3):
            decision, state = policy.decide(at(1.0 + 0.2 * number), last, state)
            assert decision.reason is Reason.WITHIN
            found.append(decision.score)
        return found

    assert scores("paper") == pytest.approx([0.1, 0.2, 0.3])
    assert scores("comfyui") == pytest.approx([0.1, 0.3, 0.6])


def test_what_is_reused_moves_with_the_latent():
    """A model that answers x plus a constant is met exactly, whatever is skipped."""
    model = lambda x, sigma, condition: x + 0.5  # noqa: E731
    config = CacheConfig(EasyCache(0.3), budget=0.3)
    out, report = cached_run(config, schedule(), model, guidance=3.0)
    assert report.evaluations == 6
    torch.testing.assert_close(out, plain_run(schedule(), model, guidance=3.0))
    held = cached_run(replace(config, policy=EasyCache(0.3, payload="rule")), schedule(), model)[0]
    assert not torch.allclose(held, plain_run(schedule(), model), rtol=1e-3)


def test_outputs_that_lie_elsewhere_than_the_latent_are_computed_and_told():
    session = CacheConfig(EasyCache(9.0), guards=Guards(2, 0), budget=None).start(WAN, schedule())
    x = noise(1, 2, 3, 4)
    for number, sigma in enumerate(schedule().sigmas[:6]):
        session.begin((x + 0.01 * number,), sigma)
        part = x[..., :2] * (1 + number)  # a window of the latent
        assert predict(session, (COND,), part.shape) is None
        observe(session, (COND,), part)
    report = session.finish(True)
    assert report.reused == 0
    assert sum("which part of the latent" in said for said in report.texts) == 1


def test_aiming_at_the_true_clip_is_refused_in_words():
    session = CacheConfig(EasyCache(), aim="true").start(WAN, schedule())
    out = loop.sample(curved(), noise(1, 2, 3, 4), schedule(), {"cond": 0.4}, runner=session)
    assert out.isfinite().all()
    assert session.report.texts and session.course.run.transitions is None


def test_a_model_that_says_nothing_of_its_latent_is_computed_and_told():
    run = replace(run_info(), family=GENERIC)
    assert "payload to rule" in str(EasyCache().misfit(run))
    assert not EasyCache(payload="rule").misfit(run)


def test_presets_are_the_published_thresholds():
    found = {n: p.policy.threshold for n, p in PRESETS.items() if "EasyCache" in n or "Navi" in n}
    assert list(found.values()) == [0.05, 0.2, 0.07, 0.05, 0.04]


@pytest.mark.parametrize("wrong", [{"threshold": -1}, {"origin": "mine"}, {"payload": "x"}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w{3}"):
        EasyCache(**wrong)
