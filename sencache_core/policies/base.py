"""The contract of a policy: decide whether one evaluation round may be reused."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol

from ..forecast.layers import LayerCurves
from ..forecast.moments import Moments
from ..forecast.reuse import ReuseRule
from ..model.families import Family
from ..model.taps import Tap
from ..sampler.response import Multistep
from ..sampler.schedule import Schedule
from ..sampler.solver import Clean
from ..types import Decision, Only, Reason, Step
from ..words import Message
from .plan import Plan

#: Reuses in a row that a budget may demand (ours): the smallest budget offered, 0.2 of 20 steps,
#: needs 6; beyond about 8 a forecast is a guess.
LONGEST_RUN = 8

#: Of every guidance pair the conditional branch alone; the other output is rebuilt from it.
CONDITIONAL = Only("conditional branch", lambda key: key.branch.role != "uncond")


class Slopes(Protocol):
    """Sensitivities by time: a measured ``Profile`` or a family's :class:`Prior`."""

    def at(self, t: float) -> tuple[float, float]:
        """``(alpha_x, alpha_t)``: RMS of the output's change per RMS of x and per unit t."""

    def speed(self, t: float) -> float:
        """RMS displacement of the latent per unit t along a trajectory."""

    def changes(self) -> tuple[Sequence[float], Sequence[float]] | None:
        """Relative changes from one step to the next, of what TeaCache looks at, and of the output
        along with it; ``None``: not measured.
        """


@dataclass(frozen=True)
class Prior:
    """Closed-form slopes of a family, for runs without a profile."""

    family: Family

    def at(self, t: float) -> tuple[float, float]:
        return self.family.prior(t)[:2]

    def speed(self, t: float) -> float:
        return self.family.prior(t)[2]

    def changes(self) -> None:
        return None


@dataclass(frozen=True)
class RunInfo:
    """What is known when a run starts.

    Attributes:
        family: the model's row.
        schedule: the sampler's noise levels.
        slopes: measured or closed-form sensitivities.
        moments: of the outputs, measured or from a bundled prior; ``None`` if there are none.
        transitions: the sampler's steps, if forecasts are taken back; see ``hindsight.py``.
        rule: makes the missing outputs, bound to ``moments``; ``None``: the fitted one.
        x0_seen: whether the run ends above noise level 0 and the clean latent that its last output
            stands for is seen by somebody.
        clean: how the host's sampler sees the clean latent, see ``solver.py``; ``None``: as the
            family's does.
        guided: whether more than the conditional branch is asked, as far as can be told.
        channels: dimension of the latent that holds its channels, those between it and the batch
            and those after it being frames, rows and columns; ``None``: it has no such grid.
        to_truth: whether the run heads for the exact solution that its sampler approximates, rather
            than for what the sampler would have made.
        kept_as: ``(p, q)`` by noise level of what is kept in an output's place, ``p x + q y``, see
            ``run/keeping.py``; ``None``: outputs are.
        layers: how the model's layers change, measured or from a bundled prior; ``None``: unknown.
        multistep: what its sampler carries on from step to step; ``None``: nothing.
        blocks: of the model's block stack; ``None``: not known.
        guidance: its scale of guidance; 0: not known.
        mends: whether forecasts that mislead give way to holding; else they are handed out as their
            rule makes them.
    """

    family: Family
    schedule: Schedule
    slopes: Slopes
    moments: Moments | None = None
    transitions: tuple[tuple[float, float], ...] | None = None
    rule: ReuseRule | None = None
    x0_seen: bool = False
    guided: bool = True
    clean: Clean | None = None
    to_truth: bool = False
    multistep: Multistep | None = None
    channels: int | None = 1
    kept_as: Clean | None = None
    blocks: int | None = None
    guidance: float = 0.0
    mends: bool = True
    layers: LayerCurves | None = None

    @property
    def times(self) -> tuple[float, ...]:
        """Time coordinates of the expected evaluation rounds, in order."""
        return tuple(self.family.time(sigma) for sigma in self.schedule.rounds)


@dataclass(frozen=True)
class Preset:
    """A published operating point, in this package's units.

    Attributes:
        family: key in ``FAMILIES`` that it was published for.
        policy, rule, guards, gap_rule: its settings.
        note: where the numbers come from.
    """

    family: str
    policy: Policy
    rule: ReuseRule
    guards: Guards
    note: str
    gap_rule: ReuseRule | None = None


class Policy(ABC):
    """Decides. Frozen; what changes during a run is the state value that goes in and comes out.

    Attributes:
        name: key in ``POLICIES``.
        title: what nodes show.
        decides: by what it decides, for the tables of README and help (``tools/tables.py``).
        opening: share of the steps computed at the start of a run, where the guards leave it to the
            policy.
        tap: the one tap that it works at; empty: a whole-model tap, as configured.
        looks: whether it decides by what it sees, see :meth:`signal`.
        seen: tensors of the payload's size that this keeps at most.
        reads_outputs: whether :meth:`observe` reads ``Step.output``.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    decides: ClassVar[str]
    #: As TeaCache's ret-steps mode on 50 steps. Without it thresholds and fixed intervals are poor
    #: on the bundled CogVideoX, whose gains are all at the start (ours).
    opening: ClassVar[float] = 0.1
    tap: ClassVar[str] = ""
    looks: ClassVar[bool] = False
    seen: ClassVar[int] = 0
    reads_outputs: ClassVar[bool] = False

    @classmethod
    def presets(cls) -> Mapping[str, Preset]:
        """Settings as published by their authors, by the name that people pick."""
        return {}

    def tapping(self, tap: Tap) -> Tap:
        """``tap`` as this policy uses it: which places it is to reach, where it can reach several.

        What is reached is kept at every evaluation: no more than may ever be reused.
        """
        return tap

    def signal(self, family: Family) -> str:
        """What it looks at in every round before it decides, by a name of ``model/signals.py``.

        ``Step.look`` is that, on the branch that leads; empty: it decides without.
        """
        return ""

    @property
    def enters(self) -> bool:
        """Whether what it looks at is inside the model."""
        return self.looks

    def check_choices(self) -> None:
        """Make sure that fields with choices have one of them.

        Raises:
            ValueError: one has not.
        """
        for one in fields(self):
            choices = one.metadata.get("choices")
            if choices and getattr(self, one.name) not in choices:
                raise ValueError(f"{one.name} must be one of {', '.join(choices)}")

    @property
    def rules(self) -> Mapping[str, ReuseRule]:
        """Reuse rules by tap that are part of the method; others are the user's to choose."""
        return {}

    def rules_in(self, run: RunInfo) -> Mapping[str, ReuseRule]:
        """:attr:`rules` by what is known of a run. Most are the same in all."""
        return self.rules

    @property
    def fixed(self) -> bool:
        """Whether its own settings say what a run costs, so that a budget has no say."""
        return False

    @property
    def planned(self) -> bool:
        """Whether its schedule follows from what was measured of the model."""
        return False

    @property
    def reuses(self) -> bool:
        """Whether it may ever reuse; if not, a run keeps and measures nothing."""
        return True

    @property
    def needs_pairs(self) -> bool:
        """Whether differences of guidance pairs are kept, so that one output of a pair can be
        rebuilt from the other.
        """
        return False

    @property
    def asked(self) -> float | None:
        """Evaluations that a run is to spend; ``None`` where no budget rules."""
        return None

    def start(self, run: RunInfo) -> Any:
        """State at the beginning of a run; ``None`` if the policy keeps none."""
        return None

    def resume(self, run: RunInfo, steps: Sequence[Step]) -> Any:
        """State in mid-run, for a run that turned out to be another than expected.

        Args:
            run: what is known now.
            steps: rounds that were computed in full, in order.
        """
        state = self.start(run)
        for step in steps:
            state = self.observe(step, state)
        return state

    @abstractmethod
    def decide(self, step: Step, last: Step, state: Any) -> tuple[Decision, Any]:
        """Reuse or compute this round?

        Args:
            step: the round at hand.
            last: the round of the last true evaluation.
            state: as returned by the call before.

        Returns:
            The decision and the new state. Guards (first and last steps, longest run...) have
            been asked before, see ``Guarded``.
        """

    def plan(self, run: RunInfo, guards: Guards) -> Plan:
        """The schedule that a run would begin with.

        Raises:
            ValueError: it decides as the run goes.
        """
        raise ValueError(f"policy {self.name!r} decides as the run goes: it has no plan")

    def ahead(self, state: Any) -> Plan | None:
        """The schedule that a run is to follow as things stand; ``None``: ``state`` holds none."""
        return None

    def misfit(self, run: RunInfo) -> Message | None:
        """Why it cannot serve such a run: a message ``off.``...; ``None``: it can."""
        return None

    def observe(self, step: Step, state: Any) -> Any:
        """Learn from a full evaluation at ``step``, whether this policy or a guard asked for it.

        Args:
            step: the round.
            state: as returned by the call before.

        Returns:
            The new state.
        """
        return state

    def with_tolerance(self, tolerance: float) -> Policy:
        """This policy with its main limit set to ``tolerance``, other limits in proportion.

        Raises:
            ValueError: it has none.
        """
        raise ValueError(f"policy {self.name!r} has no tolerance; use a budget")

    def own_guards(self, guards: Guards, default: Guards) -> Guards:
        """``guards`` as this policy takes them.

        Args:
            guards: as configured.
            default: as they are where the user has set none.
        """
        return guards

    def raised(self, guards: Guards, fitted: Guards) -> bool:
        """Whether a limit that the user may have meant, ``guards.longest_run``, was not kept."""
        return fitted.longest_run > guards.longest_run

    def fit_guards(self, guards: Guards, evaluations: int, run: RunInfo) -> Guards:
        """``guards`` with the shortest ``longest_run`` that leaves room for ``evaluations``.

        At equal cost many short runs of reuse beat few long ones (paper, ablation of n: 32.8, 29.0,
        28.1 and 26.5 dB for n = 1, 3, 4 and 7). If even :data:`LONGEST_RUN` reuses in a row are too
        few, because warm-up, last steps and start/end force too much, that many are returned.
        """
        steps, num_steps = run.schedule.steps(), run.schedule.num_steps
        for longest in range(1, max(guards.longest_run, LONGEST_RUN) + 1):
            fitted = replace(guards, longest_run=longest)
            if fitted.fewest(steps, num_steps) <= evaluations:
                break
        return fitted

    def fewest(self, guards: Guards, run: RunInfo) -> float:
        """Evaluations that no setting can go below; of the conditional branch alone: half a one."""
        return guards.fewest(run.schedule.steps(), run.schedule.num_steps)

    def for_budget(self, evaluations: float, run: RunInfo, guards: Guards) -> Policy:
        """This policy, set so that a run spends ``evaluations`` true evaluations in all, those of
        the conditional branch alone counted by half.

        Raises:
            ValueError: the policy has no setting that could do so.
        """
        raise ValueError(f"policy {self.name!r} cannot follow a budget; set its own options")


@dataclass(frozen=True)
class Guards:
    """Where reuse is allowed, for every policy alike. Shares are of *steps*, not of noise.

    Attributes:
        warmup: rounds computed at the start of a run.
        cooldown: steps computed at its end.
        longest_run: reuses allowed in a row.
        start, end: share of the steps before and after which every round is computed; ``None``
            leaves the start to the policy's ``opening``.
    """

    warmup: int = 1
    cooldown: int = 1
    longest_run: int = 3
    start: float | None = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= (self.start or 0.0) <= self.end <= 1:
            raise ValueError(f"need 0 <= start <= end <= 1, not {self.start} and {self.end}")
        if self.warmup < 1 or self.cooldown < 0 or self.longest_run < 0:
            raise ValueError("need warmup >= 1, cooldown >= 0 and longest_run >= 0")

    def forces(self, ordinal: int, index: int, num_steps: int, run: int) -> Reason | None:
        """Why this round must be computed, or ``None``.

        Args:
            ordinal: rounds before this one.
            index: its schedule step.
            num_steps: of the run.
            run: rounds reused since the last true evaluation.
        """
        if ordinal < self.warmup:
            return Reason.WARMUP if ordinal else Reason.FIRST
        if index >= num_steps - self.cooldown:
            return Reason.COOLDOWN
        if not (self.start or 0.0) <= index / num_steps < self.end:
            return Reason.WINDOW
        if run >= self.longest_run:
            return Reason.LONGEST_RUN
        return None

    def fewest(self, steps: tuple[int, ...], num_steps: int, ordinal: int = 0, run: int = 0) -> int:
        """Evaluations that these guards force from round ``ordinal`` on, nothing else asking.

        Args:
            steps: schedule step of every expected round.
            num_steps: of the run.
            ordinal: first round counted.
            run: rounds reused just before it.
        """
        count = 0
        for number in range(ordinal, len(steps)):
            if self.forces(number, steps[number], num_steps, run):
                count, run = count + 1, 0
            else:
                run += 1
        return count
