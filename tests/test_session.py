"""The caching run: who is computed, what is kept, what the report says."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from toys import COND, UNCOND, WAN, Counted, cached_run, curved, noise, observe, predict, schedule

from sencache_core import (
    FAMILIES,
    REUSE_RULES,
    Branch,
    CacheConfig,
    Fitted,
    Guards,
    Hold,
    Interval,
    Linear,
    Profile,
    ProfileError,
    ProfileHeader,
    Quadratic,
    Schedule,
    SenCache,
)
from sencache_core.hosts import loop
from sencache_core.run.facts import Facts
from sencache_core.types import NONE, OUTPUT, Reason

#: Reuses wherever the guards allow it.
EAGER = CacheConfig(
    policy=SenCache(1e9, 1e9),
    rule=Linear(),
    guards=Guards(longest_run=50, cooldown=0),
    budget=None,
    hindsight=False,
)
SHAPE = (1, 2, 3, 4)


def started(config=EAGER, steps=10, sampler="euler"):
    return config.start(WAN, schedule(steps, 1.0, sampler))


def mended():
    """Forecasts may give way to holding; with this sampler none is taken back."""
    guards = Guards(warmup=2, longest_run=1)
    return started(replace(EAGER, hindsight=True, guards=guards), sampler="dpmpp_2m")


def play(session, sigma, outputs, x=None):
    """One round of split calls; ``outputs`` by branch. Returns what the host would use."""
    session.begin((noise(*SHAPE) if x is None else x,), sigma)
    used = {}
    for branch, y in outputs.items():
        forecast = predict(session, (branch,), y.shape)
        if forecast is None:
            observe(session, (branch,), y, lambda s: None)
        used[branch] = y if forecast is None else forecast
    return used


def test_split_and_batched_guidance_agree():
    def run(batched):
        session, outputs = started(replace(EAGER, guards=Guards(longest_run=1))), []
        for k, sigma in enumerate((1.0, 0.9, 0.8, 0.7, 0.6)):
            cond, uncond = noise(*SHAPE, seed=2 * k), noise(*SHAPE, seed=2 * k + 1)
            if batched:
                session.begin((noise(*SHAPE),), sigma)
                y = predict(session, (COND, UNCOND), (2, *SHAPE[1:]))
                if y is None:
                    y = torch.cat([cond, uncond])
                    observe(session, (COND, UNCOND), y, lambda s: None)
                outputs.append(y)
            else:
                outputs.append(
                    torch.cat([*play(session, sigma, {COND: cond, UNCOND: uncond}).values()])
                )
        return outputs, session.finish(True)

    (split, one), (batched, two) = run(False), run(True)
    assert all(torch.equal(a, b) for a, b in zip(split, batched, strict=True))
    assert (one.calls, one.calls_saved) == (6, 4)
    assert (two.calls, two.calls_saved) == (3, 2)
    assert one.evaluations == two.evaluations == 3


def test_chunks_hold_whole_batches():
    """Dim 0 of a batched call is branches times batch items, in that order."""
    session = started(replace(EAGER, rule=Hold()))
    y = torch.arange(4.0).reshape(4, 1).expand(4, 5)
    session.begin((noise(2, 5),), 1.0)
    observe(session, (COND, UNCOND), y, lambda s: None)
    session.begin((noise(2, 5),), 0.9)
    assert torch.equal(predict(session, (UNCOND,), (2, 5)), y[2:])
    assert torch.equal(predict(session, (UNCOND, COND), (4, 5)), torch.cat([y[2:], y[:2]]))


def test_a_branch_that_appears_in_mid_run_is_computed():
    session = started()
    late = Branch("cond", "late")
    play(session, 1.0, {COND: noise(*SHAPE)})
    truth = noise(*SHAPE, seed=5)
    used = play(session, 0.9, {COND: noise(*SHAPE, seed=1), late: truth})
    assert used[late] is truth
    assert used[COND] is not truth
    assert session.report.steps[1].decision == "reused"
    assert (session.report.calls, session.report.calls_saved) == (2, 1)
    again = play(session, 0.8, {COND: noise(*SHAPE), late: noise(*SHAPE, seed=6)})
    assert torch.equal(again[late], truth)


def test_a_branch_that_missed_the_last_evaluation_is_computed():
    """A guidance with two ranges must not be forecast from before the gap."""
    session = started(replace(EAGER, guards=Guards(warmup=3, longest_run=9)))
    extra = Branch("uncond", "extra")
    play(session, 1.0, {COND: noise(*SHAPE), extra: noise(*SHAPE)})
    play(session, 0.9, {COND: noise(*SHAPE, seed=1)})
    play(session, 0.8, {COND: noise(*SHAPE, seed=2)})
    truth = noise(*SHAPE, seed=3)
    assert play(session, 0.7, {COND: noise(*SHAPE), extra: truth})[extra] is truth


def test_anchors_of_equal_time_are_replaced():
    """Heun asks twice at one sigma; a line through both would divide by zero."""
    sched = Schedule((1.0, 0.8, 0.6, 0.4, 0.2, 0.0))
    session = replace(EAGER, guards=Guards(warmup=3), min_steps=1).start(WAN, sched)
    first, rough, better = (noise(*SHAPE, seed=k) for k in range(3))
    play(session, 1.0, {COND: first})
    play(session, 0.8, {COND: rough})
    play(session, 0.8, {COND: better})
    forecast = play(session, 0.6, {COND: noise(*SHAPE)})[COND]
    assert torch.allclose(forecast, better + (better - first), atol=1e-6)


def test_a_changed_shape_is_computed_and_said():
    session = started()
    play(session, 1.0, {COND: noise(*SHAPE)})
    larger = noise(1, 2, 6, 8)
    assert play(session, 0.9, {COND: larger}, x=larger)[COND] is larger
    record = session.report.steps[-1]
    assert (record.decision, record.reason) == ("forced", Reason.CHANGED.value)
    assert play(session, 0.8, {COND: noise(1, 2, 6, 8)}, x=larger)[COND].shape == larger.shape
    assert session.report.steps[-1].decision == "reused"


def test_a_payload_of_another_shape_is_computed():
    session = started()
    play(session, 1.0, {COND: noise(*SHAPE)})
    other = noise(1, 2, 5, 5)
    assert play(session, 0.9, {COND: other})[COND] is other
    report = session.finish(True)
    assert (report.evaluations, report.reused) == (2, 0)
    assert report.steps[-1].reason == Reason.NO_HISTORY.value


def test_rising_time_drops_the_history():
    sched = Schedule((0.6, 0.5, 0.4, 0.2, 0.0))
    guards = Guards(warmup=2, longest_run=50)
    session = replace(EAGER, guards=guards, min_steps=1).start(WAN, sched)
    play(session, 0.6, {COND: noise(*SHAPE)})
    play(session, 0.5, {COND: noise(*SHAPE, seed=1)})
    fresh = noise(*SHAPE, seed=2)
    assert play(session, 0.9, {COND: fresh})[COND] is fresh
    assert session.report.steps[-1].reason == Reason.TIME_ROSE.value
    assert torch.equal(play(session, 0.8, {COND: noise(*SHAPE)})[COND], fresh)


def test_the_callers_tensors_are_neither_kept_nor_written():
    session = started(replace(EAGER, rule=Hold()))
    x, y = noise(*SHAPE), noise(*SHAPE, seed=1)
    kept = x.clone(), y.clone()
    play(session, 1.0, {COND: y}, x=x)
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])
    y.zero_()
    assert torch.equal(play(session, 0.9, {COND: noise(*SHAPE)}, x=x)[COND], kept[1])


@pytest.mark.parametrize("hindsight", [False, True])
@pytest.mark.parametrize("name", REUSE_RULES)
def test_memory_is_bounded(name, hindsight):
    """At most ``history`` outputs a branch, and one sketch of the latent."""
    rule = REUSE_RULES[name]()
    x = noise(1, 8, 10, 10)
    config = CacheConfig(rule=rule, budget=0.7, hindsight=hindsight)
    _, report = cached_run(config, schedule(20), x=x, guidance=3.0)
    assert report.history_bytes == (2 * min(rule.history, report.evaluations) + 1) * x.nbytes


def test_payload_keeps_its_dtype():
    session = started(replace(EAGER, rule=Quadratic(), guards=Guards(warmup=3, longest_run=9)))
    for k, sigma in enumerate((1.0, 0.9, 0.8)):
        play(session, sigma, {COND: noise(*SHAPE, seed=k).bfloat16()})
    assert play(session, 0.7, {COND: noise(*SHAPE).bfloat16()})[COND].dtype == torch.bfloat16
    assert session.finish(True).history_bytes == 3 * 24 * 2 + 24 * 4


def test_finish_drops_every_tensor():
    session = started()
    play(session, 1.0, {COND: noise(*SHAPE), UNCOND: noise(*SHAPE)})
    play(session, 0.9, {COND: noise(*SHAPE), UNCOND: noise(*SHAPE)})
    held = [weakref.ref(a.y) for h in session.outputs.history.of(OUTPUT).values() for a in h]
    held += [weakref.ref(part) for part in session.course.last.x]
    assert len(held) == 3
    session.finish(True)
    gc.collect()
    assert all(ref() is None for ref in held)
    assert not any(isinstance(o, torch.Tensor) for o in gc.get_referents(vars(session)))


def test_measured_error_is_the_forecasts():
    """|2 y1 - y0 - truth| / |truth| by hand, for a line at even spacing."""
    session = started(replace(EAGER, guards=Guards(warmup=3)))
    values = [torch.full(SHAPE, v) for v in (1.0, 3.0, 4.0)]
    for sigma, y in zip((1.0, 0.9, 0.8), values, strict=True):
        play(session, sigma, {UNCOND: -y, COND: y})
    errors = [r.error for r in session.finish(True).steps]
    assert errors[0] is None
    assert errors[1] == pytest.approx(abs(1 - 3) / 3)
    assert errors[2] == pytest.approx(abs(5 - 4) / 4, rel=1e-5)


def test_the_first_conditional_branch_leads():
    """Also where the host runs the unconditional call first, or with it."""
    session = started(replace(EAGER, guards=Guards(warmup=2)))
    for sigma in (1.0, 0.9):
        y = torch.cat([torch.full(SHAPE, sigma), torch.ones(SHAPE)])
        session.begin((noise(*SHAPE),), sigma)
        observe(session, (UNCOND, COND), y, lambda s: None)
    assert session.finish(True).steps[1].error == 0.0


def test_an_interrupted_run_says_so_and_leaves_nothing():
    def failing(x, sigma, condition):
        if model.calls > 6:
            raise KeyboardInterrupt
        return x

    model = Counted(failing)
    session = CacheConfig().start(WAN, schedule(20))
    with pytest.raises(KeyboardInterrupt):
        loop.sample(model, noise(*SHAPE), schedule(20), {"cond": None}, runner=session)
    assert session.report.completed is False
    assert not session.outputs.history.of(OUTPUT) and not session.outputs.history.nbytes
    assert not any("Nothing was skipped" in m for m in session.report.texts)


def test_a_run_without_reuse_says_why():
    _, report = cached_run(CacheConfig(policy=SenCache(1e-9, 1e-9), budget=None), schedule(20))
    assert report.completed
    (said,) = [m for m in report.texts if "Nothing was skipped" in m]
    closest = min(r.score for r in report.steps if r.score is not None)
    assert f"{closest:.3g}" in said


def test_calls_are_what_the_model_ran():
    model = curved()
    _, report = cached_run(CacheConfig(budget=0.5), schedule(20), model, guidance=3.0)
    assert report.calls == model.calls == 20
    assert report.calls_saved == 20
    assert sum(r.calls for r in report.steps) == report.calls
    assert len(report.steps) == 20
    assert report.evaluations == 10


def test_a_call_without_payload_is_counted():
    session = started()
    session.begin((noise(*SHAPE),), 1.0)
    observe(session, (COND,), None, lambda s: None)
    session.begin((noise(*SHAPE),), 0.9)
    assert predict(session, (COND,), SHAPE) is None
    assert session.report.calls == 1


def test_sigma_may_be_a_tensor():
    session = started()
    session.begin((noise(*SHAPE),), torch.tensor([1.0, 1.0]))
    observe(session, (COND,), noise(*SHAPE), lambda s: None)
    session.begin((noise(*SHAPE, seed=1),), torch.tensor([0.9]))
    assert [r.sigma for r in session.report.steps] == pytest.approx([1.0, 0.9])


def test_a_moved_latent_is_measured_over_modalities():
    session = started(replace(EAGER, budget=None))
    video, audio = noise(1, 50), noise(1, 9)
    session.begin((video, audio), 1.0)
    observe(session, (COND,), noise(*SHAPE), lambda s: None)
    session.begin((video, audio + 0.7), 0.9)
    assert session._step.moved == pytest.approx(0.7, rel=1e-5)


def test_scale_free_families_ignore_the_latents_scale():
    def score(scale):
        session = EAGER.start(FAMILIES["cogvideox"], schedule(20))
        session.begin((noise(*SHAPE) * scale,), 5.0)
        observe(session, (COND,), noise(*SHAPE), lambda s: None)
        session.begin((noise(*SHAPE, seed=1) * scale,), 4.0)
        return session.report.steps[-1].score

    assert score(1.0) == pytest.approx(score(80.0), rel=1e-5)


def test_profile_of_another_family_is_refused_and_notes_are_passed_on():
    import numpy as np

    curves = {"alpha_x": np.ones(2), "alpha_t": np.ones(2)}
    profile = Profile(ProfileHeader("wan", sampler="euler"), np.array([0.1, 1.0]), curves)
    config = replace(EAGER, profile=profile, rule=Linear())
    with pytest.raises(ProfileError, match="measured on wan"):
        config.start(FAMILIES["ltx"], schedule(), ProfileHeader("ltx"))
    session = config.start(WAN, schedule(), ProfileHeader("wan", sampler="uni_pc"))
    assert any("measured with euler, this is uni_pc" in m for m in session.report.texts)


def test_a_rule_that_misleads_is_held_until_it_does_not():
    """One jump after a slope: the line overshoots by far more than the last output misses."""
    outputs = {1.0: 0.0, 0.9: 1.0, 0.7: 1.1, 0.5: 1.2, 0.4: 1.3}
    session = mended()
    seen = []
    for sigma in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.45):
        session.begin((torch.zeros(1, 4) + sigma,), sigma)
        y = predict(session, (Branch("cond"),), (1, 4))
        if y is None:
            y = torch.full((1, 4), outputs[sigma])
            observe(session, (Branch("cond"),), y, None)
        seen.append(round(float(y[0, 0]), 4))
    report = session.finish(True)
    # 0.8 follows the line (2.0). At 0.7 the line says 3.0 and the truth is 1.1: 0.6 is held. At 0.5
    # the line would have been right again, so 0.45 follows it.
    assert seen == [0.0, 1.0, 2.0, 1.1, 1.1, 1.2, 1.225]
    assert any("held" in message for message in report.texts)


@pytest.mark.parametrize(("truth", "followed"), [(1.9, 2.35), (1.8, 1.8)])
def test_a_forecast_may_err_a_little_more_than_holding(truth, followed):
    """At 0.7 the line says 3.0 and the last output 1.0: it errs 1.2 or 1.5 times as much."""
    outputs = {1.0: 0.0, 0.9: 1.0, 0.7: truth}
    session = mended()
    for sigma in (1.0, 0.9, 0.8, 0.7, 0.6):
        session.begin((torch.zeros(1, 4) + sigma,), sigma)
        y = predict(session, (COND,), (1, 4))
        if y is None:
            observe(session, (COND,), torch.full((1, 4), outputs[sigma]))
    assert y[0, 0].item() == pytest.approx(followed)


def test_without_hindsight_a_rule_is_followed_wherever_it_leads():
    """As methods of others have it: what erred at 0.7 goes on at 0.6."""
    session = started(replace(EAGER, guards=Guards(warmup=2, longest_run=1)))
    for sigma, output in ((1.0, 0.0), (0.9, 1.0), (0.8, None), (0.7, 1.1), (0.6, None)):
        session.begin((torch.zeros(1, 4) + sigma,), sigma)
        y = predict(session, (COND,), (1, 4))
        if y is None:
            observe(session, (COND,), torch.full((1, 4), output))
    assert y[0, 0].item() == pytest.approx(1.15)
    assert not any("held" in message for message in session.report.texts)


def test_errors_are_measured_on_another_branch_once_the_first_is_gone():
    """A prompt schedule: the new prompt's errors count from its second output on."""
    session, other = started(replace(EAGER, guards=Guards(warmup=6))), Branch("cond", "other")
    sigmas, values = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5), (1.0, 2.0, 3.0, 8.0, 10.0, 16.0)
    for k, (sigma, value) in enumerate(zip(sigmas, values, strict=True)):
        play(session, sigma, {COND if k < 3 else other: torch.full(SHAPE, value)})
    errors = [r.error for r in session.finish(True).steps]
    assert errors[0] is None and errors[3] is None
    # Held, then the line: 1 for 2 and 3 for 3; 8 for 10 and 12 for 16.
    assert [errors[k] for k in (1, 2, 4, 5)] == pytest.approx([0.5, 0, 0.2, 0.25], abs=1e-5)


def test_one_forecast_that_says_nothing_does_not_end_the_caching():
    """The outputs jump once to their opposite: held, the last one errs by twice their size."""

    def jumps(x, sigma, condition):
        return torch.ones_like(x) if sigma > 0.6 else -torch.ones_like(x)

    config, sched = CacheConfig(Interval(2.0), Hold(), budget=0.5), schedule(20, shift=1.0)
    session = config.start(WAN, sched, facts=Facts(guided=False))
    loop.sample(jumps, noise(*SHAPE), sched, {"cond": None}, runner=session)
    report = session.report
    assert max(r.error for r in report.steps if r.error is not None) == pytest.approx(2.0)
    assert report.evaluations == 10
    assert Reason.HOPELESS.value not in {r.reason for r in report.steps}


@pytest.mark.parametrize("rule", [Linear(), Quadratic()])
def test_outputs_beside_each_other_by_rounding_make_no_line(rule):
    """float32 brings a sampler back to a noise level 6e-8 beside it."""
    guards = Guards(warmup=3, longest_run=9, cooldown=0)
    session = started(replace(EAGER, rule=rule, guards=guards))
    for k, sigma in enumerate((0.9, 0.8, 0.8 - 6e-8)):
        play(session, sigma, {COND: noise(*SHAPE, seed=k)})
    forecast = play(session, 0.7, {COND: noise(*SHAPE)})[COND]
    assert session.report.steps[-1].decision == "reused"
    assert forecast.abs().max() < 20


def test_calls_that_could_not_be_spared_are_paid_for_and_told():
    """Half of every round is new, as with a LoRA whose strength changes at every step."""
    sched, x = schedule(20), noise(*SHAPE)
    session = CacheConfig(budget=0.5).start(WAN, sched)
    for k, sigma in enumerate(sched.sigmas[:-1]):
        play(session, sigma, {COND: x, Branch("uncond", k): x}, x)
    report = session.finish(True)
    computed = sum(step.cost == 1 for step in report.steps)
    assert computed < 10 and report.cost < 0.75
    assert any("10 were asked for" in said and "LoRA" in said for said in report.texts)


def test_what_ran_in_rounds_of_reuse_is_paid_for_once():
    """One of two branches is new in each of the first four: two evaluations' worth in all."""
    sched, x, spared = schedule(40), noise(*SHAPE), 0
    session = CacheConfig(budget=0.5).start(WAN, sched)
    for k, sigma in enumerate(sched.sigmas[:-1]):
        reused = session.begin((x,), sigma).compute is NONE
        other = Branch("uncond", k if reused and spared < 4 else None)
        spared += reused
        for branch in (COND, other):
            if predict(session, (branch,), SHAPE) is None:
                observe(session, (branch,), x)
    report = session.finish(True)
    computed = sum(record.cost == 1 for record in report.steps)
    assert (computed, sum(record.cost for record in report.steps)) == (18, 20.0)


@pytest.mark.parametrize("rule", [Fitted(), Hold()])
def test_after_a_change_of_prompt_the_rest_is_planned_anew(rule):
    """From one output of the new prompt there is only holding, which the plan did not expect."""
    sched, x, changed, found = schedule(20), noise(*SHAPE), None, []
    session = CacheConfig(budget=0.5, rule=rule).start(WAN, sched)
    for k, sigma in enumerate(sched.sigmas[:-1]):
        reused = session.begin((x,), sigma).compute is NONE
        found += [k] if session._step.anew else []
        if k > 8 and not reused and changed is None:
            changed = k
        for branch in (COND if changed is None else Branch("cond", 9), UNCOND):
            if predict(session, (branch,), SHAPE) is None:
                observe(session, (branch,), x)
    report = session.finish(True)
    computed = [record.ordinal for record in report.steps if record.decision != "reused"]
    after = next(k for k in computed if k > changed)
    assert found == ([1, *range(changed + 1, after + 1)] if rule.history > 1 else [])
    assert len(computed) == 10
