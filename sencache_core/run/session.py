"""The caching run: the owner of the step, which asks the policy and keeps what forecasts need."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..forecast.pairs import Pairs
from ..forecast.reuse import ReuseRule
from ..policies import Policy, RunInfo
from ..sampler.schedule import Schedule
from ..types import ALL, GAP, NONE, OUTPUT, STACK, Branch, Decision, Key, Reason, Step
from .explain import Explain
from .hindsight import hindsight_of
from .history import History
from .rounds import RoundLog
from .runner import EvaluateAt, read_round, sketch_latent
from .stats import RunReport, StepRecord
from .trial import Trial
from .watch import Watch

_UNEXPLAINED = (
    "The latent moves by more than the outputs explain (fresh noise at every step, or masked "
    "parts): outputs are harder to forecast; expect less quality at the same budget."
)
_HOPELESS = (
    "Caching is off for the rest of this run: forecasts were off by as much as the outputs "
    "themselves, as with distilled models, which are sampled without guidance."
)
_NO_PATTERN = (
    "The sampler's evaluations follow no pattern that could be planned for (several latents at one "
    "noise level, steps of its own): they are computed in full."
)
_NO_PLACE = "Evaluations of {} were computed in full: no places to skip were found in this model."
_NO_PAIR = (
    "Evaluations of the conditional branch alone were computed in full where no pair of "
    "conditional and unconditional outputs was known to belong together."
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
            turn out to ask otherwise than expected; ``None``: the rest is computed then.
    """

    measures = False

    def __init__(
        self,
        policy: Policy,
        rules: Mapping[str, ReuseRule],
        run: RunInfo,
        report: RunReport,
        most_bytes: int | None = None,
        replan: Callable[[Schedule], tuple[Policy, RunInfo]] | None = None,
    ) -> None:
        self.policy, self.run, self.report = policy, run, report
        self._log, self._watch, self._replan = RoundLog(report), Watch(run.schedule), replan
        self._explain = Explain()
        self._history = History(rules, most_bytes)
        self._whole = STACK if report.tap == STACK.tap else OUTPUT
        rule = self._history.rule(self._whole)
        self._trial = Trial(rule, report)
        self._pairs = Pairs(self._history.rule(GAP), policy.needs_pairs)
        self._hindsight = hindsight_of(run, rule)
        self._state: Any = policy.start(run)
        self._step: Step | None = None
        self._last: Step | None = None  # of the last evaluation
        self._computed: list[Step] = []  # in full, without their latents
        self._full_t = 0.0  # time of the last one in full
        self._decision = Decision(ALL, Reason.FIRST)
        self._streak = 0  # rounds reused since the last evaluation
        self._extra = 0.0  # evaluations' worth that ran although it was to be spared

    def keep_offsets(self) -> Mapping[Key, tuple[Tensor, float]]:
        """Where, from now on, the corrections of the present round are to be found.

        See ``Hindsight.offsets``; always empty where forecasts are not taken back.
        """
        self._hindsight.keep = True
        return self._hindsight.offsets

    def begin(self, x: Sequence[Tensor], sigma: float | Tensor) -> Decision:
        self._close_round()
        family, schedule = self.run.family, self.run.schedule
        sketches = sketch_latent(x, family) if self.policy.reuses else ()
        before = self._last.x if self._last else None
        at_output = self.policy.reuses and self.report.tap == OUTPUT.tap
        if at_output and self._explain.begin(x):
            self._hindsight.stop()
            self.report.say(_UNEXPLAINED)
        told, moved, *errors = read_round(sigma, sketches, before, *self._trial.pending)
        self._log.tick()
        ordinal = len(self.report.steps)
        sigma = schedule.level(told, ordinal)
        if self.policy.asked is not None and (another := self._watch.see(sigma)) is not None:
            self._expect(another)
            schedule = another
        if sigma != told:
            self._hindsight.stop()  # the sampler does not step by the noise it tells of
        step = Step(
            x=sketches,
            moved=moved,
            sigma=sigma,
            t=family.time(sigma),
            index=schedule.step_of(sigma, ordinal),
            num_steps=schedule.num_steps,
            ordinal=ordinal,
            streak=self._streak,
            error=self._trial.learn(errors),
            paired=self._pairs.known,
            extra=self._extra,
        )
        self._step, self._decision = step, self._decide(step)
        if self._decision.compute is NONE:
            self._hindsight.skip(step.t, step.index)
        self._log.open(StepRecord.of(step, self._decision))
        return self._decision

    def _expect(self, schedule: Schedule) -> None:
        """Go on under another schedule: the sampler has shown where it asks."""
        self._watch.puzzled = self._replan is None
        if self._replan is None:
            return
        self.policy, self.run = self._replan(schedule)
        self._state = self.policy.resume(self.run, self._computed)
        if self.run.transitions is None:
            self._hindsight.stop()
        asked = self.policy.asked
        spent = "" if asked is None else f", of which {asked:g} are computed"
        self.report.say(
            f"The sampler asks {len(schedule.places[-1])} times a step: {len(schedule.rounds)} "
            f"evaluations are expected{spent}."
        )

    def _decide(self, step: Step) -> Decision:
        last = self._last
        if last is None:
            return Decision(ALL, Reason.FIRST)
        if [s.shape for s in step.x] != [s.shape for s in last.x]:
            self._history.clear()
            return Decision(ALL, Reason.CHANGED)
        if self._watch.lost:
            self.report.say(_NO_PATTERN)
        if self._watch.puzzled:
            return Decision(ALL, Reason.UNEXPECTED)
        if self._trial.hopeless and self.policy.asked is not None and not self.run.guided:
            self.report.say(_HOPELESS)
            return Decision(ALL, Reason.HOPELESS)
        decision, self._state = self.policy.decide(step, last, self._state)
        if decision.reason is Reason.TIME_ROSE:
            self._history.clear()
        return decision

    def branches_changed(self) -> None:
        self._hindsight.spoil()

    def predict(self, keys: Sequence[Key], shape: Sequence[int]) -> Tensor | None:
        compute = self._decision.compute
        if compute is ALL or any(compute.test(key) for key in keys):
            return None
        chunk = [shape[0] // len(keys), *shape[1:]]
        if self._decision.partial and keys[0].site == self._whole:
            return self._rebuild(keys, chunk)
        # A branch that appears in mid-run, or missed the last evaluation (a prompt schedule, a
        # guidance with its own range, a new control), has nothing fresh to forecast from: its whole
        # call is computed, the round goes on.
        whole = keys[0].site == self._whole
        kept = self._history.known(keys, self._last.t if whole else self._full_t, chunk)
        if kept is None:
            return None
        t = self._step.t
        rule = self._trial.in_force if whole else self._history.rule(keys[0].site)
        parts = [rule.predict(t, anchors) for anchors in kept]
        for key, anchors in zip(keys, kept, strict=True):
            used = [anchor.t for anchor in anchors[-rule.history :]]
            self._hindsight.book(key, rule.weights(used, t), len(anchors))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _rebuild(self, keys: Sequence[Key], chunk: Sequence[int]) -> Tensor | None:
        """Outputs of a partial round that follow from their guidance partners'."""
        outputs = []
        for key in keys:
            known = self._history.fresh(key, self._last.t)
            y = self._pairs.rebuild(key.branch, self._step.t) if known else None
            if y is None or list(y.shape) != list(chunk):
                return None
            outputs.append(y)
        # From here on they are as good as computed: forecasts start from them, hindsight uses them.
        return self._take(keys, outputs)[0]

    def observe(
        self, keys: Sequence[Key], y: Tensor, evaluate_at: EvaluateAt | None = None
    ) -> Tensor | None:
        if not self.policy.reuses:
            return None
        parts = y.chunk(len(keys))
        if keys[0].site == OUTPUT:
            self._explain.observe(parts)
        if self._decision.partial and keys[0].site == self._whole:
            for key, part in zip(keys, parts, strict=True):
                self._pairs.alone(key.branch, part)
        handed, corrected = self._take(keys, parts)
        return handed if corrected else None

    def _take(self, keys: Sequence[Key], outputs: Sequence[Tensor]) -> tuple[Tensor, bool]:
        """Remember outputs of the present round; what to hand on, and whether it is another."""
        step, handed, corrected = self._step, [], False
        if self._decision.compute is NONE:
            self._hindsight.spoil()
        last = step.index == step.num_steps - 1
        settling = self._hindsight.sound(keys) and not (last and self.run.x0_seen)
        for key, y in zip(keys, outputs, strict=True):
            kept = self._history.at(key)
            if kept and kept[-1].y.shape != y.shape:
                kept = ()
            since = self._last.t if self._last else math.inf
            if key.site == self._whole and self._trial.leads(key, self._history, since):
                self._trial.measure(y, step.t, kept, self._log.record, self._streak > 0)
            settled = None
            if settling:
                settled = self._hindsight.settle(key, y, step.t, step.index, kept)
            expected, given = settled or (y, y)
            self._history.put(key, step.t, expected, y.dtype)
            handed.append(given.to(y.dtype))
            corrected |= given is not y
        return handed[0] if len(handed) == 1 else torch.cat(handed), corrected

    def called(self, branches: Sequence[Branch], share: float) -> None:
        self._log.called(branches, share)

    def _close_round(self) -> None:
        """Book the round that has ended: what an evaluation teaches, and the memory held."""
        if self._step is None:
            return
        step, self._step = self._step, None
        if self._decision.compute is not ALL and self._log.asked and not self._log.spared:
            # Nothing could be spared (context windows that rotate, a tap that finds no place).
            paired = self._decision.partial and self._pairs.wanted
            if self._decision.partial and not paired:
                self.report.say(_NO_PLACE.format(self._decision.compute.name))
            self._decision = Decision(ALL, Reason.NO_PAIR if paired else Reason.NO_HISTORY)
            self._log.forced(self._decision.reason)
        if self._decision.reason is Reason.NO_PAIR:
            self.report.say(_NO_PAIR)
        self._log.close()
        if not self._log.asked:
            self._hindsight.evaluated()  # the latent has moved by what nobody here knows
        elif self._decision.compute is NONE:
            self._streak += 1
            self._extra += self._log.record.cost
        else:
            self._evaluated(step)
        self._pairs.forget()
        self._hindsight.offsets.clear()
        held = self._history.nbytes + self._pairs.nbytes
        held += sum(s.nbytes for s in self._last.x) if self._last else 0
        self.report.history_bytes = max(self.report.history_bytes, held)
        if self._history.full:
            self.report.say(_FULL)

    def _evaluated(self, step: Step) -> None:
        """The model has run, in full or in part."""
        self._last, self._streak = step, 0
        if self._decision.compute is ALL:
            self._full_t = step.t
            self._computed.append(replace(step, x=()))
            self._state = self.policy.observe(step, self._state)
            self._pairs.keep(step.t, self._history.of(self._whole))
        self._hindsight.evaluated()

    def finish(self, completed: bool) -> RunReport:
        if self.report.ended:
            return self.report
        self._close_round()
        self._trial.settle()
        self._log.finish(completed)
        self._hindsight.stop()
        self._history.clear()
        self._explain.clear()
        self._pairs = None
        self._last = self._state = self._replan = None
        if completed:
            self.report.say_what_it_came_to(self.policy.asked, len(self.run.times), self._extra)
        return self.report
