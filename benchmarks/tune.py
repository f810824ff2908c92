"""Finds the setting with which a method costs what a budget allows."""

from __future__ import annotations

from .case import Case, Clip
from .method import Method, Setting, Sweep

#: Costs as near to the budget as this count as meeting it.
TOLERANCE = 0.02
#: A search ends early when it is this near.
NEAR = 0.01


def tune(case: Case, method: Method, budget: float) -> tuple[Setting, Sweep]:
    """The setting to run, found on the calibration clips alone, and the sweep it belongs to.

    Each sweep is searched for its setting nearest to the budget, by cost only. Of the sweeps that
    come within :data:`TOLERANCE` the one with the smallest error is taken; if none does, the
    nearest.

    Raises:
        Exception: whatever the method raises where it cannot run.
    """
    case.prepare(method)
    sweeps = method.sweeps(case, budget)
    if len(sweeps) == len(sweeps[0].settings) == 1:
        return sweeps[0].settings[0], sweeps[0]
    found = [(search(case, method, sweep, budget), sweep) for sweep in sweeps]
    results = [(*case.try_setting(method, pair[0]), pair) for pair in found]
    meeting = [r for r in results if abs(r[0] - budget) <= TOLERANCE + 1e-9]
    if meeting:
        return min(meeting, key=lambda r: r[1])[2]
    return min(results, key=lambda r: abs(r[0] - budget))[2]


def run_tuned(case: Case, method: Method, budget: float) -> tuple[Setting, list[Clip]]:
    """The test clips at the budget, and the setting that made them.

    Where a method spends more or less on the test clips than on the calibration clips, its sweep is
    searched once more, for a budget moved by the difference, and the nearer result is kept. The
    test clips give their cost to this, never their error.
    """
    setting, sweep = tune(case, method, budget)
    clips = [case.clip(method, setting, *test) for test in case.tests]
    cost = case.cost(clips)
    if len(sweep.settings) > 1 and abs(cost - budget) > TOLERANCE:
        expected, _ = case.try_setting(method, setting)
        other = search(case, method, sweep, budget + expected - cost)
        if other != setting:
            again = [case.clip(method, other, *test) for test in case.tests]
            if abs(case.cost(again) - budget) < abs(cost - budget):
                return other, again
    return setting, clips


def search(case: Case, method: Method, sweep: Sweep, budget: float) -> Setting:
    """The sweep's setting whose cost is nearest to the budget, by bisection; of two, the dearer."""
    low, high, seen = 0, len(sweep.settings) - 1, {}
    while low <= high:
        middle = (low + high) // 2
        cost, _ = case.try_setting(method, sweep.settings[middle])
        seen[middle] = cost
        if abs(cost - budget) <= NEAR:
            break
        if cost > budget:
            low = middle + 1
        else:
            high = middle - 1
    return sweep.settings[min(seen, key=lambda k: (round(abs(seen[k] - budget), 6), -seen[k]))]
