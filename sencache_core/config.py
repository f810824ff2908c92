"""One frozen object that says how to cache, and starts runs with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .forecast.moments import Moments
from .forecast.reuse import Fitted, ReuseRule
from .measure.learnt_store import LearntStore
from .measure.lesson import Lesson
from .measure.prior import layers_known, prior_moments
from .measure.profile import Profile, ProfileHeader
from .model.families import Family, row_of
from .model.taps import TAPS as ALL_TAPS
from .model.taps import Tap
from .policies import Guarded, Guards, Off, Planned, Policy, Prior, RunInfo
from .policies.plan import Plan, evaluations_of
from .run.division import divide
from .run.facts import Facts, Stage
from .run.integral import NOT_TO_TRUTH, TO_TRUTH
from .run.session import Session
from .run.stats import RunReport
from .sampler.path import clean_of
from .sampler.pattern import known
from .sampler.schedule import Schedule
from .sampler.solver import transitions
from .types import GAP, OUTPUT, STACK

#: What a run heads for: what the uncached sampler would have made, or the exact solution that the
#: sampler approximates.
AIMS = ("same", "true")

#: Taps that hold one payload for the whole model, for policies that decide about all of it.
TAPS = (OUTPUT.tap, STACK.tap)

#: Two outputs before anything is forecast: from one alone there is only holding, and no probe
#: measures how far its error travels. More is the policy's to decide, for a plan the plan's:
#: evaluations of a first tenth that is always computed are missing later. Ours, chosen on clips
#: that no table holds; ``planned-first-tenth`` in benchmarks/RESULTS.md has it on others.
DEFAULT_GUARDS = Guards(warmup=2, start=None)

#: Expected RMS error of the final latent, of RMS 1, beyond which a short run is not cached: runs of
#: about 10 steps are ruined there, by the bundled priors (ours; docs/theory.md, section 7).
MOST_EXPECTED = 0.12


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
            that is sound.
        aim: ``"same"`` reproduces what the uncached sampler would have made; ``"true"`` heads for
            the exact solution of the model's equation, as if it had taken many more steps. Then
            every computed step is corrected too, also at a budget of 1. Samplers for which that is
            not known to be sound do the former, and say so.
        min_steps: runs of fewer steps are computed in full. Distilled models have no redundant
            steps; peers' threads agree on about 10. Runs without guidance of less than twice as
            many are, too, where the plan expects too much of the clip to be lost.
        gap_rule: forecasts the difference of a guidance pair where the policy runs the conditional
            branch alone.
        most_bytes: bound on the memory of kept outputs; beyond it outputs are computed instead.
            ``None``: no bound.
        learn: where what completed runs tell of their model lies, a folder or a store; later runs
            plan from it unless a profile is connected. ``None``: nothing is learnt or looked up.
            Needs a checkpoint's fingerprint, which the hosts give.
    """

    policy: Policy = field(default_factory=Planned)
    rule: ReuseRule = field(default_factory=Fitted)
    guards: Guards = DEFAULT_GUARDS
    budget: float | None = 0.5
    profile: Profile | None = None
    tap: str = "output"
    hindsight: bool = True
    aim: str = "same"
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
        facts, schedule = facts or Facts(), known(schedule)
        row = row_of(family, facts.prediction)
        report = RunReport(
            family=row.name,
            policy=self.policy.name,
            rule=self.rule.name,
            tap=self.tap_in_use,
            num_steps=schedule.num_steps,
            budget=None if self.policy.fixed else self.budget,
        )
        if family is None:
            report.say(
                "This model is of no known family: it is cached on an even schedule, with generic "
                "sensitivities."
            )
        elif row is not family:
            report.say(
                f"This {family.title} model predicts {facts.prediction}, not {family.prediction} "
                "as its family does: it is cached like an unknown model, on an even schedule."
            )
        if self.profile is not None and header is not None:
            for note in self.profile.mismatches(header):
                report.say(f"Note: {note}; its figures may not fit.")
        lesson = None
        if self.learn is not None and header is not None and not row.generic:
            lesson = Lesson.of(self.learn, header, schedule, report)
        run = self._known(row, schedule, facts, report, lesson)
        report.rule = run.rule.name
        later = self._later(run, facts, header, report)
        if self.aim == "true" and self.policy.reuses:
            report.say(TO_TRUTH if run.to_truth else NOT_TO_TRUTH)

        def replan(schedule: Schedule) -> tuple[Policy, RunInfo]:
            again = replace(run, schedule=schedule, transitions=None, to_truth=False)
            return self._policy(again, report, facts, later), again

        gap = self.gap_rule.bound(run.moments and run.moments.of_gap(), run.times)
        rules = {OUTPUT.tap: run.rule, STACK.tap: run.rule, GAP.tap: gap}
        rules |= self.policy.rules_in(run)
        policy = self._policy(run, report, facts, later)
        witness = lesson.witness() if lesson is not None and policy.reuses else None
        if witness is not None and lesson.wants_all:
            lesson.announce()
            policy = Off()
        return Session(policy, rules, run, report, self.most_bytes, replan, witness)

    def plan(
        self, family: Family | None, schedule: Schedule, header: ProfileHeader | None = None
    ) -> Plan:
        """The schedule that a run would begin with; nothing is sampled.

        Arguments as for :meth:`start`, whose report says what the run would say.

        Raises:
            ValueError: the policy decides as the run goes, or its mask does not fit the schedule.
        """
        course = self.start(family, schedule, header).course
        if why := self.policy.misfit(course.run):
            raise ValueError(why)
        return course.policy.plan(course.run, DEFAULT_GUARDS)

    def _known(
        self,
        row: Family,
        schedule: Schedule,
        facts: Facts,
        report: RunReport,
        lesson: Lesson | None,
        first: bool = True,
    ) -> RunInfo:
        """What is known of a run; ``first``: not of one that is to follow."""
        moments = self._moments(row, schedule, report, lesson, first)
        steps, multistep = self._transitions(row, schedule, facts, report)
        rule = self.rule.bound(moments, [row.time(sigma) for sigma in schedule.rounds])
        clean = None
        plain = not (OUTPUT.tap in self.policy.rules or self.policy.needs_pairs or rule.reads_x)
        if schedule.draws and self.tap_in_use == OUTPUT.tap and plain:
            clean = facts.clean or (clean_of(row) if row.prediction == "flow" else None)
        return RunInfo(
            row,
            schedule,
            self.profile or Prior(row),
            moments,
            steps,
            rule if clean is None else rule.in_noise(),
            facts.x0_seen and schedule.sigmas[-1] > 0,
            facts.guided,
            facts.clean,
            to_truth=self.aim == "true" and steps is not None,
            multistep=multistep,
            channels=facts.channels,
            kept_clean=clean,
            layers=layers_known(self.profile, row),
        )

    def _later(
        self, run: RunInfo, facts: Facts, header: ProfileHeader | None, report: RunReport
    ) -> list[RunInfo]:
        """What is known of the stages that are to follow a run and share its budget."""
        out: list[RunInfo] = []
        moments = run.moments
        if moments is None or moments.gain is None or not self.policy.planned:
            return out  # what a stage's evaluations gain is not known
        for part in facts.stage.later:
            schedule, lesson = known(part.schedule), None
            aside = replace(report, messages=[])
            if self.learn is not None and header is not None:
                own = replace(header, fingerprint=part.fingerprint, guidance=part.guidance)
                lesson = Lesson.of(self.learn, own, schedule, aside)
            out.append(self._known(run.family, schedule, facts, aside, lesson, first=False))
        return out

    def _moments(
        self,
        row: Family,
        schedule: Schedule,
        report: RunReport,
        lesson: Lesson | None,
        first: bool,
    ) -> Moments | None:
        """Second moments to plan and forecast by; ``None`` where none would fit the model.

        Args:
            row: of the model.
            schedule: of the run.
            report: told what they rest on.
            lesson: what earlier runs have told.
            first: whether the profile is this model's; that of an earlier stage's serves where it
                was measured.
        """
        profile = self.profile.moments if self.profile is not None else None
        if profile is not None and (first or profile.t[0] < row.time(schedule.sigmas[0])):
            report.rests_on("profile", self.policy.planned)
            return profile
        if row.generic:
            return None
        prior = prior_moments(row.name)
        if lesson is not None:
            times = [row.time(sigma) for sigma in schedule.rounds]
            if (moments := lesson.moments(prior, times)) is not None:
                report.rests_on("learnt", self.policy.planned, lesson.known.header.samples)
                return moments
        report.rests_on("prior", self.policy.planned)
        return prior

    def _transitions(self, row: Family, schedule: Schedule, facts: Facts, report: RunReport):
        """The sampler's steps, if forecasts are to be taken back and that is sound, and what it
        carries on from one to the next; ``None`` where that is nothing, or there are none.
        """
        # The payload of another tap is not what the sampler steps with.
        wanted = self.hindsight or self.aim == "true"
        moving = self.policy.rules.get(OUTPUT.tap, self.rule).reads_x
        if not wanted or self.tap_in_use != OUTPUT.tap or row.generic or moving:
            return None, None
        steps, multistep = transitions(row, schedule, facts.clean), None
        if steps is None and self.aim == "true" and facts.multistep and schedule.by_list:
            multistep = facts.multistep()
        if multistep is not None:
            steps = multistep.transitions(schedule.sigmas, facts.clean or clean_of(row))
        if steps is not None and not facts.linear_guidance:
            report.say(
                "Forecasts are not taken back: this guidance is no fixed combination of its "
                "branches (rescaled, projected or clipped)."
            )
            return None, None
        return steps, multistep

    def _policy(
        self, run: RunInfo, report: RunReport, facts: Facts, later: Sequence[RunInfo]
    ) -> Policy:
        """The policy to run with: off where caching cannot pay, else guarded, for the budget.

        Args:
            run: what is known of it.
            report: told why it is not as asked for.
            facts: what the host knows.
            later: what is known of the stages that share the budget.
        """
        stage = facts.stage
        if not self.policy.reuses:
            return self.policy
        if why := self._why_off(run, stage):
            report.say(f"Caching is off: {why}")
            return Off()
        own = self.policy.own_guards(self.guards, DEFAULT_GUARDS)
        if own.start is None:
            own = replace(own, start=self.policy.opening)
        clip, steps = own, run.schedule.num_steps
        if not self.policy.fixed:
            own = stage.guards(clip, steps)
        if self.budget is None or self.policy.fixed:
            return Guarded(self.policy, own)
        rounds = len(run.schedule.rounds)
        evaluations = evaluations_of(self.budget, rounds, stage.carry)
        if later:
            profiled = self.profile is not None and run.moments is self.profile.moments
            evaluations = divide(
                self.policy, self.budget, run, later, clip, stage, report, profiled
            )
        if evaluations >= rounds and not run.to_truth:
            return Off()
        guards = self.policy.fit_guards(own, evaluations, run)
        forced = self.policy.fewest(guards, run)
        if forced > evaluations:
            report.say(
                f"The budget of {evaluations} of {rounds} evaluations cannot be met: start/end, "
                f"warm-up, the longest run and the policy force {forced:g}, which is what this run "
                "spends."
            )
        elif self.policy.raised(own, guards):
            report.say(
                f"{evaluations} of {rounds} evaluations need up to {guards.longest_run} reuses in "
                f"a row; the limit of {own.longest_run} was raised for this run."
            )
        evaluations = max(evaluations, forced)
        policy = Guarded(self.policy.for_budget(evaluations, run, guards), guards, evaluations)
        short = stage.steps(steps) < 2 * self.min_steps
        if self.policy.planned and short and not facts.guided:
            expected = policy.plan(run, guards).error
            if expected > MOST_EXPECTED:
                report.say(
                    f"Caching is off: with {evaluations:g} of {rounds} evaluations the clip would "
                    f"be off by about {expected:.0%}. A run of {steps} steps "
                    "without guidance, as of distilled models, has few to spare; a larger budget, "
                    "or more steps, allows it."
                )
                return Off()
        return policy

    def _why_off(self, run: RunInfo, stage: Stage) -> str:
        """Why a run must be computed in full, as the end of a sentence; empty: it need not."""
        schedule, steps = run.schedule, stage.steps(run.schedule.num_steps)
        if steps < self.min_steps:
            what = "run" if steps == schedule.num_steps else "clip"
            return (
                f"this {what} has {steps} steps, and {what}s of fewer than {self.min_steps} "
                "(distilled models, speed LoRAs) have none to spare. Lower min_steps to cache all "
                "the same."
            )
        if not schedule.falling:
            return "the sampler's noise levels do not fall throughout."
        if schedule.adaptive:
            return (
                f"the sampler {schedule.sampler} measures its own error to choose its steps, and "
                "would measure that of the forecasts instead."
            )
        if schedule.comes_back:
            return (
                f"the sampler {schedule.sampler} looks ahead and comes back to more noise, which "
                "outputs at less noise cannot predict."
            )
        if why := self.policy.misfit(run):  # a workflow's steps have changed: let it finish
            return f"{why}."
        return ""

    def with_tolerance(self, tolerance: float) -> CacheConfig:
        """This configuration, ruled by a tolerance instead of a budget.

        Raises:
            ValueError: the policy has no tolerance, or it is negative.
        """
        return replace(self, policy=self.policy.with_tolerance(tolerance), budget=None)
