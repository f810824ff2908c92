"""The caching run: the owner of the step, which asks the policy and keeps what forecasts need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..forecast.pairs import Pairs
from ..forecast.reuse import ReuseRule
from ..model.signals import NOISY_LATENT
from ..policies import Policy, RunInfo
from ..sampler.solver import unit_scale
from ..types import (
    ALL,
    AWAITED,
    GAP,
    NONE,
    OUTPUT,
    STACK,
    Branch,
    Decision,
    Key,
    Look,
    Reason,
    Site,
    Step,
    packed,
    sketch,
)
from .course import Course, Replan
from .explain import Explain
from .hindsight import hindsight_of
from .history import History
from .integral import integral_of
from .keeping import Keeping
from .rounds import RoundLog
from .runner import EvaluateAt, read_round, sketch_latent
from .stats import RunReport, StepRecord
from .trial import Trial
from .witness import Witness

_ALL_BRANCHES = Branch("all")  # whose latent is one
_UNSEEN = (
    "Evaluations were computed in full: the policy {} decides by the {}, which was not found in "
    "this model."
)
_APART = (
    "Some model calls were computed in full: it is not known which part of the latent their "
    "outputs belong to, and the policy {} reuses differences from it."
)
_FULL = "Some outputs were not kept, and so always computed: the memory limit was reached."


class Session:
    """One sampling run with a cache. Made at the run's start, dropped at its end.

    Args:
        policy: decides; ask it through ``Guarded``.
        rules: makes the missing outputs, by tap; that of ``"gap"`` forecasts the differences of
            guidance pairs. Where a tap has none, its last output is held.
        run: family, schedule and what is known of the model.
        report: filled as the run goes.
        most_bytes: bound on the memory of true outputs, ``None``: none.
        replan: the policy and what is known of the run under another schedule, for samplers that
            turn out to ask otherwise than expected; ``None``: nobody looks whether they do.
        witness: of the true outputs, where later runs are to learn from this one.
    """

    measures = False

    def __init__(
        self,
        policy: Policy,
        rules: Mapping[str, ReuseRule],
        run: RunInfo,
        report: RunReport,
        most_bytes: int | None = None,
        replan: Replan | None = None,
        witness: Witness | None = None,
    ) -> None:
        self.report, self.course = report, Course(policy, run, report, replan)
        self._log, self._explain = RoundLog(report), Explain(report)
        self._history, self._witness = History(rules, most_bytes), witness
        self._whole = STACK if report.tap == STACK.tap else OUTPUT
        # Of a policy of places inside the model it is kept for the sake of guidance pairs alone.
        self._keeps_whole = policy.needs_pairs or report.tap == self._whole.tap
        rule = self._history.rule(self._whole)
        self._trial, self._reads_x = Trial(rule, report), rule.reads_x
        self._pairs = Pairs(self._history.rule(GAP), policy.needs_pairs)
        self._keeping = Keeping(run.kept_clean)
        self._hindsight = (integral_of if run.to_truth else hindsight_of)(run, rule)
        self._step: Step | None = None  # the round at hand
        self._x: Sequence[Tensor] = ()  # its latent, of the caller
        self._decision = Decision(ALL, Reason.FIRST)  # on it
        self.awaits = ""  # the signal that it has yet to be decided by
        self._seen: Look | None = None  # the newest
        self._output: Tensor | None = None  # sketch of the leading branch's, where it is read
        self._due: dict[Site, float] = {}  # when places inside the model were last to run

    def keep_offsets(self) -> Mapping[Key, tuple[Tensor | None, Tensor]]:
        """Where, from now on, the corrections of the present round are to be found.

        See ``Hindsight.offsets``; always empty where forecasts are not taken back.
        """
        self._hindsight.keep = True
        return self._hindsight.offsets

    def begin(self, x: Sequence[Tensor], sigma: float | Tensor) -> Decision:
        self._close()
        course = self.course
        reuses = course.policy.reuses
        if reuses and self.report.tap == OUTPUT.tap and self._explain.begin(x):
            self._hindsight.stop()
        sketches = sketch_latent(x, course.run.family) if reuses else ()
        before = course.last.x if course.last else None
        told, moved, *errors = read_round(sigma, sketches, before, *self._trial.pending)
        self._log.tick()
        error = self._trial.learn(errors)
        anew = bool(course.last) and self._history.anew(self._whole, course.last.t)
        step = course.begin(told, sketches, moved, error, self._pairs.known, anew)
        if step.sigma != told or course.run.transitions is None:
            self._hindsight.stop()  # the sampler does not step by the noise it tells of
        self._step, self._x, self.awaits = step, x, course.signal
        if self.awaits == NOISY_LATENT:
            self.awaits = ""
            self._step = step = replace(step, look=Look(_ALL_BRANCHES, x[0]))
        self._keeping.open(x, told)
        decision = self._decide()
        self._log.open(StepRecord.of(step, decision))
        return decision

    def _decide(self) -> Decision:
        """What the course wants of the round at hand, by what is known of it now."""
        step = self._step
        self._decision = self.course.decide(step, self._trial.hopeless)
        if self._decision.reason in (Reason.CHANGED, Reason.TIME_ROSE):
            self._history.clear()
        if self._decision.compute is NONE:
            self._hindsight.skip(step.t, step.index)
        return self._decision

    def saw(self, branches: Sequence[Branch], value: Tensor | None) -> None:
        if not self.awaits:
            return
        signal, self.awaits = self.awaits, ""
        if value is None:
            self.report.say(_UNSEEN.format(self.report.policy, signal))
            return
        # The branch that was looked at before leads on; then the first conditional one.
        last = self._seen.branch if self._seen else None
        lead = min(branches, key=lambda branch: (branch != last, branch.role != "cond"))
        count = len(branches) if len(value) % len(branches) == 0 else 1
        part = value.chunk(count)[branches.index(lead) if count > 1 else 0]
        self._seen = Look(lead, part.clone())
        self._step = replace(self._step, look=self._seen)
        if self._decision is AWAITED:
            self._log.decided(self._decide())

    def branches_changed(self) -> None:
        self._hindsight.spoil()

    def predict(self, keys: Sequence[Key], shape: Sequence[int]) -> Tensor | None:
        compute = self._decision.compute
        if compute is ALL or any(compute.test(key) for key in keys):
            return None
        chunk = [shape[0] // len(keys), *shape[1:]]
        whole = keys[0].site == self._whole
        if whole and self._decision.partial:
            return self._rebuild(keys, chunk)
        # A branch that appears in mid-run, or missed the last evaluation (a prompt schedule, a
        # guidance with its own range, a new control), has nothing fresh to forecast from: its whole
        # call is computed, the round goes on.
        since = self.course.last.t if whole else self._due.get(keys[0].site, self.course.full_t)
        kept = self._history.known(keys, since, chunk)
        if kept is None:
            return None
        rule = self._trial.in_force if whole else self._history.rule(keys[0].site)
        latent = self._latent(chunk) if whole and self._reads_x else None
        if whole and self._reads_x and latent is None:
            return None
        if not whole:
            return _joined([rule.predict(self._step.t, past) for past in kept])
        pairs = zip(keys, map(self._keeping.said, kept), strict=True)
        forecast = self._hindsight.forecast
        outputs = [forecast(key, rule, self._step, past, self._x) for key, past in pairs]
        if latent is not None:
            outputs = [(y.float() + latent.to(y.device)).to(y.dtype) for y in outputs]
        return _joined(outputs)

    def _latent(self, shape: Sequence[int]) -> Tensor | None:
        """The latent as the model is fed it, float32, if outputs of ``shape`` lie on it."""
        x, run = self._x, self.course.run
        flat = len({(part.shape[:-1], part.device) for part in x}) == 1 and x[0].ndim == 3
        whole = packed(x) if len(x) == 1 or flat else None
        if whole is None or whole.shape != tuple(shape):
            self.report.say(_APART.format(self.report.policy))
            return None
        return whole.float() * unit_scale(run.family, run.schedule, self._step.t, run.clean)

    def _rebuild(self, keys: Sequence[Key], chunk: Sequence[int]) -> Tensor | None:
        """Outputs of a partial round that follow from their guidance partners'."""
        if not all(self._history.fresh(key, self.course.last.t) for key in keys):
            return None
        outputs = self._pairs.rebuild([key.branch for key in keys], self._step.t, chunk)
        if outputs is None:
            return None
        # From here on they are as good as computed: forecasts start from them, hindsight uses them.
        handed = self._take(keys, outputs)
        return _joined(outputs) if handed is None else handed

    def observe(
        self, keys: Sequence[Key], y: Tensor, evaluate_at: EvaluateAt | None = None
    ) -> Tensor | None:
        parts = y.chunk(len(keys))
        if self._witness is not None and keys[0].site == self._whole:
            self._witness.observe([key.branch for key in keys], parts)
        if not self.course.policy.reuses:
            return None
        if keys[0].site == self._whole and not self._keeps_whole:
            return None
        if keys[0].site == OUTPUT:
            self._explain.observe(parts)
        if self._decision.compute.test(keys[0]):
            self._due[keys[0].site] = self._step.t
        if self._decision.partial and keys[0].site == self._whole:
            for key, part in zip(keys, parts, strict=True):
                self._pairs.alone(key.branch, part)
        return self._take(keys, parts)

    def _take(self, keys: Sequence[Key], outputs: Sequence[Tensor]) -> Tensor | None:
        """Remember outputs of the present round; what to hand on instead, ``None``: themselves."""
        step, handed, another = self._step, [], False
        if self._decision.compute is NONE:
            self._hindsight.spoil()
        last = step.index == step.num_steps - 1
        settling = self._hindsight.sound(keys) and not (last and self.course.run.x0_seen)
        since = self.course.last.t if self.course.last else math.inf
        for key, y in zip(keys, outputs, strict=True):
            whole = key.site == self._whole
            if whole and not self._keeping.fits(y):
                self._history.clear()
            kept = self._history.at(key, y.shape)
            kept = self._keeping.said(kept) if whole else kept
            latent = self._latent(y.shape) if whole and self._reads_x else None
            if latent is not None:
                latent = latent.to(y.device)
            if whole and self._trial.leads(key, self._history, since):
                self._trial.measure(y, step.t, kept, self._log.record, step.streak > 0, latent)
                self._output = sketch(y) if self.course.policy.reads_outputs else None
            expected, given = y, y
            if whole:
                expected, given = self._hindsight.settle(key, y, step, kept, self._x, settling)
            if latent is not None:
                self._history.put(key, step.t, expected.float() - latent, y.dtype)
            elif not (whole and self._reads_x):
                self._history.put(key, step.t, *self._kept(key, expected, y.dtype))
            handed.append(given.to(y.dtype))
            another |= given is not y
        return _joined(handed) if another else None

    def _kept(self, key: Key, y: Tensor, dtype: torch.dtype) -> tuple[Tensor, torch.dtype]:
        """What is kept of an output, and as what."""
        return self._keeping.kept(y, dtype) if key.site == self._whole else (y, dtype)

    def called(self, branches: Sequence[Branch], share: float) -> None:
        self._log.called(branches, share)

    def _close(self) -> None:
        """Book the round that has ended: what an evaluation teaches, and the memory held."""
        if self._step is None:
            return
        step, self._step, self._x = self._step, None, ()
        output, self._output = self._output, None
        if self._decision is AWAITED and self.awaits and self._log.asked:
            self.report.say(_UNSEEN.format(self.report.policy, self.awaits))
        self.awaits = ""
        other = Key(Branch("uncond"), self._whole)
        in_pairs = self._pairs.wanted and not self._decision.compute.test(other)
        compute = self._log.came_to(self._decision, in_pairs).compute
        self._log.close()
        if self._witness is not None:
            self._witness.close(step.t, compute is ALL and self._log.asked)
        if not self._log.asked:
            self._hindsight.evaluated()  # the latent has moved by what nobody here knows
        elif compute is NONE:
            self.course.reused(self._log.record.cost)
        else:
            self._hindsight.evaluated()
            self.course.evaluated(replace(step, output=output), compute is ALL)
            if compute is ALL:
                self._pairs.keep(step.t, self._history.of(self._whole))
        self._pairs.forget()
        self._keeping.close()
        self._hindsight.offsets.clear()
        held = self._history.nbytes + self._pairs.nbytes + self.course.nbytes
        held += self._hindsight.nbytes
        held += self._witness.nbytes if self._witness is not None else 0
        held += self._seen.value.nbytes if self._seen else 0
        self.report.history_bytes = max(self.report.history_bytes, held)
        if self._history.full:
            self.report.say(_FULL)

    def finish(self, completed: bool) -> RunReport:
        if self.report.ended:
            return self.report
        self._close()
        self._trial.settle()
        self._log.finish(completed)
        if self._witness is not None:
            self._witness.finish(completed, self.report)
            self._witness = None
        self._hindsight.stop()
        self._history.clear()
        self._explain.clear()
        self.course.end()
        self._pairs = self._seen = None
        if completed:
            asked, expected = self.course.policy.asked, len(self.course.run.times)
            self.report.say_what_it_came_to(asked, expected, self.course.extra)
        return self.report


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
