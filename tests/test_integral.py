"""The aim ``true``: what is handed on integrates the outputs, on equations with known solutions."""

import math

import pytest
import torch
from equations import U_TRUTH, X, angles, error, every, flow, u_of, v_of, v_path

from sencache_core import CacheConfig, Schedule
from sencache_core.forecast.reuse import Linear
from sencache_core.hosts.loop import sample
from sencache_core.model.families import FAMILIES
from sencache_core.policies import Guards, Interval, Planned
from sencache_core.run import integral
from sencache_core.run.facts import Facts
from sencache_core.types import OUTPUT, Branch, Key

WAN, COG = FAMILIES["wan"], FAMILIES["cogvideox"]


def run(model, family, schedule, conditions=None, guidance=1.0, x=X, guided=False, **options):
    """The final latent and the report."""
    options = {"aim": "true", "rule": Linear(), "guards": Guards(warmup=1), **options}
    conditions = conditions or {"cond": 1.0}
    facts = Facts(guided=guided)
    session = CacheConfig(**options).start(family, schedule, facts=facts)
    end = sample(
        model, x.float(), schedule, conditions, guidance, session, prediction=family.prediction
    )
    return end.double(), session.report


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("family", [WAN, COG], ids=lambda f: f.name)
def test_second_order(family, stride):
    """Halving the steps quarters the error: slope at least 1.9; Euler's is 1."""
    slopes = {}
    for aim in ("true", "same"):
        errors = []
        for steps in (48, 96, 192):
            mask = every(stride, steps)
            if family is WAN:
                end, _ = run(u_of, WAN, flow(steps), policy=Planned(mask=mask), aim=aim)
                errors.append(error(end, U_TRUTH))
            else:
                end, _ = run(v_of, COG, angles(steps), policy=Planned(mask=mask), aim=aim)
                errors.append(error(end, v_path(X, 1.4)))
        slopes[aim] = math.log2(errors[0] / errors[2]) / 2
    assert slopes["true"] > 1.9
    assert slopes["same"] < 1.3


def test_branches_are_put_together(monkeypatch):
    """Guidance over two branches lands where one branch with the guided output does."""

    def fixed(state, *_):  # else the leading branch's alone, which is not the guided output's
        state.trust = 0.8

    monkeypatch.setattr(integral.Integral, "_measure", fixed)

    def half(x, sigma, condition):
        y = u_of(x, sigma, None)
        return y + condition * (x - 0.5) * sigma

    def guided(x, sigma, condition):
        return 3 * half(x, sigma, 0.2) - 2 * half(x, sigma, 0.1)

    options = {"policy": Planned(mask=every(2, 24)), "guided": True}
    pair, _ = run(half, WAN, flow(24), {"cond": 0.2, "uncond": 0.1}, 3.0, **options)
    one, _ = run(guided, WAN, flow(24), **options)
    assert error(pair, one) < 1e-5


def test_a_budget_of_one_is_corrected_and_the_same_clip_is_not():
    plain = sample(u_of, X.float(), flow(20), {"cond": 1.0}).double()
    true, report = run(u_of, WAN, flow(20), budget=1.0)
    assert report.evaluations == 20
    assert any("The aim is the true clip" in text for text in report.texts)
    assert error(true, U_TRUTH) < error(plain, U_TRUTH) / 3
    same, _ = run(u_of, WAN, flow(20), budget=1.0, aim="same")
    assert torch.equal(same, plain)


def test_nothing_of_the_callers_is_written_to():
    given = []

    def watched(x, sigma, condition):
        y = u_of(x, sigma, condition)
        given.append((x, x.clone(), y, y.clone()))
        return y

    run(watched, WAN, flow(20), budget=0.5)
    assert len(given) == 10
    assert all(torch.equal(a, b) and torch.equal(c, d) for a, b, c, d in given)


def test_a_correction_moves_the_latent_and_the_output():
    """Two steps by hand: what the second evaluation hands on, for data that scatter by 0.2."""
    first, second = X.float(), 2 - X.float()
    session = CacheConfig(aim="true", budget=1.0, rule=Linear(), min_steps=1).start(
        WAN, flow(2), facts=Facts(guided=False)
    )
    keys = [Key(Branch("cond"), OUTPUT)]
    session.begin((first,), 1.0)
    held = session.observe(keys, first)
    torch.testing.assert_close(held, first)
    session.begin((first,), 0.5)
    handed = session.observe(keys, second)
    session.finish(True)
    response = (0.5 - 0.04 * 0.5) / (0.04 * 0.25 + 0.25)
    off = 0.25 * (first - second) / (1 + 0.25 * response)  # trapezoid less what was held
    torch.testing.assert_close(handed, second + response * off - 2 * off)


def test_outputs_that_swing_are_not_corrected_further(monkeypatch):
    """A stiff field, whose outputs turn round at every evaluation."""

    def stiff(x, sigma, condition):
        return 15 * (x - 1)

    def end():
        return error(run(stiff, WAN, flow(20), policy=Planned(mask=every(2, 20)))[0], 1 + 0 * X)

    guarded = end()
    monkeypatch.setattr(integral, "ALWAYS", 99)
    assert guarded < 0.1
    assert end() > 2 * guarded


@pytest.mark.parametrize(
    "case",
    [{"schedule": "heun"}, {"family": None}, {"tap": "stack"}],
    ids=["sampler", "family", "tap"],
)
def test_where_it_is_not_sound_it_does_the_other_and_says_so(case):
    schedule = Schedule(flow(20).sigmas, case.get("schedule", ""))
    family = case.get("family", WAN)
    config = CacheConfig(aim="true", tap=case.get("tap", "output"))
    session = config.start(family, schedule)
    assert any("The aim is the same clip" in text for text in session.report.texts)
    assert not session.course.run.to_truth


@pytest.mark.parametrize(
    ("options", "to_truth"),
    [
        ({}, True),
        ({"budget": 1.0}, False),
        ({"budget": None}, False),
        ({"hindsight": False}, False),
        ({"tap": "stack"}, False),
        ({"policy": Planned(mask=10 * "C.")}, False),
        ({"policy": Interval()}, False),
    ],
    ids=str,
)
def test_what_the_automatic_aim_comes_to(options, to_truth):
    """The true clip where a plan saves evaluations; no word about it where it is not."""
    session = CacheConfig(**options).start(WAN, Schedule(flow(20).sigmas, "euler"))
    assert session.course.run.to_truth is to_truth
    assert any("true clip" in told for told in session.report.texts) is to_truth


def test_an_unknown_aim_is_refused():
    with pytest.raises(ValueError, match="aim must be one of auto, same, true"):
        CacheConfig(aim="best")
