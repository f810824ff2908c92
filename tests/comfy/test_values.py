"""Labels of options' values: what tells passes apart, and what only counts the rounds."""

from __future__ import annotations

import gc

import pytest
import torch

from sencache_core.hosts.comfy_values import MOST_ENTRIES, Labels


def labels_of(rounds, name="scale"):
    """Labels that the values of each round get."""
    labels = Labels()
    out = []
    for values in rounds:
        labels.begin()
        out.append([labels.of(name, value) for value in values])
    return out


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (True, False),
        ("video", "audio"),
        (1.0, 0.5),
        (1, True),
        (None, 0.0),
        ([1, 2], [1, 3]),
        ({"blocks": [1, {"deep": "a"}]}, {"blocks": [1, {"deep": "b"}]}),
        ((1, 2), [1, 2]),
        (torch.float16, torch.bfloat16),
        (torch.zeros(2), torch.zeros(2)),
    ],
)
def test_values_that_differ_have_labels_that_differ(one, other):
    first, second, third = labels_of([[one, other], [other, one], [one]])
    assert first[0] != first[1]
    assert second == first[::-1] and third == first[:1]


def test_equal_values_are_one():
    (first,) = labels_of([[{"a": [1, 2.5]}, {"a": [1, 2.5]}]])
    assert first[0] == first[1]


@pytest.mark.parametrize("name", ["current_step", "stepIndex", "sigma_next", "progress"])
def test_the_clock_is_left_out_from_the_start(name):
    found = labels_of([[k, k] for k in range(5)], name)
    assert len({label for values in found for label in values}) == 1


def test_a_switch_counts_whatever_its_name():
    first, second = labels_of([[True], [False]], "first_step")
    assert first != second


def test_a_counter_is_found_by_its_third_new_value():
    found = [label for (label,) in labels_of([[k] for k in range(6)])]
    assert len(set(found[1:])) == 1


def test_counters_of_calls_keep_the_calls_apart():
    found = labels_of([[2 * k, 2 * k + 1] for k in range(5)])
    assert found[1] == found[2] == found[3] == found[4]
    assert found[4][0] != found[4][1]


def test_a_value_that_comes_back_is_no_counter():
    """On and off in turn, in numbers: two branches, however long it goes on."""
    found = [label for (label,) in labels_of([[k % 2] for k in range(8)])]
    assert found == found[:2] * 4 and found[0] != found[1]


def test_one_change_in_mid_run_is_a_new_branch():
    found = [label for (label,) in labels_of([[1.0]] * 4 + [[0.5]] * 4)]
    assert len(set(found[:4])) == len(set(found[4:])) == 1 and found[0] != found[-1]


def test_objects_that_are_built_anew_are_told_apart_by_their_order():
    labels = Labels()
    found = []
    for _ in range(5):
        labels.begin()
        pair = [torch.zeros(3), torch.zeros(3)]  # dead by the next round: their ids may come back
        found.append([labels.of("mask", one) for one in (pair[0], pair[1], pair[0])])
        del pair
        gc.collect()
    assert all(a == c != b for a, b, c in found)
    assert found[1] == found[2] == found[3] == found[4]


def test_methods_of_one_object_are_one():
    class Pack:
        def patch(self):
            return None

    one, other = Pack(), Pack()
    (first,) = labels_of([[one.patch, one.patch, other.patch]])
    assert first[0] == first[1] != first[2]


def test_long_values_are_not_read():
    (found,) = labels_of([[list(range(MOST_ENTRIES + 1)), [0, *range(MOST_ENTRIES)]]])
    assert found[0] == found[1]
