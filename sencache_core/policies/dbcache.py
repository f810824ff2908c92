"""DBCache: FBCache with more blocks at either end, with its limits and its masks of steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain, cycle, zip_longest
from typing import ClassVar

from ..forecast.reuse import Hold
from ..types import ALL, Decision, Reason, Step
from ..words import Message
from .base import Guards, Preset, RunInfo
from .fbcache import ANY, FBCache
from .probing import Probed

#: From this threshold on whatever can be compared is reused.
ALWAYS = 1.0
BY_THRESHOLD = "by threshold"
#: Steps in a row that are computed, and between them reused, by the number of steps that a mask was
#: made for (cache-dit, repository, ``steps_mask``).
_RUNS = {
    28: {
        "slow": ((8, 3, 3, 2, 1, 1), (1, 2, 2, 2, 3)),
        "medium": ((6, 2, 2, 2, 2, 1), (1, 3, 3, 3, 3)),
        "fast": ((6, 1, 1, 1, 1, 1), (1, 3, 4, 5, 4)),
        "ultra": ((4, 1, 1, 1, 1), (2, 5, 6, 7)),
    },
    15: {
        "slow": ((4, 2, 2, 2, 1), (1, 1, 1, 1)),
        "medium": ((4, 2, 1, 1, 1), (1, 1, 2, 2)),
        "fast": ((3, 1, 1, 1, 1), (1, 2, 2, 3)),
        "ultra": ((2, 1, 1, 1, 1), (1, 2, 3, 3)),
    },
    9: {
        "slow": ((5, 2, 1), (1,)),
        "medium": ((5, 1, 1), (1, 1)),
        "fast": ((4, 1, 1), (1, 2)),
        "ultra": ((3, 1, 1), (2, 2)),
    },
    8: {
        "slow": ((5, 1, 1), (1,)),
        "medium": ((4, 1, 1), (1, 1)),
        "fast": ((3, 1, 1), (1, 2)),
        "ultra": ((2, 1, 1), (2, 2)),
    },
}
_FEWEST, _MOST = min(_RUNS), max(_RUNS)
MASKS = tuple(_RUNS[_MOST])


def steps_mask(name: str, steps: int) -> tuple[bool, ...]:
    """Which of ``steps`` a mask of cache-dit's computes; the last one always.

    Masks for more steps than they were made for grow run by run, in proportion; for fewer, steps
    are taken off their ends, of the last reused and the last computed run in turn.

    Raises:
        ValueError: there is no mask for so few steps.
    """
    if steps < _FEWEST:
        raise ValueError(f"cache-dit's masks are for {_FEWEST} steps or more, not {steps}")
    made_for = min(n for n in _RUNS if n >= min(steps, _MOST))
    computed, reused = (list(runs) for runs in _RUNS[made_for][name])
    turns = [
        (runs, number, max(int(runs[number] * steps / (2 * _MOST)), 1))
        for number in range(min(len(computed), len(reused)))
        for runs in (computed, reused)
    ]
    for runs, number, more in cycle([*turns, (computed, -1, 1)]):
        if sum(computed) + sum(reused) >= steps:
            break
        runs[number] += more
    for runs in cycle((reused, computed)):
        if sum(computed) + sum(reused) <= steps:
            break
        runs[-1] -= 1
        if not runs[-1]:
            runs.pop()
    pairs = zip_longest(computed, reused, fillvalue=0)
    mask = [*chain.from_iterable([True] * c + [False] * r for c, r in pairs)]
    return (*mask[: steps - 1], True)


@dataclass
class DBState(Probed):
    """Run state of :class:`DBCache`.

    Attributes:
        computed: by step, whether the mask computes it; ``None``: there is no mask.
        reused: rounds reused so far.
        changed: sum of the changes measured so far, reused or not.
    """

    computed: tuple[bool, ...] | None = None
    reused: int = 0
    changed: float = 0.0


@dataclass(frozen=True)
class DBCache(FBCache):
    """Reuse while ``mean|p - p_c| / mean|p_c| < threshold``, ``p`` what the first blocks add.

    Source: cache-dit (DefTruth, vipshop, github.com/vipshop/cache-dit, 1.5); there is no paper.
    :class:`FBCache` with ``first`` blocks in front, and ``last`` ones that run on what was reused.
    A round is computed by the first of these that says so: warm-up (``Guards.warmup``, theirs 8),
    the mask of steps, ``most`` rounds reused, as many in a row (``Guards.longest_run``, theirs
    without an end), ``most_change`` reached, the threshold; one of 1 reuses whatever can be
    compared.

    Unlike theirs: one decision a round, on the branch that leads (there: each branch for itself);
    means are taken in float32. Its calibrators of what is reused, its choice of important tokens,
    the thinning of what is compared and pauses of the warm-up are not offered.

    Args:
        threshold: largest relative change; 0 computes everything.
        first, last: blocks at either end that run at every round.
        most: rounds reused in all; 0: any number. A budget takes its place.
        most_change: once the changes of all rounds sum to this, nothing is reused any more; 0: no
            limit. A budget takes its place.
        steps: a mask of steps of cache-dit's (:func:`steps_mask`), which takes the place of budget
            and guards, or ``"by threshold"``: none.
        static: rounds that the mask does not compute are reused whatever the threshold.
    """

    name: ClassVar[str] = "dbcache"
    title: ClassVar[str] = "DBCache (first and last blocks)"
    decides: ClassVar[str] = (
        "how far what the first blocks add has changed since the last true evaluation, under a "
        "budget, a threshold or a mask of steps (DBCache of cache-dit); the first and last blocks "
        "run at every step. It keeps what the blocks between them add"
    )
    threshold: float = field(
        default=0.08,
        metadata={
            "strictest": 0.0,
            "loose": 0.5,
            "min": 0.0,
            "max": 2.0,
            "step": 0.005,
            "help": "Largest change of what the first blocks add. Higher reuses more. The "
            "authors' is 0.08; 1 reuses all it may.",
        },
    )
    first: int = field(
        default=8,
        metadata={
            "strictest": 1,
            "loose": 1,
            "min": 1,
            "max": 60,
            "step": 1,
            "help": "Blocks at the start that run at every step and are compared. More tell more "
            "and cost more. The authors' is 8, of 28 to 60.",
        },
    )
    last: int = field(
        default=0,
        metadata={
            "strictest": 1,
            "loose": 1,
            "min": 0,
            "max": 60,
            "step": 1,
            "help": "Blocks at the end that run at every step, on what was reused. More is nearer "
            "to the uncached clip and slower. The authors' is 0.",
        },
    )
    most: int = field(
        default=0,
        metadata={
            "min": 0,
            "max": 1000,
            "step": 1,
            "help": "Largest number of reused steps in all; 0 is any number. Lower computes more. "
            "A budget takes its place.",
        },
    )
    most_change: float = field(
        default=0.0,
        metadata={
            "min": 0.0,
            "max": 100.0,
            "step": 0.1,
            "help": "Once the changes of all steps sum to this, the rest is computed; 0 is no "
            "limit. Lower computes more. A budget takes its place.",
        },
    )
    steps: str = field(
        default=BY_THRESHOLD,
        metadata={
            "choices": (BY_THRESHOLD, *MASKS),
            "help": "Which steps are computed whatever the changes. slow to ultra: a mask of the "
            "authors', from most to fewest, in the place of a budget.",
        },
    )
    static: bool = field(
        default=True,
        metadata={
            "help": "With a mask: reuse all steps that it does not compute. Off: those of them "
            "that pass the threshold."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first < 1 or min(self.last, self.most, self.most_change) < 0:
            raise ValueError("first must be at least 1, and no setting may be negative")
        self.check_choices()

    @classmethod
    def presets(cls) -> Mapping[str, Preset]:
        points = {
            "DBCache": (cls(), 8, "its defaults: F8 B0, 0.08, warm-up 8."),
            "DBCache Wan 2.2 high noise": (cls(most=8), 4, "warm-up 4, 8 steps at most."),
            "DBCache Wan 2.2 low noise": (cls(most=20), 2, "warm-up 2, 20 steps at most."),
        }
        for name in MASKS:
            words = f"its mask of steps {name}, static, F8 B0."
            points[f"DBCache mask {name}"] = cls(steps=name), 1, words
        return {
            name: Preset("wan", policy, Hold(), Guards(warmup, 0, ANY), f"cache-dit: {words}")
            for name, (policy, warmup, words) in points.items()
        }

    @property
    def masked(self) -> bool:
        """Whether a mask says which steps are computed."""
        return self.steps != BY_THRESHOLD

    @property
    def fixed(self) -> bool:
        return self.masked

    def own_guards(self, guards: Guards, default: Guards) -> Guards:
        return Guards(1, 0, ANY) if self.masked else guards

    def misfit(self, run: RunInfo) -> Message | None:
        if self.masked and run.schedule.num_steps < _FEWEST:
            return Message.of("off.mask_steps", least=_FEWEST)
        return super().misfit(run)

    def start(self, run: RunInfo) -> DBState:
        known = self.masked and run.schedule.num_steps >= _FEWEST
        mask = steps_mask(self.steps, run.schedule.num_steps) if known else None
        return DBState(run, computed=mask)

    def decide(self, step: Step, last: Step, state: DBState) -> tuple[Decision, DBState]:
        decision = self._decided(step, last, state)
        state.reused += decision.compute.reused
        return decision, state

    def _decided(self, step: Step, last: Step, state: DBState) -> Decision:
        mask = state.computed
        if mask is not None and mask[min(step.index, len(mask) - 1)]:
            return Decision(ALL, Reason.SCHEDULED_COMPUTE)
        if mask is not None and self.static:
            return self.reused(Reason.SCHEDULED_PART, None, None, state)
        if self.most and state.reused >= self.most:
            return Decision(ALL, Reason.OVER, float(state.reused), float(self.most))
        if self.most_change and state.changed >= self.most_change:
            return Decision(ALL, Reason.OVER, state.changed, self.most_change)
        decision, _ = super().decide(step, last, state)
        score = decision.score
        state.changed += score or 0.0
        if score is not None and self.threshold >= ALWAYS:
            return self.reused(Reason.WITHIN, score, self.threshold, state)
        return decision
