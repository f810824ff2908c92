"""Where within its steps a sampler asks the model, learnt from the run itself.

ComfyUI lets any function be a sampler. What its name does not tell, its first evaluations do: most
samplers ask at the same places of every step.
"""

from __future__ import annotations

from collections.abc import Sequence

from .schedule import ON_THE_GRID, Schedule, same_level

#: See ``Schedule.places``.
Places = tuple[tuple[float, ...], ...]

#: Evaluations a step that are looked for (ours): more than any sampler of the common packs asks.
MOST_STAGES = 8
#: Steps at the start of a run that may have a pattern of their own (ours).
MOST_HEAD = 4
#: Samplers that are remembered at most.
_MOST_KNOWN = 64

#: Places learnt by the name of the sampler, the newest last; they outlive a run, so that the next
#: one is planned right from its start.
_KNOWN: dict[str, Places] = {}


def known(schedule: Schedule) -> Schedule:
    """``schedule`` with the places of evaluation that an earlier run of its sampler has shown."""
    return schedule.asking_at(_KNOWN.get(schedule.sampler))


def remember(sampler: str, places: Places) -> None:
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
    return (
        same_level(expected, sigma)
        or _between(schedule, expected) == _between(schedule, sigma) != -1
    )


def learn(schedule: Schedule, seen: Sequence[float]) -> Places | None:
    """Places of evaluation by step, as ``Schedule.places`` has them, or ``None``.

    Args:
        schedule: the sampler's noise levels.
        seen: noise levels of all rounds so far, the first one at the start of the list.

    Returns:
        The shortest pattern that all of ``seen`` follow, but for the fewest steps at the start (as
        multistep samplers begin with others), once it has been seen whole and the next step has
        begun.
    """
    for head in range(MOST_HEAD + 1):
        start = _first(schedule.sigmas[head : head + 1], seen)
        if start is None or start < head:
            continue
        sigmas, rest = schedule.sigmas[head:], seen[start:]
        for stages in range(1, min(MOST_STAGES, len(rest) - 1) + 1):
            if _repeats(sigmas, rest, stages):
                before = _head(schedule.sigmas, seen[:start], head)
                return (*before, tuple(_place(sigmas, 0, sigma) for sigma in rest[:stages]))
    return None


def _first(wanted: Sequence[float], seen: Sequence[float]) -> int | None:
    """Round that first asks at the one noise level ``wanted``."""
    return next(
        (k for k, sigma in enumerate(seen) if wanted and same_level(wanted[0], sigma)), None
    )


def _head(sigmas: Sequence[float], seen: Sequence[float], steps: int) -> Places:
    """Places in the first ``steps`` steps, of all rounds ``seen`` in them."""
    own: list[list[float]] = [[] for _ in range(steps)]
    for sigma in seen:
        step = min(max(sum(level > sigma * (1 + ON_THE_GRID) for level in sigmas), 1), steps) - 1
        step += step + 1 < steps and same_level(sigmas[step + 1], sigma)
        own[step].append(_place(sigmas, step, sigma))
    return tuple(map(tuple, own))


def _place(sigmas: Sequence[float], step: int, sigma: float) -> float:
    start, end = sigmas[step : step + 2]
    return min(max((start - sigma) / (start - end), 0.0), 1.0)


def _repeats(sigmas: Sequence[float], seen: Sequence[float], stages: int) -> bool:
    """Whether every step begins with an evaluation at its start and has ``stages`` in all, each of
    them always at its start, at its end, or between.
    """
    if len(sigmas) < 2 or sigmas[0] <= sigmas[1]:
        return False
    kinds: list[tuple[bool, bool]] = []
    for number, sigma in enumerate(seen):
        step, stage = divmod(number, stages)
        if step + 1 >= len(sigmas):
            return False
        start, end = sigmas[step], sigmas[step + 1]
        inside = end * (1 - ON_THE_GRID) <= sigma <= start * (1 + ON_THE_GRID)
        kind = same_level(start, sigma), same_level(end, sigma)
        # Two evaluations at the start of a step are of two latents: editing samplers ask so.
        if not inside or (stage == 0) != kind[0]:
            return False
        if step == 0:
            kinds.append(kind)
        elif kinds[stage] != kind:
            return False
    return True


def _between(schedule: Schedule, sigma: float) -> int:
    """Step strictly inside of which ``sigma`` lies; -1 if it is one of the list."""
    return -1 if schedule.listed(sigma) else schedule.locate(sigma)
