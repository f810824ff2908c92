"""Head for the exact solution: hand on what moves the latent by the integral of the outputs.

A sampler of first order takes every output for constant over its step, whether it was computed or
not. So each step is taken by the integral of the forecast over it (predictor), and once the next
output is known the way since the last one is replaced by the integral of the interpolation through
all of them (corrector), as in the predictor-corrector methods of Adams (Hairer, Norsett and Wanner
1993, chapter III.1) and UniPC (Zhao et al. 2023), with weights from the model's moments instead of
polynomials. The steps' weights are those of ``sampler/path.py``.

A multistep sampler makes the next latent from the output it is handed and from what it carries on
of earlier ones, ``x' = a x + b h + sum of c_j E_j`` (``sampler/response.py``). It lands where it is
to if it is handed ``h - sum of c_j / b E_j``, with ``h`` as for a sampler that carries on nothing.
So what it does with earlier outputs is undone at every step, and what it approximates by them the
integral does.

The correction moves the latent, whereas the output belongs to the latent as it was: it is moved
along by its response, see :data:`SPREAD`. With the output left as it is, corrections feed on
themselves where the network is stiff (docs/theory.md, section 9).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..forecast.reuse import ReuseRule
from ..policies import RunInfo
from ..sampler.path import Path, clean_of, paths_of
from ..sampler.solver import unit_scale
from ..types import Anchor, Key, Step, packed, rms
from .hindsight import MOST_FEEDBACK, Debt, Hindsight

#: RMS by which the clean latents scatter that one noisy latent may stand for (ours): outputs answer
#: to a displacement as those of Gaussian data of that spread do. At much noise the clean latent
#: stays, and ``dy / dx`` is ``1 / sigma`` (flow) or the cotangent of the angle; at little noise the
#: clean latent moves along.
SPREAD = 0.2

#: How much more guided outputs answer than Gaussian data's do, while they answer against the
#: displacement (ours; guidance sharpens what the model is sure of).
GUIDED = 2.0

#: Corrections that are made however far off the forecast was: the first outputs of a run change by
#: more than their own size, and correcting them is where most is gained (ours).
ALWAYS = 2

#: Relative error of a forecast from which on a later correction is left out: outputs then swing
#: from one evaluation to the next, and corrections make them swing more (ours).
SWINGS = 0.3

#: What a report says of the aim.


@dataclass
class Integral(Hindsight):
    """Run state of the integration; :attr:`debts` hold what each output has moved the scaled latent
    by, :attr:`skipped` the rounds since the last evaluation, itself first.

    Attributes:
        paths: of the schedule's steps.
        ends_seen: whether the clean latent that the last output stands for is seen.
        begun: of the evaluation at hand, by key: what its own step moves the latent by.
        evaluations: that have ended.
        trust: share of a forecast's departure from the last output that is moved by, 0-d: the share
            of its mean square change that the newest output would have been forecast by. Where
            forecasts say little their departure makes outputs swing; the corrector brings the rest.
        carried: of each step, weights in what is handed on of what the sampler carries on, the
            newest first; empty: it carries on nothing.
        kept: of each step, weights of latent and handed output in what it will carry on.
        memory: what it carries on, by key, the newest last, float32.
        calm: whether the evaluation at hand is to be corrected, 0-d: 1 or 0. Like ``trust`` it is
            measured on the first branch that is computed, and holds for all of them: half a
            guidance pair must not be corrected.
    """

    paths: Sequence[Path] = ()
    ends_seen: bool = False
    carried: Sequence[Sequence[float]] = ()
    kept: Sequence[tuple[float, float]] = ()
    memory: dict[Key, list[Tensor]] = field(default_factory=dict)
    begun: dict[Key, Debt] = field(default_factory=dict)
    evaluations: int = 0
    trust: Tensor | float = 0.0
    calm: Tensor | float = 1.0
    _index: int = -1  # step of the evaluation at hand

    @property
    def nbytes(self) -> int:
        return sum(one.nbytes for kept in self.memory.values() for one in kept)

    def stop(self) -> None:
        super().stop()
        self.memory.clear()

    def spoil(self) -> None:
        super().spoil()
        if self.carried:  # what the sampler carries on of branches that came or went is not known
            self.stop()

    def skip(self, t: float, index: int) -> None:
        if self.on:
            self.skipped.append((t, index))

    def forecast(
        self, key: Key, rule: ReuseRule, step: Step, history: Sequence[Anchor], x: Sequence[Tensor]
    ) -> Tensor:
        path = self._path(key, step, history[-1].y, x)
        if path is None:
            return rule.predict(step.t, history)
        given, moved = self._moved(path, rule, history, x)
        self._carry(key, step.index, given, x)
        if not self.spoilt:
            debt = self.debts.setdefault(key, Debt([0.0] * len(history)))
            debt.moved = [old + new for old, new in zip(debt.moved, moved, strict=True)]
            debt.rounds += 1
        if self.keep:
            self.offsets[key] = None, rule.predict(step.t, history).float() - given
        return given.to(history[-1].y.dtype)

    def settle(
        self,
        key: Key,
        y: Tensor,
        step: Step,
        history: Sequence[Anchor],
        x: Sequence[Tensor],
        sound: bool,
    ) -> tuple[Tensor, Tensor]:
        path = self._path(key, step, y, x)
        debt = self.debts.pop(key, None)
        if path is None:
            return y, y
        off, there = None, y
        if history and not self.begun:
            self._measure(y, step, history)
        if sound and debt is not None and len(debt.moved) == len(history):
            off = self._off(debt, y, step, history).mul_(_on(self.calm, y))
            there = y.float().add(off, alpha=self.response(step.t))
        self._index = step.index
        known = [*history, Anchor(step.t, there)][-self.rule.history :]
        given, moved = self._moved(path, self.rule, known, x)
        self.begun[key] = Debt(moved, rounds=1)
        if off is not None:
            given = given.add(off, alpha=path.q)
        self._carry(key, step.index, given, x)
        if self.keep:
            self.offsets[key] = off, there.float() - given
        return there, given

    def _measure(self, y: Tensor, step: Step, history: Sequence[Anchor]) -> None:
        """What the output ``y`` tells of forecasts; never waits for the device."""
        truth = y.float()
        missed = rms(self.rule.predict(step.t, history).float() - truth)
        changed = rms(history[-1].y.float() - truth)
        self.trust = (1 - (missed / changed.clamp_min(1e-12)).square()).clamp_min(0)
        if self.evaluations > ALWAYS:
            self.calm = (missed < SWINGS * rms(truth)).float()

    def _off(self, debt: Debt, y: Tensor, step: Step, history: Sequence[Anchor]) -> Tensor:
        """What the scaled latent is off by, float32."""
        times = [*(anchor.t for anchor in history), step.t]
        gone = [self.paths[index] for _, index in self.skipped]
        points = [t for path in gone for t in path.points]
        total = self.rule.weights_over(times, points, [w for path in gone for w in path.shares])
        off = y.float() * total[-1]
        for weight, moved, anchor in zip(total, debt.moved, history, strict=False):
            off.add_(anchor.y.float() * (weight - moved))
        feedback = total[-1] * self.response(step.t)
        return off.div_(1 - max(-MOST_FEEDBACK, min(MOST_FEEDBACK, feedback)))

    def _moved(
        self, path: Path, rule: ReuseRule, known: Sequence[Anchor], x: Sequence[Tensor]
    ) -> tuple[Tensor, list[float | Tensor]]:
        """What to hand on for a step by the forecast's integral, float32, and by how much each
        output of ``known`` moves the latent in it.
        """
        used, whole = known[-rule.history :], sum(path.shares)
        weights = rule.weights_over([anchor.t for anchor in used], path.points, path.shares)
        last, trust = used[-1].y.float(), _on(self.trust, used[-1].y)
        departure = last * (path.q * (weights[-1] - whole))
        for weight, anchor in zip(weights[:-1], used[:-1], strict=True):
            departure.add_(anchor.y, alpha=path.q * weight)
        given = departure.mul_(trust).add_(last, alpha=path.q * whole)
        if path.p:
            given.add_(x[0].to(given.device), alpha=path.p)
        moved = [trust * weight for weight in weights]
        moved[-1] = whole + trust * (weights[-1] - whole)
        return given, [0.0] * (len(known) - len(used)) + moved

    def _carry(self, key: Key, index: int, given: Tensor, x: Sequence[Tensor]) -> None:
        """Take off ``given``, in place, what the sampler carries on by itself, and keep what it
        will carry on.
        """
        if not self.carried:
            return
        kept = self.memory.setdefault(key, [])
        for weight, one in zip(self.carried[index], reversed(kept), strict=False):
            given.sub_(one, alpha=weight)
        of_latent, of_given = self.kept[index]
        kept.append((given * of_given).add_(packed(x).to(given.device), alpha=of_latent))
        del kept[: -max(map(len, self.carried))]

    def _path(self, key: Key, step: Step, y: Tensor, x: Sequence[Tensor]) -> Path | None:
        """The step to be taken, ``None`` where the output is to be handed on as it is."""
        if not self.on:
            return None
        path = self.paths[step.index]
        if (self.ends_seen and step.index == len(self.paths) - 1) or not path.q:
            return None
        if path.p and (len(x) != 1 or x[0].shape != y.shape):
            self.stop()  # how the latent belongs to this output is not known
            return None
        if self.carried:
            known = len(self.memory.get(key, ())) >= len(self.carried[step.index])
            if not known or packed(x).shape != y.shape:
                self.stop()
                return None
        return path

    def evaluated(self) -> None:
        self.evaluations += bool(self.begun)
        self.skipped = [(0.0, self._index)] if self.begun else []
        self.debts, self.begun = self.begun, {}
        self.spoilt = False


def integral_of(run: RunInfo, rule: ReuseRule) -> Integral:
    """What heads for the exact solution of ``run``, with the forecasts of ``rule``."""
    family, steps = run.family, run.transitions
    paths = paths_of(family, run.schedule, steps, run.clean) if steps is not None else ()
    scales = {path.start: path.scale for path in paths}
    carried, kept = (), ()
    most = run.multistep.carries if run.multistep is not None else 0
    if most:
        clean, levels = run.clean or clean_of(family), run.schedule.sigmas[:-1]
        carried = [
            [c / b for c in weights[:most]]
            for weights, (_, b) in zip(run.multistep.carried, steps, strict=True)
        ]
        kept = [run.multistep.kept(sigma, clean) for sigma in levels]

    def response(t: float) -> float:
        signal, noise = (1 - t, t) if family.prediction == "flow" else _signal_noise(t)
        spread = (SPREAD * signal) ** 2 + noise**2
        if family.prediction == "flow":
            gaussian = (noise - SPREAD**2 * signal) / spread
        else:
            unit = unit_scale(family, run.schedule, t, run.clean)
            gaussian = signal * noise * (1 - SPREAD**2) / spread * unit / scales.get(t, unit)
        return gaussian * GUIDED if run.guided and gaussian > 0 else gaussian

    return Integral(
        *(steps, rule, response), paths=paths, ends_seen=run.x0_seen, carried=carried, kept=kept
    )


def _on(value: Tensor | float, like: Tensor) -> Tensor | float:
    """A 0-d ``value`` on the device of ``like``."""
    return value.to(like.device) if isinstance(value, Tensor) else value


def _signal_noise(t: float) -> tuple[float, float]:
    """Shares of data and noise in a latent of constant scale at ``t``, for v-prediction."""
    return math.cos(t * math.pi / 2), math.sin(t * math.pi / 2)
