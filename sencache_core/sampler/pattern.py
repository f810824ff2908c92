"""Where within its steps a sampler asks the model, learnt from the run itself.

ComfyUI lets any function be a sampler. What its name does not tell, its first evaluations do: most
samplers ask at the same places of every step.
"""

from __future__ import annotations

from collections.abc import Sequence

from .schedule import ON_THE_GRID, Schedule

#: Evaluations a step that are looked for (ours): more than any sampler of the common packs asks.
MOST_STAGES = 8
#: Samplers that are remembered at most.
_MOST_KNOWN = 64

#: Places learnt by the name of the sampler, the newest last; they outlive a run, so that the next
#: one is planned right from its start.
_KNOWN: dict[str, tuple[float, ...]] = {}


def known(schedule: Schedule) -> Schedule:
    """``schedule`` with the places of evaluation that an earlier run of its sampler has shown."""
    return schedule.asking_at(_KNOWN.get(schedule.sampler))


def remember(sampler: str, places: tuple[float, ...]) -> None:
    """Keep what a run has shown of a sampler; one without a name is not kept."""
    if sampler:
        _KNOWN.pop(sampler, None)
        _KNOWN[sampler] = places
        while len(_KNOWN) > _MOST_KNOWN:
            del _KNOWN[next(iter(_KNOWN))]


def fits(schedule: Schedule, ordinal: int, sigma: float) -> bool:
    """Whether evaluation round number ``ordinal`` asks where the schedule expects it.

    Between two noise levels of the list it may lie anywhere: samplers differ in where they put
    such an evaluation, and the plan does not depend on it.
    """
    if ordinal >= len(schedule.rounds):
        return False
    expected = schedule.rounds[ordinal]
    return _same(expected, sigma) or _between(schedule, expected) == _between(schedule, sigma) != -1


def learn(schedule: Schedule, seen: Sequence[float]) -> tuple[float, ...] | None:
    """Places of evaluation within a step, each from 0 (its start) to 1 (its end), or ``None``.

    Args:
        schedule: the sampler's noise levels.
        seen: noise levels of all rounds so far, the first one at the start of the list.

    Returns:
        The shortest pattern that all of ``seen`` follows, once it has been seen whole and the next
        step has begun.
    """
    for stages in range(1, min(MOST_STAGES, len(seen) - 1) + 1):
        if _repeats(schedule.sigmas, seen, stages):
            start, end = schedule.sigmas[:2]
            return tuple((start - sigma) / (start - end) for sigma in seen[:stages])
    return None


def _repeats(sigmas: Sequence[float], seen: Sequence[float], stages: int) -> bool:
    """Whether every step begins with an evaluation at its start and has ``stages`` in all."""
    for number, sigma in enumerate(seen):
        step, stage = divmod(number, stages)
        if step + 1 >= len(sigmas):
            return False
        start, end = sigmas[step], sigmas[step + 1]
        inside = end * (1 - ON_THE_GRID) <= sigma <= start * (1 + ON_THE_GRID)
        if not inside or (stage == 0 and not _same(start, sigma)):
            return False
    return sigmas[0] > sigmas[1]


def _same(a: float, b: float) -> bool:
    return abs(a - b) <= ON_THE_GRID * max(abs(a), 1e-8)


def _between(schedule: Schedule, sigma: float) -> int:
    """Step strictly inside of which ``sigma`` lies; -1 if it is one of the list."""
    if any(_same(value, sigma) for value in schedule.sigmas):
        return -1
    return schedule.locate(sigma)
