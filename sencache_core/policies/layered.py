"""What policies share that decide for every layer of every block, before anything is reused."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np

from ..forecast.reuse import Hold, ReuseRule
from ..model.taps import Tap
from ..types import ALL, CROSS, MLP, SELF, Decision, Key, Only, Reason, Site, Step
from ..words import Message
from .base import Guards, Policy, RunInfo

#: By kind ``[depth, rounds]``: whether a layer is reused at a round.
Reused = Mapping[str, np.ndarray]

_NAMES = {SELF: "self-attention", CROSS: "cross-attention", MLP: "feed-forward"}
KINDS = tuple(_NAMES)
#: Which layers may be reused, by the name that people pick.
WHERE = {
    "all": KINDS,
    "attention": (SELF, CROSS),
    "self-attention": (SELF,),
    "feed-forward": (MLP,),
}
#: Of a field ``where``.
WHERE_HELP = {
    "choices": tuple(WHERE),
    "help": "Which layers may be reused. Each keeps an output of every block, as large as all "
    "tokens together: many gigabytes on large models. self-attention alone takes a third.",
}
#: Beyond it a figure means no limit at all (ours).
_LARGEST = 1e6


@dataclass(frozen=True)
class Work:
    """The layers of a stack of blocks that a run has met.

    Attributes:
        depth: blocks.
        shares: by kind, of the model's block work, ``[depth]``; 0 where a block lacks one.
    """

    depth: int
    shares: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, work: Mapping[Site, float], tap: str) -> list[Work]:
        """Of what was met, one a depth: guidance may ask a second, smaller model."""
        stacks: dict[int, dict[str, np.ndarray]] = {}
        for site, share in work.items():
            if site.tap == tap:
                shares = stacks.setdefault(site.count, {})
                shares.setdefault(site.kind, np.zeros(site.count))[site.index] = share
        return [cls(depth, shares) for depth, shares in stacks.items()]

    def spared(self, reused: Reused, rounds: int) -> np.ndarray:
        """``[rounds]``: share of the block work that is not done at each."""
        total = np.zeros(rounds)
        for kind, shares in self.shares.items():
            if kind in reused:
                total += shares @ reused[kind]
        return total


@dataclass
class LayerState:
    """Run state of a schedule of layers.

    Attributes:
        run: what is known of the run.
        reused: the schedule of each stack by its depth; ``None`` until layers have been met; empty
            if there are none.
    """

    run: RunInfo
    reused: Mapping[int, Reused] | None = None


class LayerSchedule(Policy):
    """A policy whose schedule of every layer follows from what was measured, and from one figure.

    The schedule is made when the first evaluation has shown which layers there are and what share
    of the work each is, so that a budget is met but for less than what one round spares.

    Attributes:
        knob: name of the field that a budget sets; the larger, the more is reused.
        least: smallest share of the work that a round costs on average where nothing is forced.
        where: which layers may be reused, a key of :data:`WHERE`.
    """

    tap: ClassVar[str] = "layers"
    #: The origins compute the first step in full, and no more.
    opening: ClassVar[float] = 0.0
    knob: ClassVar[str] = "threshold"
    least: ClassVar[float] = 0.0
    where: str = "all"

    @abstractmethod
    def measured(self, run: RunInfo, work: Work) -> Any:
        """What schedules are made from: figures of the model's layers at the run's rounds."""

    @abstractmethod
    def schedule(self, measured: Any, work: Work, forced: Sequence[bool]) -> Reused:
        """Which layers are reused when.

        Args:
            measured: as :meth:`measured` gives it.
            work: of the model's layers.
            forced: by round, whether it is computed in any case.
        """

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of layers that may be reused."""
        return WHERE[self.where]

    @property
    def rules(self) -> Mapping[str, ReuseRule]:
        return {self.tap: Hold()}

    def tapping(self, tap: Tap) -> Tap:
        return replace(tap, kinds=self.kinds)

    def start(self, run: RunInfo) -> LayerState:
        return LayerState(run)

    def decide(self, step: Step, last: Step, state: LayerState) -> tuple[Decision, LayerState]:
        if state.reused is None:
            forced = [number == 0 for number in range(len(state.run.times))]
            state.reused = {
                work.depth: self.schedule(self.measured(state.run, work), work, forced)
                for work in Work.of(step.work, self.tap)
            }
        return self.wanted(step.ordinal, state.reused), state

    def wanted(self, ordinal: int, reused: Mapping[int, Reused]) -> Decision:
        """What is to run in a round, by the schedules of stacks by their depth."""
        rows = {
            (depth, kind): when[:, ordinal]
            for depth, schedule in reused.items()
            for kind, when in schedule.items()
            if ordinal < when.shape[1]
        }
        if any(reused.values()) and not any(row.any() for row in rows.values()):
            return Decision(ALL, Reason.SCHEDULED_COMPUTE)
        tap = self.tap

        def runs(key: Key) -> bool:
            row = rows.get((key.site.count, key.site.kind))
            if key.site.tap != tap or row is None or len(row) != key.site.count:
                return True  # the last: a router of another model
            return not row[key.site.index]

        return Decision(Only(_name(rows), runs), Reason.SCHEDULED_PART)

    def with_tolerance(self, tolerance: float) -> LayerSchedule:
        return replace(self, **{self.knob: tolerance})

    def fit_guards(self, guards: Guards, evaluations: int, run: RunInfo) -> Guards:
        """No round is reused as a whole: guards stay as they are."""
        return guards

    def fewest(self, guards: Guards, run: RunInfo) -> float:
        free = sum(not forced for forced in _forced(guards, run))
        return len(run.times) - free * (1 - self.least)

    def for_budget(self, evaluations: float, run: RunInfo, guards: Guards) -> Policy:
        return BudgetedLayers(self, guards, evaluations)


def unknown(run: RunInfo) -> Message | None:
    """Why a policy cannot go by how layers change; ``None``: it can."""
    if run.layers is not None:
        return None
    return Message.of("off.layers_unknown", family=run.family.title)


class Changes(LayerSchedule):
    """A schedule of layers that follows from how they change, see ``forecast/layers.py``.

    Attributes:
        threshold: largest change; 0 computes everything.
    """

    threshold: float

    def __post_init__(self) -> None:
        if self.threshold < 0:
            raise ValueError(f"threshold must not be negative, not {self.threshold}")
        self.check_choices()

    def misfit(self, run: RunInfo) -> Message | None:
        return unknown(run)

    def changes(self, run: RunInfo, work: Work, lags: int = 1) -> dict[str, list[np.ndarray]]:
        """By kind, at ``[k]`` ``[depth, rounds - k - 1]``: relative L1 between the outputs of a
        round and the one ``k + 1`` later. Kinds that were not measured are left out.
        """
        curves, times = run.layers.at_depth(work.depth), run.times

        def rows(kind: str, lag: int) -> np.ndarray:
            pairs = zip(times, times[lag:], strict=False)
            found = [curves.change(kind, before, t) for before, t in pairs]
            return np.array(found).reshape(-1, work.depth).T

        kinds = [kind for kind in work.shares if kind in curves.kinds]
        return {kind: [rows(kind, lag) for lag in range(1, lags + 1)] for kind in kinds}


class Spaced(LayerSchedule):
    """All layers every ``interval`` rounds, none of them in between: FORA (Selvaraju et al.,
    "FORA: Fast-Forward Caching in Diffusion Transformer Acceleration", arXiv 2407.01425).

    Attributes:
        interval: mean distance between rounds that compute layers; 1 computes everything.
    """

    knob: ClassVar[str] = "interval"
    interval: float

    def __post_init__(self) -> None:
        if self.interval < 1:
            raise ValueError(f"interval must be at least 1, not {self.interval}")
        self.check_choices()

    def measured(self, run: RunInfo, work: Work) -> None:
        return None

    def schedule(self, measured: None, work: Work, forced: Sequence[bool]) -> Reused:
        when, passed = [], 0.0
        for compute in forced:
            due = compute or passed + 1 >= self.interval - 1e-9
            passed = max(0.0, passed + 1 - self.interval) if due else passed + 1
            when.append(not due)
        return {kind: np.tile(np.array(when), (work.depth, 1)) for kind in work.shares}


@dataclass(frozen=True)
class BudgetedLayers(Policy):
    """``inner`` with its figure such that a run costs ``evaluations``, or the nearest below."""

    name: ClassVar[str] = "budgeted_layers"
    title: ClassVar[str] = "Budgeted layers"
    inner: LayerSchedule
    guards: Guards
    evaluations: float

    def start(self, run: RunInfo) -> LayerState:
        return self.inner.start(run)

    def decide(self, step: Step, last: Step, state: LayerState) -> tuple[Decision, LayerState]:
        if state.reused is None:
            stacks = Work.of(step.work, self.inner.tap)
            state.reused = {work.depth: self.solved(state.run, work) for work in stacks}
        return self.inner.wanted(step.ordinal, state.reused), state

    def solved(self, run: RunInfo, work: Work) -> Reused:
        """The schedule."""
        inner, forced = self.inner, _forced(self.guards, run)
        measured, free = inner.measured(run, work), ~np.array(forced)

        def made(figure: float) -> tuple[float, Reused]:
            own = replace(inner, **{inner.knob: figure})
            reused = own.schedule(measured, work, forced)
            return len(free) - float(work.spared(reused, len(free)) @ free), reused

        strict = next(f for f in fields(inner) if f.name == inner.knob).metadata["strictest"]
        low, high = strict, max(2 * strict, 1e-3)
        while made(high)[0] > self.evaluations + 1e-9 and high < _LARGEST:
            low, high = high, high * 2
        for _ in range(40):
            middle = (low + high) / 2
            if made(middle)[0] > self.evaluations + 1e-9:
                low = middle
            else:
                high = middle
        return made(high)[1]


def _forced(guards: Guards, run: RunInfo) -> list[bool]:
    """By round, whether guards have it computed."""
    steps = run.schedule.steps()
    return [
        guards.forces(number, index, run.schedule.num_steps, 0) is not None
        for number, index in enumerate(steps)
    ]


def _name(reused: Mapping[tuple[int, str], np.ndarray]) -> str:
    """What runs where ``reused``, by depth and kind ``[depth]``, does not."""
    count = sum(int(row.sum()) for row in reused.values())
    kinds = {kind for _, kind in reused}
    if count == sum(map(len, reused.values())) and (not reused or kinds > {MLP}):
        return "no layers"
    whole = [k for k in kinds if all(row.all() for (_, of), row in reused.items() if of == k)]
    if whole and count == sum(len(row) for (_, kind), row in reused.items() if kind in whole):
        return f"all but {' and '.join(_NAMES[kind] for kind in _NAMES if kind in whole)}"
    return f"all but {count} layers"
