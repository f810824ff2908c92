"""One frozen object that says how to cache, and starts runs with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..forecast.reuse import Fitted, Hold, ReuseRule
from ..measure.learnt_store import LearntStore
from ..measure.lesson import Lesson
from ..measure.profile import Profile, ProfileHeader
from ..model.families import Family, row_of
from ..model.taps import TAPS as ALL_TAPS
from ..model.taps import Tap
from ..policies import Guards, Off, Planned, Policy, RunInfo
from ..policies.plan import Plan
from ..run.course import Replan
from ..run.facts import Facts
from ..run.foresee import foresee
from ..run.session import Session
from ..run.stats import RunReport
from ..run.witness import Witness
from ..sampler.pattern import known
from ..sampler.schedule import Schedule
from ..types import GAP, OUTPUT, STACK
from ..words import Message
from .choice import DEFAULT_GUARDS, choose
from .known import know, know_later

#: What a run heads for: what the uncached sampler would have made, or the exact solution that the
#: sampler approximates, or whichever the clip is nearer to the exact solution by.
AIMS = ("auto", "same", "true")

#: Taps that hold one payload for the whole model, for policies that decide about all of it.
TAPS = (OUTPUT.tap, STACK.tap)


@dataclass(frozen=True)
class Outlook:
    """What is known of a run before it begins.

    Attributes:
        plan: which rounds it will compute; ``None``: that is not known.
        report: what the run would say at its start, and what its plan rests on.
        reuses: whether anything will be reused.
        to_truth: whether the run heads for the exact solution.
        why: why there is no plan: a message, or an error's words; empty if there is one.
    """

    plan: Plan | None
    report: RunReport
    reuses: bool
    to_truth: bool
    why: Message | str = ""


@dataclass(frozen=True)
class _Ready:
    """What a session is made of."""

    policy: Policy
    run: RunInfo
    report: RunReport
    rules: Mapping[str, ReuseRule]
    replan: Replan
    witness: Witness | None


@dataclass(frozen=True)
class CacheConfig:
    """How to cache. Holds no state; the same object may serve many models and runs at once.

    Attributes:
        policy: decides when to skip.
        rule: makes the missing outputs.
        guards: where reuse is allowed. Under a budget ``longest_run`` is what the budget needs, or,
            with ``planned``, up to 8; lower than its default it holds there too while it can.
        budget: share of evaluations to spend, in 0..1; 1 turns caching off. ``None``: the policy's
            own tolerance or options rule.
        profile: measured sensitivities; ``None``: the bundled moments of ``prior.py`` for plans and
            fitted forecasts, the family's closed form for the policy ``sencache``.
        tap: ``"output"`` caches the model's output (latent-sized), ``"stack"`` the residual of the
            block stack, as the paper's code does (many times the memory).
        hindsight: take forecasts back once the outputs around them are known, with samplers where
            that is sound, and hold instead where they prove to mislead.
        aim: ``"same"`` reproduces what the uncached sampler would have made; ``"true"`` heads for
            the exact solution of the model's equation, as if it had taken many more steps. Then
            every computed step is corrected too, also at a budget of 1. Samplers for which that is
            not known to be sound do the former, and say so. ``"auto"`` is the latter where a plan
            saves evaluations and it is sound, else the former; why: docs/theory.md, section 9.
        min_steps: runs of fewer steps are computed in full. Distilled models have no redundant
            steps; peers' threads agree on about 10. Runs without guidance of less than twice as
            many are, too, where the plan expects too much of the clip to be lost.
        gap_rule: forecasts the difference of a guidance pair where the policy runs the conditional
            branch alone.
        most_bytes: bound on the memory of kept outputs; beyond it outputs are computed instead.
            ``None``: no bound.
        learn: where what completed runs tell of their model lies, a folder or a store; later runs
            forecast by it unless a profile is connected. ``None``: nothing is learnt or looked up.
            Needs a checkpoint's fingerprint, which the hosts give.
    """

    policy: Policy = field(default_factory=Planned)
    rule: ReuseRule = field(default_factory=Fitted)
    guards: Guards = DEFAULT_GUARDS
    budget: float | None = 0.5
    profile: Profile | None = None
    tap: str = "output"
    hindsight: bool = True
    aim: str = "auto"
    min_steps: int = 10
    gap_rule: ReuseRule = field(default_factory=Fitted)
    most_bytes: int | None = None
    learn: LearntStore | Path | str | None = None

    def __post_init__(self) -> None:
        if self.budget is not None and not 0 < self.budget <= 1:
            raise ValueError(f"budget is a share of the evaluations in (0, 1], not {self.budget}")
        if self.aim not in AIMS:
            raise ValueError(f"aim must be one of {', '.join(AIMS)}, not {self.aim!r}")
        if self.tap not in TAPS:
            raise ValueError(f"tap must be one of {', '.join(TAPS)}, not {self.tap!r}")
        if self.rule.reads_x and self.tap_in_use != OUTPUT.tap:
            raise ValueError(f"the rule {self.rule.name} works at the output tap only")
        if isinstance(self.learn, str | Path):
            object.__setattr__(self, "learn", LearntStore(Path(self.learn)))

    @property
    def tap_in_use(self) -> str:
        """Name of the tap that a run caches at: the policy's own, else :attr:`tap`."""
        return self.policy.tap or self.tap

    @property
    def enters_model(self) -> bool:
        """Whether something inside the model is looked at or answered, rather than its output."""
        return self.tapping.inside or self.policy.enters

    @property
    def tapping(self) -> Tap:
        """The tap that a run caches at, as the policy uses it."""
        return self.policy.tapping(ALL_TAPS[self.tap_in_use])

    @property
    def to_truth(self) -> bool:
        """Whether a run heads for the exact solution where that is sound."""
        if self.aim == "auto":
            saves = self.budget is not None and self.budget < 1 and self.policy.planned
            return saves and self.hindsight
        return self.aim == "true"

    @property
    def output_rule(self) -> ReuseRule:
        """What makes the model's missing outputs: the policy's own rule, else :attr:`rule`."""
        return self.policy.rules.get(OUTPUT.tap, self.rule)

    def start(
        self,
        family: Family | None,
        schedule: Schedule,
        header: ProfileHeader | None = None,
        facts: Facts | None = None,
    ) -> Session:
        """A session for one run.

        Args:
            family: the model's row, ``None`` if unknown.
            schedule: the sampler's noise levels.
            header: what the host knows of the run, to be compared with the profile's.
            facts: what it knows besides.

        Raises:
            ProfileError: the profile belongs to another family or tap.
        """
        ready = self._ready(family, schedule, header, facts)
        return Session(
            *(ready.policy, ready.rules, ready.run, ready.report),
            *(self.most_bytes, ready.replan, ready.witness),
        )

    def _ready(
        self,
        family: Family | None,
        schedule: Schedule,
        header: ProfileHeader | None,
        facts: Facts | None,
    ) -> _Ready:
        """What a run begins with; arguments as for :meth:`start`."""
        facts, schedule = facts or Facts(), known(schedule)
        row = row_of(family, facts.prediction)
        report = RunReport(
            family=row.name,
            policy=self.policy.name,
            rule=self.rule.name,
            tap=self.tap_in_use,
            num_steps=schedule.num_steps,
            budget=None if self.policy.fixed else self.budget,
            before=facts.stage.before,
            whole=facts.stage.steps(schedule.num_steps),
        )
        if family is None:
            report.say("unknown_family")
        elif row is not family:
            prediction = {"prediction": facts.prediction, "usual": family.prediction}
            report.say("unlike_family", family=family.title, **prediction)
        if self.profile is not None and header is not None:
            for note in self.profile.mismatches(header):
                report.say(note)
        lesson = None
        if self.learn is not None and header is not None and not row.generic:
            lesson = Lesson.of(self.learn, header, schedule, report)
        run = know(self, row, schedule, facts, report, lesson)
        later = know_later(self, run, facts, header, report)
        if self.policy.reuses and run.to_truth:
            report.say("aim.true")
        elif self.policy.reuses and self.aim == "true":
            report.say("aim.same")

        def replan(schedule: Schedule) -> tuple[Policy, RunInfo]:
            again = replace(run, schedule=schedule, transitions=None, to_truth=False)
            return choose(self, again, report, facts, later), again

        gap = self.gap_rule.bound(run.moments and run.moments.of_gap(), run.times)
        rules = {OUTPUT.tap: run.rule, STACK.tap: run.rule, GAP.tap: gap}
        rules |= self.policy.rules_in(run)
        report.rule = rules.get(self.tap_in_use, Hold()).name
        policy = choose(self, run, report, facts, later)
        witness = lesson.witness() if lesson is not None and policy.reuses else None
        if witness is not None and lesson.wants_all:
            lesson.announce()
            policy = Off()
        return _Ready(policy, run, report, rules, replan, witness)

    def outlook(
        self,
        family: Family | None,
        schedule: Schedule,
        header: ProfileHeader | None = None,
        facts: Facts | None = None,
    ) -> Outlook:
        """What a run would begin with; nothing is sampled. Arguments as for :meth:`start`.

        Raises:
            ProfileError: as for :meth:`start`.
        """
        ready = self._ready(family, schedule, header, facts)
        run, policy = ready.run, ready.policy
        why, plan = self.policy.misfit(run) or "", None
        try:
            if not why and type(self.policy).plan is Policy.plan:  # it makes none of its own
                plan = foresee(policy, run)
            if not why and plan is None:
                plan = policy.plan(run, DEFAULT_GUARDS)
        except ValueError as error:
            why = str(error)
        return Outlook(plan, ready.report, policy.reuses, run.to_truth, why)

    def plan(
        self,
        family: Family | None,
        schedule: Schedule,
        header: ProfileHeader | None = None,
        facts: Facts | None = None,
    ) -> Plan:
        """The schedule that a run would begin with; arguments as for :meth:`start`.

        Raises:
            ValueError: the policy decides as the run goes, or its mask does not fit the schedule.
        """
        outlook = self.outlook(family, schedule, header, facts)
        if outlook.plan is None:
            raise ValueError(str(outlook.why))
        return outlook.plan

    def with_tolerance(self, tolerance: float) -> CacheConfig:
        """This configuration, ruled by a tolerance instead of a budget.

        Raises:
            ValueError: the policy has no tolerance, or it is negative.
        """
        return replace(self, policy=self.policy.with_tolerance(tolerance), budget=None)
