"""Outputs of one run: the true ones that are remembered, and the missing ones made from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..forecast.pairs import Pairs
from ..forecast.reuse import ReuseRule
from ..policies import Policy, RunInfo
from ..types import ALL, GAP, NONE, OUTPUT, STACK, Decision, Key, Only, Reason, Site, Step, sketch
from .hindsight import hindsight_of
from .history import History
from .integral import integral_of
from .keeping import Keeping
from .stats import RunReport
from .trial import Trial


class Outputs:
    """Owned by a session, dropped with it.

    Args:
        policy: of the run, for what it wants kept.
        rules, most_bytes: as for :class:`~sencache_core.run.session.Session`.
        run: what is known of the run.
        report: told what the user should know.

    Attributes:
        whole: the site of the whole model, which errors are measured and forecasts taken back at.
        missed: whether something that the present round was to spare had nothing fresh to be
            forecast from.
        newest: sketch of the leading branch's output in the present round, where the policy reads
            it; ``None``: not computed.
    """

    def __init__(
        self,
        policy: Policy,
        rules: Mapping[str, ReuseRule],
        run: RunInfo,
        report: RunReport,
        most_bytes: int | None,
    ) -> None:
        self._report = report
        self.whole = STACK if report.tap == STACK.tap else OUTPUT
        # Of a policy of places inside the model it is kept for the sake of guidance pairs alone.
        self._keeps_whole = policy.needs_pairs or report.tap == self.whole.tap
        self._reads, self._x0_seen = policy.reads_outputs, run.x0_seen
        self.history = History(rules, most_bytes)
        rule = self.history.rule(self.whole)
        self.trial = Trial(rule, report, run.mends)
        self.pairs = Pairs(self.history.rule(GAP), policy.needs_pairs)
        self.keeping = Keeping(run.kept_as, rule, report)
        self.hindsight = (integral_of if run.to_truth else hindsight_of)(run, rule)
        self._x: Sequence[Tensor] = ()  # the latent of the round at hand, of the caller
        self._step: Step | None = None  # that round
        self._decision = Decision(ALL, Reason.FIRST)  # on it
        self._last, self._full = math.inf, math.inf  # times of the last evaluations
        self._due: dict[Site, float] = {}  # when places inside the model were last to run
        self.missed = False
        self.newest: Tensor | None = None

    def open(self, x: Sequence[Tensor], told: float, last: float, full: float) -> None:
        """A round begins.

        Args:
            x: its latent, per modality; read, never kept beyond it or written.
            told: the noise level that the model is told.
            last, full: times of the last evaluation and of the last one in full.
        """
        self._x, self._last, self._full, self.missed = x, last, full, False
        self.keeping.open(x, told)

    def decided(self, step: Step, decision: Decision) -> None:
        """What is wanted of the round at hand."""
        self._step, self._decision = step, decision
        if decision.reason in (Reason.CHANGED, Reason.TIME_ROSE):
            self.history.clear()
        if decision.compute is NONE:
            self.hindsight.skip(step.t, step.index)

    def predict(self, keys: Sequence[Key], shape: Sequence[int]) -> Tensor | None:
        """See :class:`~sencache_core.run.runner.Runner`."""
        compute = self._decision.compute
        if compute is ALL or any(compute.test(key) for key in keys):
            return None
        chunk = [shape[0] // len(keys), *shape[1:]]
        made = self._made(keys, chunk)
        self.missed = self.missed or made is None
        return made

    def _made(self, keys: Sequence[Key], chunk: Sequence[int]) -> Tensor | None:
        """Outputs that are to be spared; ``None``: nothing fresh is known that they follow from."""
        whole = keys[0].site == self.whole
        if whole and self._decision.partial:
            return self._rebuild(keys, chunk)
        # A branch that appears in mid-run, or missed the last evaluation (a prompt schedule, a
        # guidance with its own range, a new control), has nothing fresh to forecast from: its whole
        # call is computed, the round goes on.
        since = self._last if whole else self._due.get(keys[0].site, self._full)
        kept = self.history.known(keys, since, chunk)
        if kept is None:
            return None
        if not whole:
            rule = self._decision.rule or self.history.rule(keys[0].site)
            return _joined([rule.predict(self._step.t, past) for past in kept])
        if not self.keeping.fits(chunk):
            return None
        rule, forecast = self.trial.in_force, self.hindsight.forecast
        pairs = zip(keys, map(self.keeping.said, kept), strict=True)
        return _joined([forecast(key, rule, self._step, past, self._x) for key, past in pairs])

    def _rebuild(self, keys: Sequence[Key], chunk: Sequence[int]) -> Tensor | None:
        """Outputs of a partial round that follow from their guidance partners'."""
        if not all(self.history.fresh(key, self._last) for key in keys):
            return None
        outputs = self.pairs.rebuild([key.branch for key in keys], self._step.t, chunk)
        if outputs is None:
            return None
        # From here on they are as good as computed: forecasts start from them, hindsight uses them.
        handed = self._take(keys, outputs)
        return _joined(outputs) if handed is None else handed

    def observe(self, keys: Sequence[Key], parts: Sequence[Tensor]) -> Tensor | None:
        """Remember true outputs, one a key; what to hand on instead, ``None``: themselves."""
        if self._decision.compute.test(keys[0]):
            self._due[keys[0].site] = self._step.t
        if keys[0].site == self.whole:
            if not self._keeps_whole:
                return None
            if self._decision.partial:
                for key, part in zip(keys, parts, strict=True):
                    self.pairs.alone(key.branch, part)
        return self._take(keys, parts)

    def _take(self, keys: Sequence[Key], outputs: Sequence[Tensor]) -> Tensor | None:
        step = self._step
        if keys[0].site != self.whole:
            for key, y in zip(keys, outputs, strict=True):
                self.history.put(key, step.t, y)
            return None
        if self._decision.compute is NONE:
            self.hindsight.spoil()
        last = step.index == step.num_steps - 1
        settling = self.hindsight.sound(keys) and not (last and self._x0_seen)
        handed = [self._settle(key, y, settling) for key, y in zip(keys, outputs, strict=True)]
        if all(given is y for given, y in zip(handed, outputs, strict=True)):
            return None
        return _joined(handed)

    def _settle(self, key: Key, y: Tensor, settling: bool) -> Tensor:
        """Measure and remember one true output of the whole model; what to hand on."""
        if not self.keeping.fits(y.shape):
            if not self.keeping.give_up():
                return y
            self.history.clear()
        step, kept = self._step, self.keeping.said(self.history.at(key, y.shape))
        if self.trial.leads(key, self.history, self._last):
            record = self._report.steps[-1]
            self.trial.measure(y, step.t, kept, record, step.streak > 0)
            self.newest = sketch(y) if self._reads else None
        expected, given = self.hindsight.settle(key, y, step, kept, self._x, settling)
        self.history.put(key, step.t, *self.keeping.kept(expected, y.dtype))
        return given.to(y.dtype)

    def close(self, compute: Only, asked: bool) -> None:
        """The round has ended.

        Args:
            compute: what has run of it.
            asked: whether the model was asked at all.
        """
        if not (asked and compute.reused):
            # Where it was not, the latent has moved by what nobody here knows.
            self.hindsight.evaluated()
        if compute is ALL and asked:
            self.pairs.keep(self._step.t, self.history.of(self.whole))
        self._x, self.newest = (), None
        self.pairs.forget()
        self.keeping.close()
        self.hindsight.offsets.clear()
        if self.history.full:
            self._report.say("memory.limit")

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return self.history.nbytes + self.pairs.nbytes + self.hindsight.nbytes

    def end(self) -> None:
        """Write what was measured, and drop every tensor."""
        self.trial.settle()
        self.hindsight.stop()
        self.history.clear()
        self.pairs.clear()
        self._x, self._step = (), None


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
