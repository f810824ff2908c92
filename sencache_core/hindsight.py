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

from .types import Anchor

#: Largest share by which the response may feed back into the correction (ours): beyond it the
#: first-order picture has ended.
MOST_FEEDBACK = 0.5

#: ``weights(times, t)``: weights of known outputs, the newest last, for the output at ``t``.
Interpolate = Callable[[Sequence[float], float], Sequence[float]]


@dataclass
class Debt:
    """What one branch's forecasts have moved the latent by since its last true output.

    Attributes:
        moved: sum of transported ``b_j forecast_j``, float32, latent-sized.
        rounds: forecasts in it.
    """

    moved: Tensor
    rounds: int = 1


@dataclass
class Hindsight:
    """Run state of the correction. Owned by a session, dropped with it.

    Attributes:
        transitions: ``(a, b)`` of every step.
        interpolate: the reuse rule's weights.
        response: ``kappa`` by time coordinate.
        skipped: ``(t, step index)`` of the rounds reused since the last true evaluation.
        debts: by branch.
    """

    transitions: Sequence[tuple[float, float]]
    interpolate: Interpolate
    response: Callable[[float], float]
    skipped: list[tuple[float, int]] = field(default_factory=list)
    debts: dict = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(debt.moved.nbytes for debt in self.debts.values())

    def skip(self, t: float, index: int) -> None:
        """A round at ``t``, schedule step ``index``, is about to be answered by forecasts."""
        a, _ = self.transitions[index]
        for debt in self.debts.values():
            debt.moved.mul_(a)
        self.skipped.append((t, index))

    def book(self, branch, forecast: Tensor) -> None:
        """Add the forecast that ``branch`` was given in the present round. It is only read."""
        _, b = self.transitions[self.skipped[-1][1]]
        debt = self.debts.get(branch)
        if debt is None:
            self.debts[branch] = Debt(forecast.float() * b)
        else:
            debt.moved.add_(forecast, alpha=b)
            debt.rounds += 1

    def settle(
        self, branch, y: Tensor, t: float, index: int, history: Sequence[Anchor]
    ) -> tuple[Tensor, Tensor] | None:
        """Correct a true output after a run of reuse.

        Args:
            branch: its key.
            y: true output at ``t``, schedule step ``index``; only read.
            history: earlier true outputs, oldest first.

        Returns:
            The output to be expected at the corrected latent, and the output to hand to the
            sampler, both float32; ``None`` if there is nothing to take back.
        """
        debt = self.debts.pop(branch, None)
        a, b = self.transitions[index]
        if debt is None or debt.rounds != len(self.skipped) or b == 0:
            return None
        times = [*(anchor.t for anchor in history), t]
        total = [0.0] * len(times)
        transport = 1.0
        for when, step in reversed(self.skipped):
            factor = transport * self.transitions[step][1]
            for place, weight in enumerate(self.interpolate(times, when)):
                total[place] += factor * weight
            transport *= self.transitions[step][0]
        off = y.float() * total[-1] - debt.moved
        for weight, anchor in zip(total[:-1], history, strict=True):
            off.add_(anchor.y, alpha=weight)
        kappa = self.response(t)
        feedback = max(-MOST_FEEDBACK, min(MOST_FEEDBACK, total[-1] * kappa))
        off.div_(1 - feedback)
        there = y.float().add(off, alpha=kappa)
        return there, there.add(off, alpha=a / b)

    def evaluated(self) -> None:
        """A true evaluation has ended the run of reuse."""
        self.skipped.clear()
        self.debts.clear()
