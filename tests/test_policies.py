"""What every policy must keep, and what each of them promises."""

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import (
    COND,
    WAN,
    Stacked,
    cached_run,
    curved,
    half_up,
    noise,
    observe,
    plain_run,
    run_info,
    schedule,
    toy_signal,
)

from sencache_core import POLICIES, CacheConfig, CfgCache, Guards, Interval, Planned, SenCache
from sencache_core.config import DEFAULT_GUARDS
from sencache_core.hosts import loop
from sencache_core.model.families import GENERIC
from sencache_core.policies import Guarded, Policy, RunInfo, Threshold
from sencache_core.policies.layered import LayerSchedule
from sencache_core.policies.partial import Partial, PartialBlocks
from sencache_core.policies.probing import Probing
from sencache_core.run.facts import Facts
from sencache_core.types import ALL, NONE, Decision, Look, Reason, Step

by_policy = pytest.mark.parametrize("name", POLICIES)
#: Those that can spend any share of the evaluations, with guidance or without.
BUDGETED = [
    name
    for name, cls in POLICIES.items()
    if name != "off" and not issubclass(cls, Partial | Probing | LayerSchedule)
]
#: Those that run some blocks at every round, and look at what they do.
PROBING = [name for name, cls in POLICIES.items() if issubclass(cls, Probing)]
#: Those that run some blocks at every round.
IN_PART = [name for name, cls in POLICIES.items() if issubclass(cls, Probing | PartialBlocks)]
THRESHOLDS = [name for name, cls in POLICIES.items() if issubclass(cls, Threshold)]
#: Those whose score follows from the way since the last evaluation alone.
BLIND = [n for n in THRESHOLDS if isinstance(POLICIES[n]().start(run_info()), RunInfo)]


def example(policy: type[Policy], kind: str) -> Policy:
    """The policy at the setting that its fields call ``"strictest"`` or ``"loose"``."""
    own = {f.name: f.metadata[kind] for f in fields(policy) if kind in f.metadata}
    if kind == "strictest" and "mask" in own:
        own["mask"] *= 20
    return policy(**own)


#: The setting of each policy at which it never reuses, and one at which it does.
STRICTEST = {name: example(policy, "strictest") for name, policy in POLICIES.items()}
LOOSE = {name: example(policy, "loose") for name, policy in POLICIES.items()}


def step(t: float, moved: float = 0.1, **changes) -> Step:
    x = (noise(1, 8),)
    look = Look(COND, noise(1, 8, seed=1) + moved)
    return replace(Step(x, moved, t, t, index=10, num_steps=20, ordinal=10, look=look), **changes)


def decided(policy: Policy, now: Step, last: Step) -> Decision:
    """What ``policy`` decides right after the evaluation ``last``."""
    return policy.decide(now, last, policy.observe(last, policy.start(run_info())))[0]


def evaluations(config, sched):
    return cached_run(config, sched, x=noise(1, 8))[1].evaluations


@by_policy
def test_names_and_options(name):
    policy = POLICIES[name]()
    assert policy.name == name
    assert policy.title
    for option in fields(policy):
        if option.metadata.get("hidden"):
            continue
        assert option.metadata["help"], option.name
        if isinstance(option.default, bool | str):
            continue
        assert {"min", "max", "step"} <= option.metadata.keys(), option.name
        assert option.metadata["min"] <= option.default <= option.metadata["max"]


@by_policy
@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_strictest_setting_is_bit_identical(name, sampler, guidance):
    sched = schedule(sampler=sampler)
    policy = STRICTEST[name]
    if name == "planned":
        policy = Planned(mask="C" * len(sched.rounds))
    config = CacheConfig(policy=policy, budget=None)
    out, report = cached_run(config, sched, guidance=guidance)
    assert report.reused == 0
    assert torch.equal(out, plain_run(sched, guidance=guidance))


@by_policy
def test_budget_one_is_bit_identical(name):
    sched = schedule()
    out, report = cached_run(CacheConfig(policy=LOOSE[name], budget=1.0), sched, guidance=4.0)
    assert report.reused == 0
    assert torch.equal(out, plain_run(sched, guidance=4.0))


@by_policy
def test_decisions_leave_their_input_alone(name):
    policy, run = LOOSE[name], run_info()
    now, last = step(0.5, ordinal=5), step(0.6, ordinal=0)
    before = [now.x[0].clone(), last.x[0].clone()]
    state = policy.observe(last, policy.start(run))
    _, state = policy.decide(now, last, state)
    policy.observe(now, state)
    assert torch.equal(now.x[0], before[0])
    assert torch.equal(last.x[0], before[1])


@by_policy
def test_two_runs_share_nothing(name):
    config, sched = CacheConfig(policy=LOOSE[name], budget=0.5), schedule()
    first, one = cached_run(config, sched, guidance=3.0)
    second, two = cached_run(config, sched, guidance=3.0)
    assert torch.equal(first, second)
    assert [r.decision for r in one.steps] == [r.decision for r in two.steps]


@pytest.mark.parametrize("name", THRESHOLDS)
@given(
    last=st.floats(0.1, 1.0),
    back=st.floats(0.0, 0.09),
    moved=st.floats(0, 3),
    tolerances=st.tuples(st.floats(0, 5), st.floats(0, 5)),
    index=st.integers(0, 19),
)
def test_looser_tolerance_never_computes_more(name, last, back, moved, tolerances, index):
    """For one fixed anchor. Over a whole run anchors move, and so this need not hold."""
    strict, loose = (POLICIES[name]().with_tolerance(t) for t in sorted(tolerances))
    now, anchor = step(last - back, moved, index=index), step(last)
    assert [decided(p, now, anchor).compute is NONE for p in (strict, loose)] != [True, False]


@pytest.mark.parametrize("name", THRESHOLDS)
def test_comparison_is_strict(name):
    """A latent that stands still scores 0, and a tolerance of 0 still computes it."""
    policy = STRICTEST[name]
    decision = decided(policy, step(0.5, moved=0.0), step(0.5, moved=0.0))
    assert (decision.compute, decision.score) == (ALL, 0.0)


def test_sencache_score_is_the_papers():
    """S = alpha_x RMS(dx) + alpha_t |dt|, both alphas read at the anchor."""
    alpha_x, alpha_t, _ = WAN.prior(0.8)
    decision, _ = SenCache(0.7, 0.1).decide(step(0.75, 0.3), step(0.8), run_info())
    assert decision.score == pytest.approx(alpha_x * 0.3 + alpha_t * 0.05)
    assert decision.limit == 0.7


def test_sencache_is_stricter_early():
    policy = SenCache(0.7, 0.1, early_share=0.2)
    limits = [policy.decide(step(0.5, index=i), step(0.5), run_info())[0].limit for i in range(20)]
    assert limits == [0.1] * 4 + [0.7] * 16


def test_sencache_tolerance_keeps_the_ratio():
    assert SenCache(0.5, 0.05).with_tolerance(1.0) == SenCache(1.0, 0.1)
    assert SenCache(0.0, 0.0).with_tolerance(1.0).early_tolerance == 0


@pytest.mark.parametrize("steps", [10, 20, 50])
@pytest.mark.parametrize("interval", [1, 1.5, 2, 2.5, 3])
def test_interval_is_even(steps, interval):
    guards = Guards(longest_run=steps)
    config = CacheConfig(policy=Interval(interval), guards=guards, budget=None)
    report = cached_run(config, schedule(steps))[1]
    computed = [r.ordinal for r in report.steps[:-1] if r.decision != "reused"]
    gaps = [b - a for a, b in zip(computed[:-1], computed[1:], strict=True)]
    assert max(gaps) - min(gaps) <= 1
    assert sum(gaps) / len(gaps) == pytest.approx(interval, abs=1 / len(gaps))


@pytest.mark.parametrize("name", BUDGETED)
@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("steps", [20, 50])
def test_budgets_are_met_exactly(name, sampler, steps):
    for first, shift in ((20, 1.0), (25, 8.0)):
        sched = schedule(steps, shift, sampler)
        rounds = len(sched.rounds)
        for percent in range(first, 101, 10):
            config = CacheConfig(policy=LOOSE[name], budget=percent / 100)
            assert evaluations(config, sched) == half_up(percent / 100 * rounds), (shift, percent)


@pytest.mark.parametrize("name", BUDGETED)
@settings(max_examples=40)
@given(data=st.data())
def test_budgets_are_met_under_any_guards(name, data):
    steps = data.draw(st.integers(10, 40))
    guards = Guards(
        warmup=data.draw(st.integers(1, 6)),
        cooldown=data.draw(st.integers(0, 4)),
        longest_run=data.draw(st.integers(1, 6)),
        start=data.draw(st.floats(0, 0.4)),
        end=data.draw(st.floats(0.6, 1)),
    )
    budget = data.draw(st.floats(0.15, 1))
    sched = schedule(steps, data.draw(st.floats(1, 12)))
    report = cached_run(CacheConfig(policy=LOOSE[name], guards=guards, budget=budget), sched)[1]
    asked = half_up(budget * steps)
    fitted = LOOSE[name].fit_guards(guards, asked, run_info(sched))
    forced = fitted.fewest(sched.steps(), steps)
    assert report.evaluations == max(asked, forced)
    assert any("cannot be met" in m for m in report.texts) == (forced > asked)


@pytest.mark.parametrize("name", IN_PART)
@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("steps", [20, 50])
def test_budgets_count_the_blocks_that_always_run(name, sampler, steps):
    """What is spent is the nearest below that full evaluations allow."""
    policy = LOOSE[name]
    share = policy.share_in(run_info(blocks=Stacked.DEPTH))
    assert 0 < share < 1
    for first, shift in ((10, 1.0), (25, 8.0)):
        sched = schedule(steps, shift, sampler)
        rounds = len(sched.rounds)
        for percent in range(first, 101, 30):
            config = CacheConfig(policy=policy, budget=percent / 100)
            report = cached_run(config, sched, x=noise(1, 8))[1]
            spent, asked = report.cost * rounds, half_up(percent / 100 * rounds)
            if any("cannot be met" in said for said in report.texts):
                assert asked < spent < rounds * (0.3 + share), (shift, percent)
            else:
                assert asked - (1 - share) < spent <= asked + 1e-9, (shift, percent)


@pytest.mark.parametrize("name", PROBING)
@settings(max_examples=40)
@given(data=st.data())
def test_budgets_of_probes_are_met_under_any_guards(name, data):
    steps = data.draw(st.integers(10, 40))
    guards = Guards(
        warmup=data.draw(st.integers(1, 6)),
        cooldown=data.draw(st.integers(0, 4)),
        longest_run=data.draw(st.integers(1, 6)),
        start=data.draw(st.floats(0, 0.4)),
        end=data.draw(st.floats(0.6, 1)),
    )
    budget, policy = data.draw(st.floats(0.15, 1)), LOOSE[name]
    sched = schedule(steps, data.draw(st.floats(1, 12)))
    report = cached_run(CacheConfig(policy=policy, guards=guards, budget=budget), sched)[1]
    asked, run = half_up(budget * steps), run_info(sched, Stacked.DEPTH)
    fitted = policy.fit_guards(guards, asked, run)
    forced, share = policy.fewest(fitted, run), policy.share_in(run)
    full = int((asked - steps * share) / (1 - share) + 1e-9)
    full = max(full, fitted.fewest(range(steps), steps))
    assert report.evaluations - report.partial == full
    assert report.cost * steps == pytest.approx(full + (steps - full) * share)
    assert any("cannot be met" in m for m in report.texts) == (forced > asked)


@pytest.mark.parametrize("name", PROBING)
def test_reuse_in_a_row_is_limited_where_some_blocks_always_run(name):
    policy = replace(LOOSE[name], threshold=1e9)
    config = CacheConfig(policy, guards=Guards(2, 1, 2), budget=None)
    report = cached_run(config, schedule(12), guidance=3.0)[1]
    letters = "".join("h" if step.decision == "partial" else "C" for step in report.steps)
    assert letters == "CChhChhChhCC"
    assert {step.cost for step in report.steps if step.decision == "partial"} == {
        policy.share_in(run_info(blocks=Stacked.DEPTH))
    }


@pytest.mark.parametrize("name", PROBING)
def test_probes_of_too_many_blocks_are_refused_in_words(name):
    policy = LOOSE[name]
    always = policy.first + policy.last
    assert not policy.misfit(run_info(blocks=always + 1)) and not policy.misfit(run_info())
    blocks = "the only block" if always == 1 else f"all {always} blocks"
    assert f"run {blocks} of this" in str(policy.misfit(run_info(blocks=always)))
    assert "no known family" in str(policy.misfit(replace(run_info(), family=GENERIC)))


@pytest.mark.parametrize("name", BUDGETED)
def test_budget_is_met_whatever_the_scores(name):
    """A model that jumps in mid-run spoils the forecast of the scores, not the count."""

    def jumpy(x, sigma, condition):
        return torch.full_like(x, 30.0 if sigma < 0.7 else -0.01)

    sched = schedule(30)
    report = cached_run(CacheConfig(policy=LOOSE[name], budget=0.4), sched, jumpy)[1]
    assert report.evaluations == 12


@pytest.mark.parametrize("name", BLIND)
def test_limits_under_a_budget_grow_with_the_scores(name):
    """Where a clip scores three times what is expected, so do the rounds to come."""
    run, now, last = run_info(), step(0.5, ordinal=5), step(0.6, ordinal=4)
    policy = POLICIES[name]().for_budget(10, run, Guards(longest_run=20))
    expected = policy.inner.expected(last.t, now.t, run)
    slopes = [policy.inner.score(replace(now, moved=m), last, run) for m in (0.0, 1.0)]
    moved = (3 * expected - slopes[0]) / (slopes[1] - slopes[0])
    plain, harder = policy.start(run), policy.start(run)
    for _ in range(60):
        policy.decide(replace(now, moved=moved), last, harder)
    factors = [policy.observe(now, state).factor for state in (plain, harder)]
    assert factors[1] == pytest.approx(3 * factors[0], rel=1e-4)


def test_guards_force():
    guards = Guards(warmup=3, cooldown=2, longest_run=2, start=0.2, end=0.8)
    config = CacheConfig(policy=SenCache(1e9, 1e9), guards=guards, budget=None)
    report = cached_run(config, schedule(20))[1]
    reasons = [r.reason for r in report.steps]
    assert reasons[:4] == [Reason.FIRST, Reason.WARMUP, Reason.WARMUP, Reason.WINDOW]
    assert reasons[4:10] == [Reason.WITHIN, Reason.WITHIN, Reason.LONGEST_RUN] * 2
    assert reasons[16:18] == [Reason.WINDOW] * 2
    assert reasons[18:] == [Reason.COOLDOWN] * 2
    assert {r.decision for r in report.steps[:4]} == {"forced"}


def test_rising_noise_is_computed():
    policy = Guarded(SenCache(1e9, 1e9), Guards())
    state = policy.start(run_info())
    assert policy.decide(step(0.8), step(0.5), state)[0] == Decision(ALL, Reason.TIME_ROSE)
    assert policy.decide(step(0.5), step(0.5), state)[0].compute is NONE


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Guards(start=0.6, end=0.5),
        lambda: Guards(warmup=0),
        lambda: Guards(longest_run=-1),
        lambda: Interval(0.5),
        lambda: SenCache(tolerance=-1),
        lambda: SenCache(early_share=2),
        lambda: CacheConfig(budget=0),
        lambda: CacheConfig(budget=1.2),
        lambda: CacheConfig(tap="attention"),
        lambda: CacheConfig(policy=Interval()).with_tolerance(0.1),
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w{3}"):
        wrong()


def test_too_few_steps_turn_caching_off():
    report = cached_run(CacheConfig(budget=0.5), schedule(8))[1]
    assert report.reused == 0
    assert any("8 steps" in message for message in report.texts)
    assert cached_run(CacheConfig(budget=0.5, min_steps=5), schedule(8))[1].reused == 4


@pytest.mark.parametrize(
    ("steps", "budget", "guided", "cached"),
    [
        (10, 0.5, False, False),
        (12, 0.8, False, True),
        (10, 0.5, True, True),
        (20, 0.25, False, True),
    ],
)
def test_a_short_run_is_cached_where_the_plan_expects_little_loss(steps, budget, guided, cached):
    session = CacheConfig(budget=budget).start(WAN, schedule(steps), facts=Facts(guided=guided))
    loop.sample(curved(), noise(1, 2, 3, 4), schedule(steps), {"cond": 0.4}, runner=session)
    report = session.report
    assert (report.reused > 0) == cached
    assert any("Caching is off" in m and "larger budget" in m for m in report.texts) != cached


@pytest.mark.parametrize("name", BUDGETED)
def test_outputs_that_nothing_predicts_end_the_caching(name):
    """Two forecasts in a row as far off as the outputs are large: the rest is computed."""
    seeds = iter(range(99))

    def renewed(x, sigma, condition):
        return noise(*x.shape, seed=next(seeds))

    config, sched = CacheConfig(policy=LOOSE[name], budget=0.4), schedule(30)
    session = config.start(WAN, sched, facts=Facts(guided=False))
    loop.sample(renewed, noise(1, 2, 3, 4), sched, {"cond": 0.4}, runner=session, look=toy_signal)
    report = session.report
    assert report.steps[1].error > 1
    first = next(k for k, r in enumerate(report.steps) if r.reason == Reason.HOPELESS.value)
    assert first < 8 and report.evaluations > 22
    assert all(r.decision == "computed" for r in report.steps[first:])
    assert sum("off for the rest" in message for message in report.texts) == 1


def test_a_budget_the_guards_forbid_says_so():
    """The run then spends what the guards force, and no more."""
    config = CacheConfig(budget=0.3, guards=Guards(warmup=15, longest_run=9))
    report = cached_run(config, schedule(20))[1]
    assert report.evaluations == 16
    assert any("cannot be met" in message for message in report.texts)


def test_a_small_budget_widens_the_longest_run_and_says_so():
    config = CacheConfig(policy=SenCache(), budget=0.2, guards=Guards(longest_run=1))
    report = cached_run(config, schedule(20))[1]
    assert report.evaluations == 4
    assert any("in a row" in message for message in report.texts)


@pytest.mark.parametrize(("wanted", "budget", "longest"), [(1, 0.6, 1), (2, 0.5, 2), (1, 0.3, 4)])
def test_a_lowered_longest_run_holds_for_plans_while_the_budget_has_room(wanted, budget, longest):
    config = CacheConfig(budget=budget, guards=Guards(warmup=2, longest_run=wanted))
    report = cached_run(config, schedule(20))[1]
    mask = "".join("." if step.decision == "reused" else "C" for step in report.steps)
    assert max(map(len, mask.split("C"))) == longest
    assert report.evaluations == half_up(20 * budget)
    assert any("in a row" in message for message in report.texts) == (longest > wanted)


@pytest.mark.parametrize(
    ("steps", "budget", "weighed"), [(50, 0.5, 20), (400, 0.5, 11), (800, 0.5, 8), (800, 0.06, 17)]
)
def test_long_runs_of_reuse_are_weighed_where_that_takes_no_time(steps, budget, weighed):
    """Of very many rounds only as far as the budget needs them."""
    run, asked = run_info(schedule(steps)), half_up(steps * budget)
    guards = Guards(warmup=2, longest_run=20)
    fitted = Planned().fit_guards(guards, asked, run).longest_run
    assert fitted == weighed
    assert guards.fewest(run.schedule.steps(), steps) <= asked


@pytest.mark.parametrize(
    ("policy", "opening"), [(Planned(), 2), (SenCache(), 5), (Interval(4.0), 5), (CfgCache(4.0), 5)]
)
def test_the_start_is_the_policys_where_the_guards_leave_it(policy, opening):
    """A tenth of 50 steps; a plan weighs its start itself, behind the two that all begin with."""
    sched = schedule(50)
    config = CacheConfig(policy, budget=0.6)
    steps = cached_run(config, sched, guidance=3.0)[1].steps
    assert all(step.decision == "forced" for step in steps[:opening])
    said = {step.reason for step in steps[:5]}
    assert (Reason.WINDOW.value in said) == (opening > 2)
    assert config.guards == DEFAULT_GUARDS
    said_by_user = replace(config, guards=replace(DEFAULT_GUARDS, start=0.2))
    steps = cached_run(said_by_user, sched, guidance=3.0)[1].steps
    assert all(step.decision == "forced" for step in steps[:10])


def test_a_sampler_that_comes_back_is_computed():
    session = CacheConfig().start(WAN, schedule(20, sampler="heunpp2"))
    assert session.course.policy.name == "off"
    assert any("comes back" in message for message in session.report.texts)


def test_an_unknown_model_is_told():
    session = CacheConfig().start(None, schedule(20))
    said = " ".join(session.report.texts)
    assert "no known family" in said


def test_configurations_are_shareable():
    config = CacheConfig()
    one, two = config.start(WAN, schedule()), config.start(WAN, schedule())
    one.begin((noise(1, 4),), 1.0)
    observe(one, (COND,), noise(1, 4), lambda sigma: None)
    assert two.report.steps == []
    with pytest.raises(AttributeError):
        config.budget = 0.1


def test_a_mask_rules_instead_of_the_budget():
    mask = "CC.C..CC." + "C.." * 3 + "CC"
    guards = Guards(cooldown=0, longest_run=20)
    for budget in (None, 0.2, 1.0):
        config = CacheConfig(policy=Planned(mask=mask), guards=guards, budget=budget)
        report = cached_run(config, schedule(20), guidance=3.0)[1]
        done = "".join("." if r.decision == "reused" else "C" for r in report.steps)
        assert done == mask
        assert report.budget is None


@pytest.mark.parametrize("letters", [19, 21])
def test_a_mask_of_another_length_is_said_and_the_run_finishes(letters):
    """Whoever changes the steps of a workflow gets a clip, and is told."""
    sched = schedule(20)
    policy = Planned(mask=("C." * 11)[:letters])
    out, report = cached_run(CacheConfig(policy=policy), sched)
    assert report.reused == 0
    assert torch.equal(out, plain_run(sched))
    assert any(f"{letters} letters, but this run has 20" in m for m in report.texts)
    with pytest.raises(ValueError, match=f"{letters} letters"):
        CacheConfig(policy=policy).plan(WAN, sched)
