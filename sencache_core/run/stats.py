"""The run report: one JSON contract for nodes, command line, plots and tests."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from statistics import median_high

from ..types import FORCED, NONE, Decision, Reason, Site, Step
from ..words import Message, Speaker, about

REPORT_VERSION = 1

#: Reasons of rounds that were to be reused, or run in part, and could not be.
_NOT_SPARED = {Reason.NO_HISTORY.value, Reason.NO_PAIR.value}


@dataclass
class StepRecord:
    """One evaluation round.

    Attributes:
        ordinal: number of the round, from 0.
        step: schedule step it belongs to, from 0.
        sigma: noise level.
        t: the family's time coordinate.
        decision: ``"computed"``, ``"forced"`` (computed because a guard said so), ``"partial"``
            (only what ``part`` names ran), ``"reused"``, or ``"idle"``: the model was not asked.
        reason: why, in words (a ``Reason`` value).
        score, limit: what the policy compared, ``None`` where it compared nothing.
        part: what ran in a partial round, in words, empty in others.
        error: RMS of (forecast - truth) / RMS of truth on the leading branch, where both exist.
        calls: model calls run in this round.
        cost: share of the round's branches that ran, hence of its block executions, 0..1.
        branches: share of each branch that ran, 0..1, in rounds where they differ: ``"cond"``,
            ``"uncond"``; of several of one role (context windows, areas) in the order in which they
            were asked, ``"cond 2"``.
        seconds: wall-clock time from this round's start to the next one's.
    """

    ordinal: int
    step: int
    sigma: float
    t: float
    decision: str
    reason: str
    score: float | None = None
    limit: float | None = None
    part: str = ""
    error: float | None = None
    calls: int = 0
    cost: float = 0.0
    branches: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def of(cls, step: Step, decision: Decision) -> StepRecord:
        """The record of a round that begins; its cost is a guess until it has ended."""
        record = cls(step.ordinal, step.index, step.sigma, step.t, "", "")
        record.decided(decision)
        return record

    def decided(self, decision: Decision) -> None:
        """Write down what was decided; what it costs is a guess until the round has ended."""
        self.decision, self.reason = decision_name(decision), decision.reason.value
        self.score, self.limit = decision.score, decision.limit
        self.part = decision.compute.name if decision.partial else ""
        self.cost = float(decision.compute is not NONE)


@dataclass
class RunReport(Speaker):
    """What happened in one sampling run.

    Attributes:
        family, policy, rule, tap: names.
        num_steps: schedule steps.
        before, whole: steps of the clip that earlier runs have done, and all steps of the clip, as
            far as can be told; 0 and ``num_steps`` for a clip that is sampled in one run.
        rounds: evaluation rounds to be expected, 0 if that cannot be told.
        planned: what each of them is to be, one letter a round: ``C`` computed, ``h`` in part,
            ``.`` reused; it follows changes of plan. Empty where it is decided as the run goes.
        expected: RMS error of the final latent that skipping was expected to make when the run
            began (``Plan.skipping``), ``None`` without a plan.
        budget: share of evaluations asked for, ``None`` if a tolerance ruled.
        steps: one record a round.
        calls: model calls really run (a batched cond+uncond pair is one call).
        calls_saved: model calls that a forecast replaced.
        basis: what the plan, or the forecast, rests on: ``"profile"``, ``"learnt"`` or ``"prior"``;
            empty if nothing was measured.
        learnt_from: runs that it was learnt from.
        history_bytes: largest memory held by true outputs and latents.
        messages: what the user should know, each once, the most urgent first.
        completed: ``False`` while it runs, and if it was interrupted or failed.
        ended: ``True`` once nothing more will come.
        work: share of the model's block work at each place that was met; not part of the JSON.
    """

    family: str
    policy: str
    rule: str
    tap: str
    num_steps: int
    budget: float | None = None
    before: int = 0
    whole: int = 0
    rounds: int = 0
    planned: str = ""
    expected: float | None = None
    steps: list[StepRecord] = field(default_factory=list)
    calls: int = 0
    calls_saved: int = 0
    basis: str = ""
    learnt_from: int = 0
    history_bytes: int = 0
    messages: list[Message] = field(default_factory=list)
    completed: bool = False
    ended: bool = False
    work: dict[Site, float] = field(default_factory=dict, repr=False)

    def count(self, *decisions: str) -> int:
        """Rounds with one of these decisions."""
        return sum(record.decision in decisions for record in self.steps)

    @property
    def evaluations(self) -> int:
        """Rounds in which the model ran (NFE, counting a guidance pair once)."""
        return self.count("computed", "forced", "partial")

    @property
    def partial(self) -> int:
        """Evaluations that ran a part of the model or of the branches only."""
        return self.count("partial")

    @property
    def idle(self) -> int:
        """Rounds in which the model was not asked at all: the guider answered them itself."""
        return self.count("idle")

    @property
    def cost(self) -> float:
        """Share of the uncached run's block executions, 0..1; 0 before the first round."""
        asked = len(self.steps) - self.idle
        return sum(record.cost for record in self.steps) / max(asked, 1)

    @property
    def reused(self) -> int:
        """Rounds answered by forecasts."""
        return self.count("reused")

    @property
    def seconds(self) -> float:
        return sum(record.seconds for record in self.steps)

    def rests_on(self, basis: str, planned: bool, runs: int = 0) -> None:
        """Take note of what the run's figures rest on, and say so where they are unsure.

        Args:
            basis: see :attr:`basis`.
            planned: whether there is a plan.
            runs: that it was learnt from.
        """
        self.basis, self.learnt_from = basis, runs
        if planned and basis == "prior":
            self.say("prior")
        elif planned and basis == "learnt":
            self.say("learnt", count=runs)

    def why_nothing_was_reused(self) -> Message | None:
        """Why no round was reused, and what would change it."""
        if not self.steps or self.reused or self.partial:
            return None
        scored = [r for r in self.steps if r.score is not None and r.limit is not None]
        if scored:
            best = min(scored, key=lambda r: r.score / r.limit if r.limit > 0 else math.inf)
            closest = {"score": about(best.score), "limit": about(best.limit), "step": best.step}
            return Message.of("nothing.scored", count=len(scored), **closest)
        reasons = Counter(r.reason for r in self.steps)
        if Reason.HOPELESS.value in reasons:
            return None  # said when it was found
        if Reason.OFF.value in reasons:
            said = (m for m in self.messages if m.key.startswith("off.") or m.key == "learn.full")
            return next(said, Message.of("nothing.off"))
        listed = [_worded(reason) for reason, _ in reasons.most_common(3)]
        if not reasons.keys() <= {reason.value for reason in FORCED}:
            return Message.of("nothing.scheduled", reasons=listed)
        return Message.of("nothing.forced", reasons=listed)

    def say_what_it_came_to(self, asked: float | None, expected: int, missed: bool) -> None:
        """Say why nothing was reused, or why the cost is another than was asked for.

        Args:
            asked: evaluations that the budget allowed, ``None`` without one.
            expected: rounds that were expected of the sampler.
            missed: whether something ran that was to be spared.
        """
        if why := self.why_nothing_was_reused():
            self.say(why)
        rounds = len(self.steps) - self.idle
        spent = self.cost * rounds
        if asked is None or spent <= asked + 1:
            return
        figures = {"spent": round(spent, 1), "asked": about(asked, 6)}
        if rounds > expected:
            self.say("cost.asked_more_often", **figures, asking=rounds, expected=expected)
        elif missed or {r.reason for r in self.steps} & _NOT_SPARED:
            self.say("cost.not_spared", **figures)
        elif self.partial:
            self.say("cost.settings", **figures)
        else:
            self.say("cost.fewer_skipped", **figures)

    def summary(self) -> Message:
        """One line: steps and time apart, since the one is not the other."""
        total = len(self.steps) - self.idle
        figures = {
            "computed": self.evaluations,
            "total": total,
            "skipped": self.reused,
            "seconds": round(self.seconds, 1),
            "saved": round(self.saved_seconds(), 1),
        }
        if self.partial:
            figures |= {"partly": self.partial}
        if total <= self.num_steps:
            return Message("summary.partly" if self.partial else "summary", figures)
        figures |= {"steps": self.num_steps}
        key = "summary.evaluations_partly" if self.partial else "summary.evaluations"
        return Message(key, figures)

    def saved_seconds(self) -> float:
        """Estimate: rounds run in part or not at all, by how far the median time of their kind lies
        below that of full ones.
        """
        full, partial, reused = (
            [record.seconds for record in self.steps if record.decision in kinds]
            for kinds in (("computed", "forced"), ("partial",), ("reused",))
        )
        cheaper = [times for times in (partial, reused) if times and full]
        gaps = (len(times) * (median_high(full) - median_high(times)) for times in cheaper)
        return sum((max(gap, 0.0) for gap in gaps), start=0.0)

    def to_dict(self) -> dict:
        """Plain JSON values. Infinite sigmas (zero terminal SNR) become ``None``."""
        why = self.why_nothing_was_reused()
        out = {
            "version": REPORT_VERSION,
            **asdict(replace(self, work={}, messages=[])),
            "messages": [message.to_dict() for message in self.messages],
            "evaluations": self.evaluations,
            "partial": self.partial,
            "idle": self.idle,
            "cost": self.cost,
            "reused": self.reused,
            "forced": self.count("forced"),
            "seconds": self.seconds,
            "saved_seconds": self.saved_seconds(),
            "summary": str(self.summary()),
            "why": why and why.to_dict(),
        }
        del out["work"]
        return _finite(out)

    def to_json(self, indent: int | None = None) -> str:
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)


def decision_name(decision: Decision) -> str:
    """``"reused"``, ``"partial"``, ``"forced"`` or ``"computed"``."""
    if decision.compute is NONE:
        return "reused"
    if decision.partial:
        return "partial"
    return "forced" if decision.reason in FORCED else "computed"


def _worded(reason: str) -> Message:
    return Message("reason." + re.sub(r"\W+", "_", reason))


def _finite(value):
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
