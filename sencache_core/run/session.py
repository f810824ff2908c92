"""The caching run: the owner of the step, which asks the policy and keeps what forecasts need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from ..forecast.reuse import ReuseRule
from ..policies import Policy, RunInfo
from ..types import ALL, AWAITED, NONE, OUTPUT, Branch, Decision, Key, Reason, Step
from .course import Course, Replan
from .explain import Explain
from .looks import Looks
from .outputs import Outputs
from .rounds import RoundLog
from .runner import EvaluateAt, read_round, sketch_latent
from .stats import RunReport, StepRecord
from .witness import Witness


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
        self.outputs = Outputs(policy, rules, run, report, most_bytes)
        self._log, self._explain = RoundLog(report), Explain(report)
        self._looks, self._witness = Looks(report), witness
        self._step: Step | None = None  # the round at hand
        self._decision = Decision(ALL, Reason.FIRST)  # on it
        self._missed = False  # whether something ran that was to be spared

    @property
    def awaits(self) -> str:
        """See :class:`~sencache_core.run.runner.Runner`."""
        return self._looks.awaits

    def keep_offsets(self) -> Mapping[Key, tuple[Tensor | None, Tensor]]:
        """Where, from now on, the corrections of the present round are to be found.

        See ``Hindsight.offsets``; always empty where forecasts are not taken back.
        """
        self.outputs.hindsight.keep = True
        return self.outputs.hindsight.offsets

    def begin(self, x: Sequence[Tensor], sigma: float | Tensor) -> Decision:
        self._close()
        course, outputs = self.course, self.outputs
        reuses = course.policy.reuses
        if reuses and self.report.tap == OUTPUT.tap and self._explain.begin(x):
            outputs.hindsight.stop()
        sketches = sketch_latent(x, course.run.family) if reuses else ()
        before = course.last.x if course.last else None
        told, moved, *errors = read_round(sigma, sketches, before, *outputs.trial.pending)
        self._log.tick()
        error = outputs.trial.learn(errors)
        anew = bool(course.last) and outputs.history.anew(outputs.whole, course.last.t)
        step = course.begin(told, sketches, moved, error, outputs.pairs.known, anew)
        if step.sigma != told or course.run.transitions is None:
            outputs.hindsight.stop()  # the sampler does not step by the noise it tells of
        self._step = step = replace(step, look=self._looks.begin(course.signal, x))
        outputs.open(x, told, course.last.t if course.last else math.inf, course.full_t)
        decision = self._decide()
        self._log.open(StepRecord.of(step, decision))
        return decision

    def _decide(self) -> Decision:
        """What the course wants of the round at hand, by what is known of it now."""
        self._decision = self.course.decide(self._step, self.outputs.trial.hopeless)
        self.outputs.decided(self._step, self._decision)
        return self._decision

    def saw(self, branches: Sequence[Branch], value: Tensor | None) -> None:
        look = self._looks.saw(branches, value)
        if look is None:
            return
        self._step = replace(self._step, look=look)
        if self._decision is AWAITED:
            self._log.decided(self._decide())

    def branches_changed(self) -> None:
        self.outputs.hindsight.spoil()

    def predict(self, keys: Sequence[Key], shape: Sequence[int]) -> Tensor | None:
        return self.outputs.predict(keys, shape)

    def observe(
        self, keys: Sequence[Key], y: Tensor, evaluate_at: EvaluateAt | None = None
    ) -> Tensor | None:
        parts = y.chunk(len(keys))
        if self._witness is not None and keys[0].site == self.outputs.whole:
            self._witness.observe([key.branch for key in keys], parts)
        if not self.course.policy.reuses:
            return None
        if keys[0].site == OUTPUT:
            self._explain.observe(parts)
        return self.outputs.observe(keys, parts)

    def called(self, branches: Sequence[Branch], share: float) -> None:
        self._log.called(branches, share)

    def _close(self) -> None:
        """Book the round that has ended: what an evaluation teaches, and the memory held."""
        if self._step is None:
            return
        step, self._step, newest = self._step, None, self.outputs.newest
        self._looks.close(self._decision is AWAITED and self._log.asked)
        other = Key(Branch("uncond"), self.outputs.whole)
        in_pairs = self.outputs.pairs.wanted and not self._decision.compute.test(other)
        self._missed = self._missed or self.outputs.missed
        compute = self._log.came_to(self._decision, in_pairs, self.outputs.missed).compute
        self._log.close()
        asked = self._log.asked
        if self._witness is not None:
            self._witness.close(step.t, compute is ALL and asked)
        if asked and compute.reused:
            self.course.reused(self._log.record.cost if compute is NONE else 0.0)
        elif asked:
            self.course.evaluated(replace(step, output=newest), compute is ALL)
        self.outputs.close(compute, asked)
        held = self.outputs.nbytes + self.course.nbytes(self._looks.seen)
        held += self._witness.nbytes if self._witness is not None else 0
        self.report.history_bytes = max(self.report.history_bytes, held)

    def finish(self, completed: bool) -> RunReport:
        if self.report.ended:
            return self.report
        self._close()
        self._log.finish(completed)
        if self._witness is not None:
            self._witness.finish(completed, self.report)
            self._witness = None
        self.outputs.end()
        self._explain.clear()
        self.course.end()
        self._looks.end()
        if completed:
            asked, expected = self.course.policy.asked, len(self.course.run.times)
            missed = self._missed or self.course.extra > 0.5
            self.report.say_what_it_came_to(asked, expected, missed)
        return self.report
