"""The caching run: the owner of the step, which asks the policy and keeps what forecasts need."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..forecast.pairs import Pairs
from ..forecast.reuse import Hold, ReuseRule
from ..policies import Policy, RunInfo
from ..sampler.solver import unit_scale
from ..types import SAME_TIME, Anchor, Branch, Decision, Reason, Step, rms, same_time
from .hindsight import Hindsight
from .runner import EvaluateAt, read_round, sketch_latent
from .stats import RunReport, StepRecord, decision_name

#: How many times worse than holding a forecast must have erred before the last output is held
#: instead (ours, chosen on the bundled Wan: well above 1, since on fine schedules a clip whose
#: forecast was once the worse one is ruined by holding from there on).
HOLD_MARGIN = 1.4

#: Reasons of rounds that were to be reused, or run in part, and could not be.
_UNFORESEEN = {Reason.NO_HISTORY.value, Reason.NO_PAIR.value}

_HOLD = Hold()


def _hindsight(run: RunInfo, rule: ReuseRule) -> Hindsight | None:
    """What takes forecasts back, ``None`` where that is not sound."""
    if run.transitions is None or run.moments is None:
        return None

    def response(t: float) -> float:
        return run.moments.response_at(t) * unit_scale(run.family, run.schedule, t)

    return Hindsight(run.transitions, rule.weights, response)


class Session:
    """One sampling run with a cache. Made at the run's start, dropped at its end.

    Args:
        policy: decides; ask it through ``Guarded``.
        rule: makes the missing outputs.
        run: family, schedule and what is known of the model.
        report: filled as the run goes.
        gap_rule: forecasts differences of guidance pairs, for policies that ask for rounds of the
            conditional branch alone.
    """

    def __init__(
        self,
        policy: Policy,
        rule: ReuseRule,
        run: RunInfo,
        report: RunReport,
        gap_rule: ReuseRule = _HOLD,
    ) -> None:
        self.policy, self.rule, self.run, self.report = policy, rule, run, report
        self._hindsight = _hindsight(run, rule)
        self._pairs = Pairs(gap_rule) if policy.cond_only else None
        self._state: Any = policy.start(run)
        self._history: dict[Branch, list[Anchor]] = {}
        self._last: Step | None = None
        self._step: Step | None = None
        self._record: StepRecord | None = None
        self._decision = Decision(False, Reason.FIRST)
        self._reused_in_a_row = 0
        self._ran = self._saved = 0  # chunks of the present round
        self._extra = 0.0  # evaluations' worth that ran although it was to be spared
        self._leader: Branch | None = None
        self._errors: list[tuple[StepRecord, Tensor]] = []
        # Error of the rule's forecast at the last true evaluation; after a run of reuse also that
        # of holding.
        self._trial: tuple[Tensor, ...] = ()
        self._rule_in_force = rule
        self._started = 0.0

    def begin(self, x: Sequence[Tensor], sigma: float | Tensor) -> Decision:
        self._close_round()
        family, schedule = self.run.family, self.run.schedule
        sketches = sketch_latent(x, family)
        before = self._last.x if self._last else None
        sigma, moved, *errors = read_round(sigma, sketches, before, *self._trial)
        self._tick()
        self._trial = ()
        if len(errors) > 1:
            self._choose_rule(*errors)
        ordinal = len(self.report.steps)
        step = Step(
            x=sketches,
            moved=moved,
            sigma=sigma,
            t=family.time(sigma),
            index=schedule.step_of(sigma, ordinal),
            num_steps=schedule.num_steps,
            ordinal=ordinal,
            run=self._reused_in_a_row,
            error=errors[0] if errors else float("nan"),
            paired=self._pairs is not None and self._pairs.known,
            extra=self._extra,
        )
        decision = self._decide(step)
        if decision.reuse and self._hindsight is not None:
            self._hindsight.skip(step.t, step.index)
        self._step, self._decision = step, decision
        self._ran = self._saved = 0
        self._record = StepRecord(
            ordinal=step.ordinal,
            step=step.index,
            sigma=sigma,
            t=step.t,
            decision=decision_name(decision),
            reason=decision.reason.value,
            score=decision.score,
            limit=decision.limit,
            part="conditional branch" if decision.cond_only else "",
            cost=float(not decision.reuse),  # until the round has ended
        )
        self.report.steps.append(self._record)
        return decision

    def _choose_rule(self, forecast: float, held: float) -> None:
        """Hold while holding would have erred far less than the rule over the last run of reuse.

        A forecast pays on smooth trajectories and misleads on coarse or noisy ones. Which of the
        two this sample is, the true evaluation that ends a run of reuse tells, for the cost of one
        more difference.
        """
        misled = forecast > HOLD_MARGIN * held
        self._rule_in_force = _HOLD if misled else self.rule
        if misled:
            self.report.say(
                f"Where the {self.rule.name} forecast measured worse than holding the last output, "
                "it was held: this run is coarse or noisy; more steps or a larger budget help."
            )

    def _tick(self) -> None:
        """One round's time ends, the next one's begins.

        Called right after a device-to-host copy: it waits for the device, so that a round's time
        holds its own work and not just the launch of it.
        """
        now = time.perf_counter()
        if self._record is not None:
            self._record.seconds = now - self._started
        self._started = now

    def _decide(self, step: Step) -> Decision:
        last = self._last
        if last is None:
            return Decision(False, Reason.FIRST)
        if [s.shape for s in step.x] != [s.shape for s in last.x]:
            self._history.clear()
            return Decision(False, Reason.CHANGED)
        decision, self._state = self.policy.decide(step, last, self._state)
        if decision.reason is Reason.TIME_ROSE:
            self._history.clear()
        return decision

    def predict(self, branches: Sequence[Branch], shape: Sequence[int]) -> Tensor | None:
        chunk = [shape[0] // len(branches), *shape[1:]]
        if self._decision.cond_only:
            return self._rebuild(branches, chunk)
        if not self._decision.reuse:
            return None
        histories = [self._history.get(branch) for branch in branches]
        # A branch that appears in mid-run, or missed the last evaluation (a prompt schedule, a
        # guidance with its own range, a new control), has nothing fresh to forecast from: its whole
        # call is computed, the round goes on.
        if any(not self._fresh(h) or list(h[-1].y.shape) != chunk for h in histories):
            return None
        self._count_saved(branches)
        t, rule = self._step.t, self._rule_in_force
        parts = [rule.predict(t, history) for history in histories]
        if self._hindsight is not None:
            for branch, history in zip(branches, histories, strict=True):
                used = [anchor.t for anchor in history[-rule.history :]]
                self._hindsight.book(branch, rule.weights(used, t), len(history))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _rebuild(self, branches: Sequence[Branch], chunk: Sequence[int]) -> Tensor | None:
        """Unconditional outputs of a round that runs the conditional branches alone."""
        t, outputs = self._step.t, []
        for branch in branches:
            y = self._pairs.rebuild(branch, t) if self._fresh(self._history.get(branch)) else None
            if y is None or list(y.shape) != list(chunk):
                return None
            outputs.append(y)
        self._count_saved(branches)
        # From here on they are as good as computed: forecasts start from them, hindsight uses them.
        handed = [self._take(*pair)[0] for pair in zip(branches, outputs, strict=True)]
        return handed[0] if len(handed) == 1 else torch.cat(handed)

    def _count_saved(self, branches: Sequence[Branch]) -> None:
        self.report.calls_saved += 1
        self._saved += len(branches)

    def _fresh(self, history: list[Anchor] | None) -> bool:
        """Whether a branch was computed at the last true evaluation, or since."""
        return bool(history) and (self._last is None or history[-1].t <= self._last.t + SAME_TIME)

    def observe(
        self, branches: Sequence[Branch], y: Tensor | None, evaluate_at: EvaluateAt
    ) -> Tensor | None:
        self.report.count_call()
        self._ran += len(branches)
        if y is None:
            return None
        handed, corrected = [], False
        for branch, part in zip(branches, y.chunk(len(branches)), strict=True):
            if self._decision.cond_only:
                self._pairs.alone(branch, part)
            given, changed = self._take(branch, part)
            corrected |= changed
            handed.append(given)
        if not corrected:
            return None
        return handed[0] if len(handed) == 1 else torch.cat(handed)

    def _take(self, branch: Branch, y: Tensor) -> tuple[Tensor, bool]:
        """Remember an output of the present round; what to hand on, and whether it is another."""
        history = self._history.setdefault(branch, [])
        if history and history[-1].y.shape != y.shape:
            history.clear()
        if self._leads(branch):
            self._judge(y, history)
        kept, given = self._settle(branch, y, history) or (y, y)
        while history and same_time(history[-1].t, self._step.t):
            history.pop()
        history.append(Anchor(self._step.t, kept.to(y.dtype, copy=True)))
        del history[: -self.rule.history]
        return given.to(y.dtype), given is not y

    def _settle(self, branch: Branch, y: Tensor, history: list[Anchor]):
        if self._hindsight is None or self._decision.reuse:
            return None
        step = self._step
        return self._hindsight.settle(branch, y, step.t, step.index, history)

    def _judge(self, y: Tensor, history: list[Anchor]) -> None:
        """Measure the forecast that would have stood in for ``y``, on the leading branch."""
        if not history or same_time(history[-1].t, self._step.t):
            return
        truth = y.float()
        size = rms(truth).clamp_min(1e-12)
        error = rms(self.rule.predict(self._step.t, history).float() - truth) / size
        self._errors.append((self._record, error))
        self._trial = (error,)
        if self._reused_in_a_row and len(history) > 1:
            self._trial = (error, rms(history[-1].y.float() - truth) / size)

    def _leads(self, branch: Branch) -> bool:
        lead = self._leader
        better = lead is not None and lead.role != "cond" and branch.role == "cond"
        if lead is None or better or not self._fresh(self._history.get(lead)):
            self._leader = branch
        return branch == self._leader

    def _close_round(self) -> None:
        """Book the round that has ended: what a true evaluation teaches, and the memory held."""
        if self._step is None:
            return
        calls, total = self._record.calls, self._ran + self._saved
        if self._decision.reuse and calls and not self._saved:
            # Nothing could be forecast (context windows that rotate, a stack tap without a stack):
            # in truth this round was an evaluation.
            self._in_truth_computed(Reason.NO_HISTORY)
        elif self._decision.cond_only and not self._saved:
            self._in_truth_computed(Reason.NO_PAIR)
        if self._decision.reason is Reason.NO_PAIR:
            self.report.say(
                "Evaluations of the conditional branch alone were computed in full where no pair "
                "of conditional and unconditional outputs was known to belong together."
            )
        if total:
            self._record.cost = self._ran / total
        if self._decision.reuse:
            self._reused_in_a_row += 1
            self._extra += self._record.cost
        else:
            if self._decision.cond_only:
                self._extra += max(self._record.cost - 0.5, 0.0)
            else:
                self._state = self.policy.observe(self._step, self._state)
            self._last, self._reused_in_a_row = self._step, 0
            if self._hindsight is not None:
                self._hindsight.evaluated()
        if self._pairs is not None:
            if not (self._decision.reuse or self._decision.cond_only):
                self._pairs.keep(self._step.t, self._history)
            self._pairs.forget()
        self._step = None
        held = sum(a.y.nbytes for h in self._history.values() for a in h)
        held += self._pairs.nbytes if self._pairs is not None else 0
        held += sum(s.nbytes for s in self._last.x) if self._last else 0
        self.report.history_bytes = max(self.report.history_bytes, held)

    def _in_truth_computed(self, reason: Reason) -> None:
        self._decision = Decision(False, reason)
        self._record.decision, self._record.reason = "forced", reason.value
        self._record.score = self._record.limit = None

    def finish(self, completed: bool) -> RunReport:
        self._close_round()
        if self._errors:
            values = torch.stack([error for _, error in self._errors]).tolist()
            for (record, _), value in zip(self._errors, values, strict=True):
                record.error = value
        self._tick()
        self._errors.clear()
        self._trial = ()
        self._hindsight = self._pairs = None
        self._history.clear()
        self._last = self._state = None
        self.report.completed, self.report.ended = completed, True
        if completed:
            self._say_what_it_came_to()
        return self.report

    def _say_what_it_came_to(self) -> None:
        """Why nothing was reused, or why the cost is another than was asked for."""
        if why := self.report.why_nothing_was_reused():
            self.report.say(why)
        rounds, expected = len(self.report.steps), len(self.run.times)
        spent, asked = self.report.cost * rounds, self.policy.asked
        if asked is None or spent <= asked + 1:
            return
        if rounds > expected:
            why = f"the sampler asked {rounds} times, where its steps let expect {expected}"
        elif self._extra > 0.5 or {record.reason for record in self.report.steps} & _UNFORESEEN:
            why = (
                "some model calls could not be spared (context windows that move, prompts or LoRA "
                "strengths that change, guidance of more than two branches)"
            )
        else:
            why = "fewer evaluations could be reused than expected"
        self.report.say(
            f"This run cost {spent:.1f} evaluations, where {asked:g} were asked for: {why}."
        )
