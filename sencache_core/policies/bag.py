"""BAG: a small network decides by what is left of the budget and how far the latent has moved."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..forecast.reuse import Hold, ReuseRule
from ..types import ALL, NONE, STACK, Decision, Reason, Step
from .accumulating import PLACE
from .base import Guards, Policy, RunInfo
from .plan import evaluations_of

#: Probability from which on a round is computed (paper).
EVEN_CHANCE = 0.5
TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Gate:
    """One hidden layer of tanh units: six figures to the probability of an evaluation.

    Attributes:
        mean, spread: ``[6]`` of the figures it was trained on.
        inner, inner_bias: ``[n, 6]`` and ``[n]``.
        outer, outer_bias: ``[n]`` and a number.
    """

    mean: np.ndarray
    spread: np.ndarray
    inner: np.ndarray
    inner_bias: np.ndarray
    outer: np.ndarray
    outer_bias: float

    def __call__(self, figures: Sequence[float]) -> float:
        scaled = (np.asarray(figures) - self.mean) / self.spread
        hidden = np.tanh(self.inner @ scaled + self.inner_bias)
        return float(1 / (1 + math.exp(-float(self.outer @ hidden) - self.outer_bias)))

    @property
    def weights(self) -> int:
        """How many there are."""
        return self.inner.size + self.inner_bias.size + self.outer.size + 1


@cache
def bundled_gate() -> Gate:
    """The gate that ``python tools/train_bag.py`` has trained; its file says on what."""
    raw = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))["gate"]
    last = float(raw.pop("outer_bias"))
    return Gate(**{name: np.array(values) for name, values in raw.items()}, outer_bias=last)


@dataclass
class BagState:
    """Run state of :class:`Bag`.

    Attributes:
        run: what is known of the run.
        budget: evaluations in all.
        x: sketches of the latent in the round before.
        spent: evaluations so far.
        last: round of the newest.
    """

    run: RunInfo
    budget: int
    x: tuple[Tensor, ...] = ()
    spent: int = 0
    last: int = 0

    def figures(self, step: Step, last: Step) -> list[float]:
        """What the gate reads of the round ``step``. One device sync.

        Of ``T`` rounds, of which this is the ``t``-th, a budget ``B``, ``c`` of it spent:
        ``B / T``, ``(B - c) / B``, ``(B - c) / (T - t)``, rounds since the last evaluation, and how
        far the latent has moved since then and since the round before, each relative to its size
        there.
        """
        rounds, left = len(self.run.times), self.budget - self.spent
        moved = [_moved(last.x, step.x), _moved(self.x or last.x, step.x)]
        return [
            self.budget / rounds,
            left / self.budget,
            left / max(rounds - step.ordinal, 1),
            float(step.ordinal - self.last),
            *torch.stack(moved).tolist(),
        ]


@dataclass(frozen=True)
class Bag(Policy):
    """Reuse while a small trained gate says so; the budget is met exactly.

    Source: "Budget-Aware Gating" (BAG, arXiv 2608.09231): a network of fewer than 1000 weights
    reads six figures (:meth:`BagState.figures`), trained to say what searched schedules of many
    prompts and budgets do. Whatever it says, a round is computed where as many are left as
    evaluations, and reused where none is left.

    Unlike the paper's: latents are looked at as they are (there after their patch embedding, which
    is linear); the weights, which are not published, are ours: trained on schedules that the
    planner has found for the bundled models, for holding (there by search on LPIPS, on Wan 2.1
    1.3B). Guards keep a part of the budget for what they force.

    Args:
        share: of the evaluations to spend where no budget rules; 1 computes everything.
        place: what is kept: the stack's residual, as theirs, or the model's output.
    """

    name: ClassVar[str] = "bag"
    title: ClassVar[str] = "BAG (trained gate)"
    decides: ClassVar[str] = (
        "a small network that reads what is left of the budget and how far the latent has moved, "
        "trained on planned schedules of the bundled models (BAG; the authors' weights are not "
        "published). It keeps the block stack's residual"
    )
    #: The first evaluation alone: the gate has learnt where a run's start matters.
    opening: ClassVar[float] = 0.0
    share: float = field(
        default=0.5,
        metadata={
            "strictest": 1.0,
            "loose": 0.4,
            "min": 0.05,
            "max": 1.0,
            "step": 0.01,
            "help": "Share of the evaluations to spend, where no budget rules. Higher is nearer to "
            "the uncached clip; 1 computes everything.",
        },
    )
    place: str = field(default=STACK.tap, metadata=PLACE)
    evaluations: int = field(default=0, metadata={"hidden": True})
    guards: Guards = field(default=Guards(longest_run=10_000), metadata={"hidden": True})

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie in (0, 1], not {self.share}")
        self.check_choices()

    @property
    def tap(self) -> str:
        return self.place

    @property
    def rules(self) -> Mapping[str, ReuseRule]:
        return {STACK.tap: Hold()}

    def start(self, run: RunInfo) -> BagState:
        return BagState(run, self.evaluations or evaluations_of(self.share, len(run.times)))

    def decide(self, step: Step, last: Step, state: BagState) -> tuple[Decision, BagState]:
        steps, left = state.run.schedule.steps(), state.budget - state.spent
        chance = bundled_gate()(state.figures(step, last))
        state.x = step.x
        after = step.ordinal + 1
        if left > len(steps) - after:
            return Decision(ALL, Reason.BUDGET_LEFT, chance, EVEN_CHANCE), state
        if left < 1 + self.guards.fewest(steps, step.num_steps, after):
            return Decision(NONE, Reason.BUDGET_SPENT, chance, EVEN_CHANCE), state
        if chance > EVEN_CHANCE:
            return Decision(ALL, Reason.OVER, chance, EVEN_CHANCE), state
        return Decision(NONE, Reason.WITHIN, chance, EVEN_CHANCE), state

    def observe(self, step: Step, state: BagState) -> BagState:
        state.x, state.last, state.spent = step.x, step.ordinal, state.spent + 1
        return state

    def fit_guards(self, guards: Guards, evaluations: int, run: RunInfo) -> Guards:
        """``guards`` with room for ``evaluations``; the gate may use all the room there is."""
        least = super().fit_guards(guards, evaluations, run).longest_run
        return replace(guards, longest_run=max(least, guards.longest_run))

    def for_budget(self, evaluations: int, run: RunInfo, guards: Guards) -> Policy:
        return replace(self, evaluations=evaluations, guards=guards)


def _moved(before: Sequence[Tensor], now: Sequence[Tensor]) -> Tensor:
    """Norm of the difference over that of ``before``, over all entries of all modalities, 0-d."""
    apart = sum((a - b).square().sum() for a, b in zip(now, before, strict=True))
    size = sum(part.square().sum() for part in before)
    return (apart / (size + TINY)).sqrt()
