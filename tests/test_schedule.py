import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import heun, noise

from sencache_core import Schedule, flow_sigmas
from sencache_core.sampler.schedule import (
    ON_THE_GRID,
    SECOND_AT_NEXT,
    SECOND_BETWEEN,
    as_floats,
)


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
