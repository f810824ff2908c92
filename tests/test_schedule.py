import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import heun, noise, observe, predict

from sencache_core import (
    FAMILIES,
    Branch,
    CacheConfig,
    Fitted,
    Hold,
    Planned,
    Schedule,
    flow_sigmas,
)
from sencache_core.sampler.schedule import (
    ON_THE_GRID,
    SECOND_AT_NEXT,
    SECOND_BETWEEN,
    as_floats,
)
from sencache_core.sampler.solver import round_weights, transitions


@given(st.integers(1, 100), st.floats(0.5, 12))
def test_flow_sigmas_fall_from_one_to_zero(steps, shift):
    sigmas = flow_sigmas(steps, shift)
    assert len(sigmas) == steps + 1
    assert sigmas[0] == pytest.approx(1)
    assert sigmas[-1] == 0
    assert all(a > b for a, b in zip(sigmas[:-1], sigmas[1:], strict=True))


def test_flow_sigmas_shift_formula():
    assert flow_sigmas(4, 3.0)[2] == pytest.approx(3 * 0.5 / (1 + 2 * 0.5))
    assert flow_sigmas(4)[1] == 0.75


def test_bad_schedules_are_refused():
    with pytest.raises(ValueError, match="at least two sigmas"):
        Schedule((1.0,))
    with pytest.raises(ValueError, match="at least 1"):
        flow_sigmas(0)


@given(st.integers(2, 60), st.floats(0.5, 12))
def test_every_grid_point_is_located_at_its_own_step(steps, shift):
    schedule = Schedule(flow_sigmas(steps, shift))
    assert [schedule.locate(s) for s in schedule.sigmas[:-1]] == list(range(steps))


def test_locate_between_and_outside():
    schedule = Schedule((1.0, 0.8, 0.5, 0.2, 0.0))
    assert schedule.locate(0.6) == 1
    assert schedule.locate(1.7) == 0  # churned above the first level
    assert schedule.locate(0.01) == 3
    assert schedule.locate(0.0) == 3
    assert schedule.locate(0.79999) == 1  # rounding of the host


@given(st.integers(5, 60), st.floats(0.5, 12), st.floats(0.01, 0.6))
def test_a_model_that_is_told_less_noise_is_where_its_rounds_say(steps, shift, less):
    """Less in mid-run, as samplers for more detail do it; what is told even rises again."""
    schedule = Schedule(flow_sigmas(steps, shift), "detail")
    for ordinal, own in enumerate(schedule.rounds):
        told = own * (1 - less * (1 - abs(2 * ordinal / steps - 1)))
        assert schedule.level(told, ordinal) == pytest.approx(own, rel=ON_THE_GRID)


@pytest.mark.parametrize("name", ["euler", *sorted(SECOND_AT_NEXT | SECOND_BETWEEN), "unknown"])
def test_what_samplers_tell_is_believed_where_they_can_be(name):
    """Churned above the list, between its entries, or late."""
    schedule = Schedule(flow_sigmas(12, 5), name)
    rounds, last = schedule.rounds, len(schedule.rounds) - 1
    assert [schedule.level(told, k) for k, told in enumerate(rounds)] == list(rounds)
    for k, told in enumerate(rounds):
        assert schedule.level(1.02 * told, k) == 1.02 * told
        assert schedule.level(told, min(k + 1, last)) == told
    assert schedule.level(0.01, len(rounds)) == 0.01


@pytest.mark.parametrize("name", ["heun", "dpm_2_ancestral", "dpm_2", "seeds_3"])
def test_a_sampler_around_another_asks_as_often_as_that(name):
    """And where less noise is told than its list holds, it is where its rounds say."""
    inner = Schedule(flow_sigmas(20, 3.0), name)
    outer = Schedule(inner.sigmas, f"more_detail/{name}_gpu")
    assert outer.rounds == inner.rounds and outer.steps() == inner.steps()
    on_the_list = [k for k, sigma in enumerate(outer.rounds) if sigma in outer.sigmas]
    for told in (0.93, 0.7):
        levels = [outer.level(told * sigma, k) for k, sigma in enumerate(outer.rounds)]
        assert [levels[k] for k in on_the_list] == [outer.rounds[k] for k in on_the_list]
        located = [outer.step_of(level, k) for k, level in enumerate(levels)]
        assert located == list(outer.steps())


@pytest.mark.parametrize("name", ["dpm_adaptive", "heunpp2", "dpm_fast"])
def test_what_a_sampler_is_wrapped_around_is_not_forgotten(name):
    outer = Schedule(flow_sigmas(20), f"more_detail/{name}")
    inner = Schedule(outer.sigmas, name)
    for fact in ("adaptive", "comes_back", "own_grid"):
        assert getattr(outer, fact) == getattr(inner, fact)
    assert outer.adaptive or outer.comes_back or outer.own_grid


@pytest.mark.parametrize("sampler", sorted(SECOND_AT_NEXT | SECOND_BETWEEN))
def test_two_evaluations_a_step_but_the_last(sampler):
    schedule = Schedule(flow_sigmas(12, 5), sampler)
    assert len(schedule.rounds) == len(schedule.steps()) == 23
    assert list(schedule.rounds) == sorted(schedule.rounds, reverse=True)


def test_one_evaluation_a_step():
    assert len(Schedule(flow_sigmas(12, 5), "euler").rounds) == 12


def test_rounds_are_what_heun_visits():
    schedule = Schedule(flow_sigmas(7, 5), "heun")
    visited = []

    def model(x, sigma, condition):
        visited.append(sigma)
        return x

    heun(model, noise(1, 4), schedule, {"cond": None})
    assert tuple(visited) == schedule.rounds


def test_a_run_that_stops_above_zero_has_second_evaluations_throughout():
    assert len(Schedule((1.0, 0.7, 0.4), "heun").rounds) == 4


def test_falling():
    assert Schedule((1.0, 0.5, 0.5, 0.0)).falling
    assert not Schedule((1.0, 0.4, 0.6, 0.0)).falling


def test_as_floats():
    assert as_floats(torch.tensor([1.0, 0.5])) == (1.0, 0.5)
    assert as_floats([1, 0]) == (1.0, 0.0)


#: Schedulers of diffusers that list a noise level twice, once for either evaluation, with the
#: family that they are run with here.
TWICE = {
    "FlowMatchHeunDiscreteScheduler": "wan",
    "HeunDiscreteScheduler": "cogvideox",
    "KDPM2AncestralDiscreteScheduler": "cogvideox",
    "KDPM2DiscreteScheduler": "cogvideox",  # in its sigmas; its timesteps are told apart
}
by_scheduler = pytest.mark.parametrize("name", TWICE)


def made(name, steps=20):
    """A scheduler of diffusers, and the list of sigmas that it keeps, one of each listing."""
    scheduler = getattr(pytest.importorskip("diffusers"), name)()
    scheduler.set_timesteps(steps)
    return scheduler, as_floats(scheduler.sigmas)[: len(scheduler.timesteps) + 1]


@by_scheduler
def test_noise_levels_listed_twice_weigh_what_both_evaluations_do(name):
    """As for the same sampler over a list that has every level once."""
    family, sigmas = FAMILIES[TWICE[name]], made(name)[1]
    assert len(sigmas) == 40
    twice, once = Schedule(sigmas, name), Schedule(tuple(dict.fromkeys(sigmas)), "heun")
    assert twice.rounds == once.rounds
    assert twice.steps() == tuple(range(39))
    weights = round_weights(family, twice)
    assert weights == round_weights(family, once)
    assert all(weight > 0 for weight, _ in weights)
    unit = 1.0 if family.prediction == "flow" else np.pi / 2
    way = unit * (family.time(sigmas[0]) - family.time(sigmas[-1]))
    assert sum(weight for weight, _ in weights) == pytest.approx(way)
    assert transitions(family, twice) is None


@by_scheduler
def test_every_visit_of_a_noise_level_is_a_step_of_its_own(name):
    schedule = Schedule(made(name)[1], name)
    visits = [schedule.step_of(sigma, k) for k, sigma in enumerate(schedule.rounds)]
    assert visits == list(range(39))
    rounded = [np.float32(sigma) for sigma in schedule.rounds]
    assert [schedule.step_of(float(sigma), k) for k, sigma in enumerate(rounded)] == visits


def test_a_step_of_no_length_moves_nothing():
    """Euler over a list that has a level twice: the first evaluation there is not used."""
    schedule = Schedule((1.0, 0.7, 0.7, 0.2, 0.0), "euler")
    weights, steps = (f(FAMILIES["wan"], schedule) for f in (round_weights, transitions))
    assert [weight for weight, _ in weights] == pytest.approx([0.3, 0.0, 0.5, 0.2])
    assert [b for _, b in steps] == pytest.approx([-0.3, 0.0, -0.5, -0.2])
    assert [schedule.step_of(sigma, k) for k, sigma in enumerate(schedule.rounds)] == [0, 1, 2, 3]


def test_levels_nearer_than_rounding_of_the_host_are_told_apart():
    schedule = Schedule(flow_sigmas(4000, 8.0))
    assert [schedule.locate(sigma) for sigma in schedule.sigmas[:30]] == list(range(30))


def planned_run(rule=None):
    """Final latent of the Heun scheduler over a bending flow, cached where there is a rule."""
    scheduler, _ = made("FlowMatchHeunDiscreteScheduler")
    sigmas = tuple(t / 1000 for t in as_floats(scheduler.timesteps))
    session = None
    if rule is not None:
        config = CacheConfig(Planned(correct=False), rule=rule, budget=0.36)
        session = config.start(FAMILIES["wan"], Schedule((*sigmas, 0.0), type(scheduler).__name__))
    x, cond = noise(1, 2, 3, 4), (Branch("cond"),)
    for timestep, sigma in zip(scheduler.timesteps, sigmas, strict=True):
        y = None
        if session is not None:
            session.begin((x,), sigma)
            y = predict(session, cond, x.shape)
        if y is None:
            y = x - torch.tanh(2 * x) * (1 - 0.5 * sigma)
            if session is not None:
                assert observe(session, cond, y) is None
        x = scheduler.step(y, timestep, x).prev_sample
    return x, session and session.finish(True)


def test_a_second_order_scheduler_is_planned_for():
    """It reuses throughout, ends with an evaluation, and forecasts beat holding."""
    (truth, _), (fitted, report), (held, _) = map(planned_run, (None, Fitted(), Hold()))
    computed = [record.decision != "reused" for record in report.steps]
    assert sum(computed) == 14
    assert computed[-1]
    longest = max(len(run) for run in "".join(".C"[c] for c in computed).split("C"))
    assert longest <= 6
    assert (fitted - truth).norm() < min(0.02 * truth.norm(), (held - truth).norm())
