"""Take back what forecasts did to the latent, once the outputs around them are known.

After a run of reuse the next true output makes the skipped ones an interpolation instead of an
extrapolation. For a one-step linear sampler ``x' = a x + b y`` the latent is off by

    D = sum over skipped j of  (a's after j)  b_j  (interpolated_j - forecast_j),

known at no cost. The true output was computed at the latent as it is; at ``x + D`` it would be
``y + kappa D`` to first order, with the response ``kappa`` of the profile. The sampler lands where
it would have from ``x + D`` if it is handed ``y + kappa D + (a / b) D``: no tensor of the caller's
is written to. All of it is linear in the outputs, so it may be done for each branch alone, and
guidance, whose weights sum to 1, puts the guided correction together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..forecast.reuse import ReuseRule
from ..policies import RunInfo
from ..sampler.solver import unit_scale
from ..types import Anchor, Key, Step

#: Largest share by which the response may feed back into the correction (ours; not tuned): beyond
#: it the first-order picture has ended.
MOST_FEEDBACK = 0.5


@dataclass
class Debt:
    """What one branch's forecasts have moved the latent by since its last true output.

    Every forecast is a weighted sum of the same few true outputs, so is their sum: it is kept as
    weights, and costs no memory.

    Attributes:
        moved: weight of each output in the branch's history, transported to the present latent.
        rounds: forecasts in it.
    """

    moved: list[float]
    rounds: int = 0


@dataclass
class Hindsight:
    """Run state of the correction. Owned by a session, dropped with it.

    Attributes:
        transitions: ``(a, b)`` of every step; ``None``: nothing is ever taken back.
        rule: reuse rule, which interpolates.
        response: ``kappa`` by time coordinate.
        skipped: ``(t, step index)`` of the rounds reused since the last true evaluation.
        debts: by key.
        keep: whether :attr:`offsets` are wanted.
        offsets: by key, where another output than the one to be expected is handed on: what the
            latent is to be moved by (``None``: nothing), and the expected output less the one
            handed on, both float32. For hosts that show the clean latent which an output stands
            for: it lacks them.
        spoilt: whether a branch was computed in between, came or went, so that the guided output of
            some skipped round was no forecast of the same branches.
    """

    transitions: Sequence[tuple[float, float]] | None
    rule: ReuseRule
    response: Callable[[float], float]
    skipped: list[tuple[float, int]] = field(default_factory=list)
    debts: dict[Key, Debt] = field(default_factory=dict)
    keep: bool = False
    offsets: dict[Key, tuple[Tensor | None, Tensor]] = field(default_factory=dict)
    spoilt: bool = False

    @property
    def on(self) -> bool:
        """Whether forecasts are taken back."""
        return self.transitions is not None

    @property
    def nbytes(self) -> int:
        """Memory of tensors that outlive the round."""
        return 0

    def stop(self) -> None:
        """From now on nothing is taken back: the sampler does not step as was thought."""
        self.transitions = None
        self.evaluated()
        self.offsets.clear()

    def skip(self, t: float, index: int) -> None:
        """A round at ``t``, schedule step ``index``, is about to be answered by forecasts."""
        if not self.on:
            return
        a, _ = self.transitions[index]
        for debt in self.debts.values():
            debt.moved = [a * weight for weight in debt.moved]
        self.skipped.append((t, index))

    def book(self, key: Key, weights: Sequence[float], held: int) -> None:
        """A forecast was handed out at ``key`` in the present round.

        Args:
            key: where.
            weights: of the newest outputs of its history in the forecast, the newest last.
            held: length of the history.
        """
        if self.spoilt or not self.on:
            return
        _, b = self.transitions[self.skipped[-1][1]]
        debt = self.debts.setdefault(key, Debt([0.0] * held))
        for place, weight in enumerate(weights, start=held - len(weights)):
            debt.moved[place] += b * weight
        debt.rounds += 1

    def spoil(self) -> None:
        """Branches came or went, or one was computed in a round of reuse: of this run of reuse
        nothing is taken back.
        """
        self.spoilt = True
        self.debts.clear()

    def sound(self, keys: Sequence[Key]) -> bool:
        """Whether a call over ``keys`` may be corrected: all of its branches or none.

        A guidance pair of which one half is corrected is off by the other half times the guidance
        scale: so every branch must have been forecast in every skipped round.
        """
        forecast = all(key in self.debts for key in keys)
        if self.skipped and not forecast:
            self.spoil()  # a branch that was not forecast: whatever comes after it stays as it is
        whole = all(debt.rounds == len(self.skipped) for debt in self.debts.values())
        return self.on and whole and forecast and not self.spoilt

    def forecast(
        self, key: Key, rule: ReuseRule, step: Step, history: Sequence[Anchor], x: Sequence[Tensor]
    ) -> Tensor:
        """What stands in for the output at ``key`` in a skipped round.

        Args:
            key: where.
            rule: makes it.
            step: the round.
            history: true outputs, oldest first.
            x: the latent at hand, per modality.
        """
        used = [anchor.t for anchor in history[-rule.history :]]
        self.book(key, rule.weights(used, step.t), len(history))
        return rule.predict(step.t, history)

    def settle(
        self,
        key: Key,
        y: Tensor,
        step: Step,
        history: Sequence[Anchor],
        x: Sequence[Tensor],
        sound: bool,
    ) -> tuple[Tensor, Tensor]:
        """Correct a true output after a run of reuse.

        Args:
            key: where.
            y: true output of the round ``step``; only read.
            history: earlier true outputs, oldest first.
            x: the latent at hand, per modality.
            sound: whether the call may be corrected, see :meth:`sound`.

        Returns:
            The output to be expected at the corrected latent, and the output to hand to the
            sampler, both float32; twice ``y`` if there is nothing to take back.
        """
        debt = self.debts.pop(key, None) if sound else None
        if debt is None or len(debt.moved) != len(history):
            return y, y
        a, b = self.transitions[step.index]
        if b == 0:
            return y, y
        times = [*(anchor.t for anchor in history), step.t]
        total = [-weight for weight in debt.moved] + [0.0]
        transport = 1.0
        for when, index in reversed(self.skipped):
            factor = transport * self.transitions[index][1]
            for place, weight in enumerate(self.rule.weights(times, when)):
                total[place] += factor * weight
            transport *= self.transitions[index][0]
        off = y.float() * total[-1]
        for weight, anchor in zip(total[:-1], history, strict=True):
            off.add_(anchor.y, alpha=weight)
        kappa = self.response(step.t)
        feedback = max(-MOST_FEEDBACK, min(MOST_FEEDBACK, total[-1] * kappa))
        off.div_(1 - feedback)
        if self.keep:
            self.offsets[key] = off, off * (-a / b)
        there = y.float().add(off, alpha=kappa)
        return there, there.add(off, alpha=a / b)

    def evaluated(self) -> None:
        """A true evaluation has ended the run of reuse."""
        self.skipped.clear()
        self.debts.clear()
        self.spoilt = False


def hindsight_of(run: RunInfo, rule: ReuseRule) -> Hindsight:
    """What takes the forecasts of ``rule`` back, where that is sound."""

    def response(t: float) -> float:
        return run.moments.response_at(t) * unit_scale(run.family, run.schedule, t, run.clean)

    steps = run.transitions if run.moments is not None else None
    return Hindsight(steps, rule, response)
