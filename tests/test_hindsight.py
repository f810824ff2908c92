"""Forecasts taken back: exact where theory says so, off where it does not hold."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from toys import COND, UNCOND, WAN, cached_run, curved, noise, observe, predict, report, schedule

from sencache_core import (
    FAMILIES,
    Branch,
    CacheConfig,
    Guards,
    Interval,
    Linear,
    Moments,
    Planned,
    Profile,
    ProfileHeader,
    Quadratic,
    Schedule,
    flow_sigmas,
)
from sencache_core.hosts import loop
from sencache_core.run.facts import Facts
from sencache_core.sampler.schedule import SECOND_AT_NEXT, SECOND_BETWEEN
from sencache_core.sampler.solver import transitions
from sencache_core.types import OUTPUT, Key

COG = FAMILIES["cogvideox"]
STEPS = 20
SHAPE = (1, 2, 3, 4)
MASK = "CC.C..C..." + "C.CC...CCC"


def profile(family, response=None):
    """Moments of nothing in particular; a response that is the same everywhere, or none."""
    t, curves = np.array([0.0, 1.0]), {"alpha_x": np.ones(2), "alpha_t": np.ones(2)}
    told = () if response is None else (np.ones((1, 2)), np.full((1, 2), response))
    return Profile(
        ProfileHeader(family.name), t, curves, moments=Moments(t, np.eye(2)[None], *told)
    )


def config(family=WAN, mask=MASK, response=None, **changes):
    made = CacheConfig(
        policy=Planned(mask=mask),
        rule=Linear(),
        guards=Guards(cooldown=0, longest_run=50),
        profile=profile(family, response),
    )
    return replace(made, **changes)


def angles(sampler):
    """A v-prediction schedule, even in the time coordinate."""
    return Schedule(tuple(COG.sigma(t) for t in np.linspace(0.95, 0, STEPS + 1)), sampler)


def k_diffusion(model, x, sched, conditions, guidance=1.0, runner=None):
    """Euler as ComfyUI runs it on v-prediction: a latent of scale ``sqrt(sigma^2 + 1)``."""
    sigmas = sched.sigmas
    x = x * math.sqrt(sigmas[0] ** 2 + 1)
    for now, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        scale = math.sqrt(now**2 + 1)
        if runner is not None:
            runner.begin((x,), now)
        called = partial(lambda x, s, c, k: model(x / k, s, c), k=scale)
        parts = {
            role: loop._call(called, x, now, Branch(role), condition, runner)
            for role, condition in conditions.items()
        }
        v = parts["cond"]
        if "uncond" in parts:
            v = parts["uncond"] + guidance * (v - parts["uncond"])
        denoised = x / scale**2 - v * now / scale
        x = x + (x - denoised) / now * (after - now)
    if runner is not None:
        runner.finish(True)
    return x


FORMS = {
    "flow euler": (WAN, schedule(STEPS), loop.sample),
    "flow, unnamed": (WAN, Schedule(flow_sigmas(STEPS, 3.0)), loop.sample),
    "v ddim": (COG, angles("ddim"), partial(loop.sample, prediction="v")),
    "v euler": (COG, angles("euler"), k_diffusion),
}
by_form = pytest.mark.parametrize("form", FORMS)


def parabola(family, linear=0.0, seed=11):
    """An output that is quadratic in the time coordinate, and linear in the latent."""
    parts = noise(3, *SHAPE[1:], seed=seed)

    def model(x, sigma, condition):
        t = family.time(sigma)
        return linear * x + (parts[0] + t * parts[1] + 3 * t * t * parts[2])[None] * (1 + condition)

    return model


def run(form, how, model, guidance=1.0):
    family, sched, drive = FORMS[form]
    conditions = {"cond": 0.4} if guidance == 1.0 else {"cond": 0.4, "uncond": 0.0}
    session = how.start(family, sched) if how else None
    return drive(model, noise(*SHAPE), sched, conditions, guidance, session), session


def rms(x):
    return x.square().mean().sqrt().item()


@by_form
@pytest.mark.parametrize("rule", [Linear(), Quadratic()], ids=lambda rule: rule.name)
@pytest.mark.parametrize("policy", [Planned(mask=MASK), Interval(2.0), Interval(4.0)])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_outputs_quadratic_in_time_leave_no_error(form, rule, policy, guidance):
    """Interpolated through three points they are known exactly, whatever was forecast."""
    guards = Guards(warmup=2, cooldown=1, longest_run=50)
    how = config(FORMS[form][0], rule=rule, policy=policy, guards=guards, budget=None)
    model = parabola(FORMS[form][0])
    truth, _ = run(form, None, model, guidance)
    taken, session = run(form, how, model, guidance)
    left, _ = run(form, replace(how, hindsight=False), model, guidance)
    assert session.report.reused >= 8
    assert rms(taken - truth) < 1e-5 * rms(truth)
    if rule.history == 2:
        assert rms(left - truth) > 100 * rms(taken - truth)


@by_form
@pytest.mark.parametrize("response", [-0.4, 0.7])
def test_the_kept_output_is_that_of_the_corrected_latent(form, response):
    """For a model linear in the latent, ``y + kappa D`` is its output at ``x + D``."""
    family, sched, drive = FORMS[form]
    model, steps = parabola(family, response), transitions(family, sched)
    session = config(family, response=response).start(family, sched)
    checked = []

    def watched(x, sigma, condition):
        y = model(x, sigma, condition)
        observe = session.observe

        def look(branches, output, again):
            session.observe = observe
            handed = observe(branches, output, again)
            if handed is not None:
                a, b = steps[session._step.index]
                kept = session.outputs.history.at(Key(COND, OUTPUT))[-1].y
                latent = x * math.sqrt(sigma**2 + 1) if form == "v euler" else x
                latent = latent + (handed - kept) * b / a
                scale = math.sqrt(sigma**2 + 1) if form == "v euler" else 1.0
                expected = model(latent / scale, sigma, condition)
                checked.append(torch.allclose(kept, expected, rtol=1e-3, atol=1e-4))
            return handed

        session.observe = look
        return y

    drive(watched, noise(*SHAPE), sched, {"cond": 0.4}, 1.0, session)
    assert len(checked) == 5  # runs of reuse with an evaluation after them
    assert all(checked)


@by_form
def test_every_step_is_a_x_plus_b_y(form):
    """The transitions are what the sampler does."""
    family, sched, drive = FORMS[form]
    steps, model = transitions(family, sched), parabola(family, 0.3)
    latents, outputs = [], []

    class Look:
        report, awaits = report(), ""

        def begin(self, x, sigma):
            latents.append(x[0].clone())

        def predict(self, branches, shape):
            return None

        def observe(self, branches, y, again):
            outputs.append(y.clone())

        def called(self, branches, share):
            assert share == 1.0

        def finish(self, completed):
            return None

    end = drive(model, noise(*SHAPE), sched, {"cond": 0.4}, 1.0, Look())
    for x, y, after, (a, b) in zip(latents, outputs, [*latents[1:], end], steps, strict=True):
        assert torch.allclose(a * x + b * y, after, rtol=1e-4, atol=1e-5)


@by_form
def test_branches_corrected_apart_make_the_guided_correction(form):
    family = FORMS[form][0]
    model, how = parabola(family, 0.3), config(family, response=0.3)
    apart, session = run(form, how, model, guidance=4.0)

    def guided(x, sigma, condition):
        uncond = model(x, sigma, 0.0)
        return uncond + 4.0 * (model(x, sigma, 0.4) - uncond)

    together, other = run(form, how, guided)
    assert not [m for s in (session, other) for m in s.report.texts if "held" in m]
    assert session.report.reused == other.report.reused == MASK.count(".")
    assert torch.allclose(apart, together, rtol=1e-3, atol=1e-4)


def test_batched_and_split_branches_agree():
    """Each chunk of a call is corrected as if it had been a call of its own."""

    def handed(batched):
        how = config(mask="CC.C", min_steps=1)
        session, out = how.start(WAN, Schedule(flow_sigmas(4))), []
        for k, sigma in enumerate((1.0, 0.75, 0.5, 0.25)):
            y = [noise(*SHAPE, seed=2 * k), noise(*SHAPE, seed=2 * k + 1)]
            session.begin((noise(*SHAPE),), sigma)
            calls = [((COND, UNCOND), torch.cat(y))]
            if not batched:
                calls = [((COND,), y[0]), ((UNCOND,), y[1])]
            for branches, part in calls:
                if predict(session, branches, part.shape) is None:
                    given = observe(session, branches, part, None)
                    out.append(part if given is None else given)
        return torch.cat(out)

    batched, split = handed(True), handed(False)
    assert len(batched) == 2 * 3
    assert torch.equal(batched, split)
    assert not torch.equal(batched[-1], noise(*SHAPE, seed=7)[0])


@by_form
def test_nothing_of_the_callers_is_written_to(form):
    """Latents, outputs and forecasts stay as they were; what is handed on shares no memory."""
    family, sched, drive = FORMS[form]
    session = config(family, response=0.5).start(family, sched)
    kept = []

    def keep(*tensors):
        kept.extend((tensor, tensor.clone()) for tensor in tensors if tensor is not None)

    class Watch:
        report, awaits = session.report, ""

        def begin(self, x, sigma):
            keep(*x)
            session.begin(x, sigma)

        def predict(self, keys, shape):
            out = session.predict(keys, shape)
            keep(out)
            return out

        def observe(self, keys, y, again):
            keep(y)
            out = session.observe(keys, y, again)
            keep(out)
            return out

        def called(self, branches, share):
            session.called(branches, share)

        def finish(self, completed):
            session.finish(completed)

    drive(curved(), noise(*SHAPE), sched, {"cond": 0.4, "uncond": 0.0}, 3.0, Watch())
    assert len(kept) == STEPS * 3 + 2 * 5
    assert all(torch.equal(tensor, before) for tensor, before in kept)
    assert len({tensor.data_ptr() for tensor, _ in kept}) == len(kept)


def test_what_was_handed_on_may_be_overwritten():
    def end(overwrite):
        session = config().start(WAN, schedule(STEPS))
        x, model = noise(*SHAPE), curved()
        for now, after in zip(*(schedule(STEPS).sigmas[k:] for k in (0, 1)), strict=False):
            session.begin((x,), now)
            y = predict(session, (COND,), x.shape)
            if y is None:
                truth = model(x, now, 0.4)
                y = observe(session, (COND,), truth, None)
                y = truth if y is None else y
            x = x + (after - now) * y
            if overwrite:
                y.fill_(math.nan)
        return x

    assert torch.equal(end(True), end(False))


def play_flow(session, sched, on_handed):
    """Euler over a random model of one branch; ``on_handed(k, x, y, handed)`` sees corrections."""
    x = noise(*SHAPE)
    for k, (now, after) in enumerate(zip(sched.sigmas[:-1], sched.sigmas[1:], strict=True)):
        session.begin((x,), now)
        y = predict(session, (COND,), SHAPE)
        if y is None:
            truth = noise(*SHAPE, seed=50 + k)
            y = observe(session, (COND,), truth, None)
            if y is not None:
                on_handed(k, x, truth, y)
            y = truth if y is None else y
        x = x + (after - now) * y
    session.finish(True)


def test_the_clean_latent_of_a_correction_can_be_told():
    """``x0 = x - sigma y`` of what is handed on is off by the correction it carries."""
    sched = schedule(STEPS)
    session, seen = config(response=0.3).start(WAN, sched), []
    offsets = session.keep_offsets()

    def look(k, x, truth, handed):
        ((off, more),) = offsets.values()
        sigma = sched.sigmas[k]
        wanted = (x + off) - sigma * (truth + 0.3 * off)
        mended = (x - sigma * handed) + off - sigma * more
        torch.testing.assert_close(mended, wanted, rtol=1e-4, atol=1e-4)
        seen.append(k)

    play_flow(session, sched, look)
    assert seen and not offsets


def test_an_output_that_was_held_is_taken_back_as_held():
    """The line misled at 0.7, so that at 0.6 the output at 0.7 is held: 1.1, not 1.15."""
    outputs = {0: 0.0, 1: 1.0, 3: 1.1, 5: 2.0}
    session = config(mask="CC.C.CCCCC", min_steps=1).start(WAN, Schedule(flow_sigmas(10)))
    for k, sigma in enumerate(flow_sigmas(10)[:6]):
        session.begin((noise(*SHAPE),), sigma)
        y = predict(session, (COND,), SHAPE)
        if y is None:
            handed = observe(session, (COND,), torch.full(SHAPE, outputs[k]))
    # The parabola through 0.9, 0.7 and 0.5 is -1/8, 3/4 and 3/8 of their outputs at 0.6.
    missed = -1.0 / 8 + 1.1 * 3 / 4 + 2.0 * 3 / 8 - 1.1
    torch.testing.assert_close(handed, torch.full(SHAPE, 2.0 + missed))


@pytest.mark.parametrize("seen", [False, True])
def test_a_stage_whose_last_clean_latent_is_seen_ends_with_the_true_output(seen):
    sched, corrected = Schedule(flow_sigmas(STEPS)[:13], "euler"), []
    session = config(mask="CC.CCC.CCC.C").start(WAN, sched, facts=Facts(x0_seen=seen))
    play_flow(session, sched, lambda k, *_: corrected.append(k))
    assert corrected == ([3, 7] if seen else [3, 7, 11])


@pytest.mark.parametrize("away", [False, True])
def test_a_pair_is_corrected_as_a_whole_or_not_at_all(away):
    """One branch had forecasts in a part of the skipped rounds only: half a correction is none."""
    session, corrected = config(mask="CC..C" + "C" * 15).start(WAN, schedule(STEPS)), set()
    for k, sigma in enumerate(schedule(STEPS).sigmas[:5]):
        session.begin((noise(*SHAPE),), sigma)
        for branch in (COND, UNCOND):
            if away and branch is UNCOND and k == 3:
                continue
            given = predict(session, (branch,), SHAPE)
            handed = None if given is not None else observe(session, (branch,), noise(*SHAPE), None)
            corrected |= {(k, branch)} if handed is not None else set()
    assert corrected == (set() if away else {(4, COND), (4, UNCOND)})


def test_a_new_prompt_in_a_run_of_reuse_spoils_its_correction():
    """The other branch of the pair is forecast on, and neither is taken back."""
    session, other = config(mask="CC...CC..C").start(WAN, schedule(10)), Branch("cond", "other")
    handed = {}
    for k, sigma in enumerate(schedule(10).sigmas[:10]):
        session.begin((noise(*SHAPE),), sigma)
        for branch in (COND if k < 3 else other, UNCOND):
            if predict(session, (branch,), SHAPE) is None:
                y = noise(*SHAPE, seed=k)
                handed[k, branch] = observe(session, (branch,), y, None) is not None
    computed = {k: [on for (j, _), on in handed.items() if j == k] for k, _ in handed}
    assert computed[3] == [False]  # the new prompt's first output, in a round of reuse
    assert computed[5] == [False, False] and computed[9] == [True, True]


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("cond_first", [False, True])
def test_a_new_prompt_that_ends_a_run_of_reuse_leaves_its_pair_alone(told, cond_first):
    """The unconditional branch was forecast on; corrected alone it would weigh three times."""
    session, other = config(mask="CC..C" + "C" * 5).start(WAN, schedule(10)), Branch("cond", "b")
    handed = []
    for k, sigma in enumerate(schedule(10).sigmas[:5]):
        session.begin((noise(*SHAPE),), sigma)
        if told and k == 4:
            session.branches_changed()
        pair = [COND if k < 4 else other, UNCOND]
        for branch in pair if cond_first else reversed(pair):
            if predict(session, (branch,), SHAPE) is None:
                handed.append(observe(session, (branch,), noise(*SHAPE, seed=k), None) is not None)
    assert not any(handed[:-2])
    assert any(handed[-2:]) == (not told and not cond_first)  # unforeseen: it is handed on by then


OTHERS = (
    "uni_pc",
    "uni_pc_bh2",
    "dpmpp_2m",
    "lms",
    "ipndm",
    "deis",
    "res_multistep",
    "ddpm",
    "lcm",
)
OTHERS += ("euler_ancestral", "euler_cfg_pp", "dpmpp_2m_sde", "er_sde", "unheard_of")


@pytest.mark.parametrize("family", [WAN, COG], ids=lambda family: family.name)
@pytest.mark.parametrize("sampler", [*OTHERS, *sorted(SECOND_AT_NEXT | SECOND_BETWEEN)])
def test_off_for_samplers_of_another_form(family, sampler):
    sched = Schedule(schedule(STEPS).sigmas, sampler)
    assert transitions(family, sched) is None
    session = CacheConfig(budget=0.5).start(family, sched)
    for k, sigma in enumerate(sched.rounds):
        session.begin((noise(*SHAPE, seed=k),), sigma)
        if predict(session, (COND,), SHAPE) is None:
            assert observe(session, (COND,), noise(*SHAPE) * (1 + k / 9), None) is None
    assert session.finish(True).reused


@pytest.mark.parametrize(
    "changes",
    [{"tap": "stack"}, {"hindsight": False}],
    ids=["stack tap", "switched off"],
)
def test_off_where_the_sampler_does_not_step_with_the_payload(changes):
    session = CacheConfig(**changes).start(WAN, schedule(STEPS))
    assert not session.outputs.hindsight.on
    assert session.course.run.transitions is None


@pytest.mark.parametrize(
    "sched",
    [
        Schedule(flow_sigmas(STEPS), "euler", assumed=True),
        Schedule((0.2, 0.5, 0.8, 1.0), "euler"),
    ],
    ids=["assumed", "rising"],
)
def test_off_where_the_steps_are_not_known(sched):
    assert transitions(WAN, sched) is None


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_holds_at_most_three_latents_a_branch(guidance):
    """Two true outputs by default, whether or not forecasts are taken back, and one sketch."""
    x = noise(1, 8, 30, 30)
    for budget in (0.2, 0.5, 0.9):
        _, report = cached_run(CacheConfig(budget=budget), schedule(), x=x, guidance=guidance)
        branches = 1 if guidance == 1.0 else 2
        assert report.history_bytes <= (3 * branches + 1) * x.nbytes


@pytest.mark.parametrize("response", [-4.0, 3.0])
def test_what_is_taken_back_is_solved_for_with_the_response(response):
    """The last output moves with the correction, and the interpolation reads it: a fixed point."""
    sched = Schedule(flow_sigmas(4), "euler")
    times, x = sched.sigmas, noise(*SHAPE)
    model = parabola(WAN, response)
    y = [model(x, times[0], 0.4)]
    x = x + (times[1] - times[0]) * y[0]
    y.append(model(x, times[1], 0.4))
    x = x + (times[2] - times[1]) * y[1]
    ahead = 2 * y[1] - y[0]  # the line, on even times
    x, step = x + (times[3] - times[2]) * ahead, times[3] - times[2]
    off = torch.zeros_like(x)
    for _ in range(60):
        answer = model(x + off, times[3], 0.4)
        between = -y[0] / 3 + y[1] + answer / 3  # the parabola through 1, 3/4 and 1/4, at 1/2
        off = step * (between - ahead)
    assert rms(off) > 1e-2
    expected = x + off + (times[4] - times[3]) * model(x + off, times[3], 0.4)
    session = config(mask="CC.C", min_steps=1, response=response).start(WAN, sched)
    final = loop.sample(model, noise(*SHAPE), sched, {"cond": 0.4}, 1.0, session)
    assert torch.allclose(final, expected, rtol=1e-4, atol=1e-4)
