"""One frozen object that says how to cache, and starts runs with it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .forecast.reuse import Fitted, ReuseRule
from .measure.prior import prior_moments
from .measure.profile import Profile, ProfileHeader
from .model.families import GENERIC, Family
from .policies import Guarded, Guards, Off, Planned, Policy, Prior, RunInfo, Threshold
from .policies.planned import rounds_of
from .policies.planner import Plan, Planner, evaluations_of, longest_run
from .run.session import Session
from .run.stats import RunReport
from .sampler.schedule import Schedule
from .sampler.solver import transitions

TAPS = ("output", "stack")

#: Two outputs before anything is forecast: from one alone there is only holding, and no probe
#: measures how far its error travels. More is the policy's to decide, for a plan the plan's:
#: evaluations of a first tenth that is always computed are missing later. Ours, chosen on clips
#: that no table holds; ``planned-first-tenth`` in benchmarks/RESULTS.md has it on others.
DEFAULT_GUARDS = Guards(warmup=2, start=None)


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
        min_steps: runs of fewer steps are computed in full. Distilled models have no redundant
            steps; peers' threads agree on about 10.
        gap_rule: forecasts the difference of a guidance pair where the policy runs the conditional
            branch alone.
    """

    policy: Policy = field(default_factory=Planned)
    rule: ReuseRule = field(default_factory=Fitted)
    guards: Guards = DEFAULT_GUARDS
    budget: float | None = 0.5
    profile: Profile | None = None
    tap: str = "output"
    hindsight: bool = True
    min_steps: int = 10
    gap_rule: ReuseRule = field(default_factory=Fitted)

    def __post_init__(self) -> None:
        if self.budget is not None and not 0 < self.budget <= 1:
            raise ValueError(f"budget is a share of the evaluations in (0, 1], not {self.budget}")
        if self.tap not in TAPS:
            raise ValueError(f"tap must be one of {', '.join(TAPS)}, not {self.tap!r}")

    def start(
        self, family: Family | None, schedule: Schedule, header: ProfileHeader | None = None
    ) -> Session:
        """A session for one run.

        Args:
            family: the model's row, ``None`` if unknown.
            schedule: the sampler's noise levels.
            header: what the host knows of the run, to be compared with the profile's.

        Raises:
            ProfileError: the profile belongs to another family or tap.
        """
        row = family or GENERIC
        report = RunReport(
            family=row.name,
            policy=self.policy.name,
            rule=self.rule.name,
            tap=self.tap,
            num_steps=schedule.num_steps,
            budget=self.budget,
        )
        if family is None:
            report.say(
                "This model is of no known family: its output is cached with sigma as time and "
                "generic sensitivities."
            )
        slopes = self.profile or Prior(row)
        if self.profile is not None and header is not None:
            for note in self.profile.mismatches(header):
                report.say(f"Note: {note}; its figures may not fit.")
        moments = self.profile.moments if self.profile is not None else None
        if moments is None:
            moments = prior_moments(row.name)
            if isinstance(self.policy, Planned) and not self.policy.mask:
                report.say(
                    "The plan follows a generic prior, measured on a tiny model; calibrate for "
                    "figures of this one."
                )
        # The stack's residual is not what the sampler steps with.
        steps = transitions(row, schedule) if self.hindsight and self.tap == "output" else None
        run = RunInfo(row, schedule, slopes, moments, steps, self.rule.bound(moments))
        policy = self._policy(run, report)
        return Session(policy, run.rule, run, report, self.gap_rule.bound(moments.of_gap()))

    def plan(self, family: Family | None, schedule: Schedule) -> Plan:
        """The schedule that a run would begin with; nothing is sampled.

        Arguments as for :meth:`start`, whose report says what the run would say.

        Raises:
            ValueError: the policy decides as the run goes, or its mask does not fit the schedule.
        """
        if isinstance(self.policy, Planned) and self.policy.mask:
            self.policy.fit_mask(len(schedule.rounds))
        session = self.start(family, schedule)
        policy, run = session.policy, session.run
        if isinstance(policy, Off):
            return Plan((True,) * len(run.times), 0.0)
        chosen = policy.inner if isinstance(policy, Guarded) else policy
        if not isinstance(chosen, Planned):
            raise ValueError(f"policy {self.policy.name!r} decides as the run goes: it has no plan")
        if not chosen.mask:
            return chosen.start(run).plan
        rounds, wanted = rounds_of(run, policy.guards), chosen.fit_mask(len(run.times))
        pairs = zip(wanted.mask, rounds, strict=True)
        mask = [compute or one.forced for compute, one in pairs]
        longest = longest_run(mask)
        taken_back = run.transitions is not None
        planner = Planner(rounds, run.moments, longest, taken_back, chosen.risk, run.rule)
        half = frozenset(k for k in wanted.half if not rounds[k].forced)
        return replace(planner.describe(mask), half=half)

    def _policy(self, run: RunInfo, report: RunReport) -> Policy:
        """The policy to run with: off where caching cannot pay, else guarded, for the budget."""
        steps = run.schedule.num_steps
        if steps < self.min_steps and not isinstance(self.policy, Off):
            report.say(
                f"Caching is off: this run has {steps} steps, and runs of fewer than "
                f"{self.min_steps} (distilled models, speed LoRAs) have none to spare. Lower "
                "min_steps to cache all the same."
            )
            return Off()
        if not run.schedule.falling:
            report.say("Caching is off: the sampler's noise levels do not fall throughout.")
            return Off()
        if run.schedule.adaptive:
            report.say(
                f"Caching is off: the sampler {run.schedule.sampler} measures its own error to "
                "choose its steps, and would measure that of the forecasts instead."
            )
            return Off()
        if run.schedule.comes_back:
            report.say(
                f"Caching is off: the sampler {run.schedule.sampler} looks ahead and comes back to "
                "more noise, where outputs of less noise foretell nothing."
            )
            return Off()
        if run.schedule.stochastic:
            report.say(
                f"The sampler {run.schedule.sampler} adds fresh noise at every step, which makes "
                "outputs harder to forecast; expect less quality at the same budget."
            )
        if isinstance(self.policy, Off):
            return self.policy
        own = self.guards
        if own.start is None:
            own = replace(own, start=self.policy.opening)
        if isinstance(self.policy, Planned) and self.policy.mask:
            report.budget = None
            try:
                self.policy.fit_mask(len(run.schedule.rounds))
            except ValueError as error:  # of a workflow whose steps have changed: let it finish
                report.say(f"Caching is off: {error}.")
                return Off()
            return Guarded(self.policy, own)
        if self.budget is None:
            return Guarded(self.policy, own)
        rounds = len(run.schedule.rounds)
        evaluations = evaluations_of(self.budget, rounds)
        if evaluations >= rounds:
            return Off()
        guards, limit = self.policy.fit_guards(own, evaluations, run), own.longest_run
        lowered = limit < DEFAULT_GUARDS.longest_run
        forced = self.policy.fewest(guards, run)
        if forced > evaluations:
            report.say(
                f"The budget of {evaluations} of {rounds} evaluations cannot be met: start/end, "
                f"warm-up, the longest run and the policy force {forced:g}, which is what this run "
                "spends."
            )
        elif guards.longest_run > limit and (lowered or not isinstance(self.policy, Planned)):
            report.say(
                f"{evaluations} of {rounds} evaluations need up to {guards.longest_run} reuses in "
                f"a row; the limit of {limit} was raised for this run."
            )
        evaluations = max(evaluations, forced)
        return Guarded(self.policy.for_budget(evaluations, run, guards), guards, evaluations)

    def with_tolerance(self, tolerance: float) -> CacheConfig:
        """This configuration, ruled by a tolerance instead of a budget.

        Raises:
            ValueError: the policy has no tolerance, or it is negative.
        """
        if not isinstance(self.policy, Threshold):
            raise ValueError(f"policy {self.policy.name!r} has no tolerance; use a budget")
        return replace(self, policy=self.policy.with_tolerance(tolerance), budget=None)
