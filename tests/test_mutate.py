"""The list of deliberate faults fits the tree as it is; tools/mutate.py itself is run by hand."""

import importlib.util
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"


@pytest.fixture(scope="module")
def mutate():
    spec = importlib.util.spec_from_file_location("mutate", TOOLS / "mutate.py")
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
    return module


def test_every_fault_still_fits(mutate):
    """Its text is there once, what it becomes is Python, and its tests exist."""
    faults = mutate.FAULTS
    assert len(faults) == len({fault.what for fault in faults}) >= 40
    for fault in faults:
        assert mutate.changed(fault) != (TOOLS.parent / fault.file).read_text(encoding="utf-8")
        assert fault.tests


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"old": "no such text"}, "0 times"),
        ({"old": "self."}, "times, not once"),
        ({"tests": ("tests/test_nowhere.py",)}, "no test tests/test_nowhere.py"),
        ({"tests": ("tests/test_rounds.py::test_nothing",)}, "no test .*::test_nothing"),
    ],
)
def test_a_fault_that_fits_no_more_is_refused(mutate, changes, words):
    fault = next(f for f in mutate.FAULTS if f.file.endswith("rounds.py"))
    with pytest.raises(ValueError, match=words):
        mutate.changed(fault._replace(**changes))


def test_survivors_are_told(mutate, capsys):
    """In a copy: a fault that one test sees, and one that its test does not look for."""
    seen = next(f for f in mutate.FAULTS if f.file.endswith("rounds.py"))
    missed = seen._replace(
        what="missed", tests=("tests/test_rounds.py::test_times_are_those_of_their_round",)
    )
    before = (TOOLS.parent / seen.file).read_bytes()
    assert mutate.run([seen, missed], jobs=2, limit=300) == {"caught": 1, "SURVIVES": 1}
    told = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert told == ["caught", "SURVIVES"]
    assert (TOOLS.parent / seen.file).read_bytes() == before
