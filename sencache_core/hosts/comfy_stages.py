"""Clips that are sampled in several calls: which run goes on where another one ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..run.facts import Stage
from ..run.stats import RunReport
from ..sampler.schedule import ON_THE_GRID

#: Entries of a latent that it is recognised by.
_ENTRIES = 64
#: Largest difference between two latents that are one, relative to their size: half precision on
#: the way from node to node makes one.
_SAME = 1e-2
#: Ended stages to remember: enough for a graph with several clips in the making.
_MOST = 16


@dataclass(frozen=True)
class Ended:
    """What is kept of a run that ended above noise level 0: figures, no tensors.

    Attributes:
        sigma: where it ended.
        shape: of its latent.
        entries: some of the latent's values.
        steps: schedule steps of the clip so far.
        carry: evaluations that the clip's budget has left over (or is short of).
    """

    sigma: float
    shape: tuple[int, ...]
    entries: tuple[float, ...]
    steps: int
    carry: float


@dataclass
class Stages:
    """The last ended stages of all models, since a clip may go from one expert to the next.

    They stay when a run has followed: a graph may be run again from there.
    """

    ended: deque[Ended] = field(default_factory=lambda: deque(maxlen=_MOST))

    def remember(self, latent: Tensor, sigma: float, steps: int, carry: float) -> None:
        """A run has ended at ``sigma``, above 0, with ``latent``."""
        entry = Ended(sigma, tuple(latent.shape), _entries(latent), steps, carry)
        self.ended = deque((e for e in self.ended if not _same(e, entry)), maxlen=_MOST)
        self.ended.append(entry)

    def before(self, noise: Tensor, latent: Tensor, sigma: float) -> Ended | None:
        """The stage that a run from ``latent`` at ``sigma`` goes on from; it adds ``noise``."""
        if sigma <= 0 or bool(noise.any()):
            return None
        start = Ended(sigma, tuple(latent.shape), _entries(latent), 0, 0.0)
        return next((e for e in reversed(self.ended) if _same(e, start)), None)


def stage_of(before: Ended | None, sigmas: Sequence[float], sampling: Any) -> Stage:
    """Where a run lies in its clip.

    Args:
        before: the stage that it goes on from.
        sigmas: the run's noise levels.
        sampling: ComfyUI's model sampling object.
    """
    steps = len(sigmas) - 1
    done = before.steps if before else 0
    whole = done + steps
    if sigmas[-1] > 0:  # more will follow, in steps of about the same size
        start, end = (_percent(sampling, sigma) for sigma in (sigmas[0], sigmas[-1]))
        whole = max(whole + 1, round(steps / max(end - start, 1e-6)))
    return Stage(done, whole, before.carry if before else 0.0)


def carry_of(report: RunReport, stage: Stage) -> float:
    """Evaluations that a run's budget leaves to the next stage: less than one, rounding's share."""
    if report.budget is None:
        return 0.0
    rounds = len(report.steps) - report.idle
    return max(-1.0, min(1.0, stage.carry + (report.budget - report.cost) * rounds))


def _percent(sampling: Any, sigma: float) -> float:
    """Share of the training schedule above ``sigma``: the inverse of ``percent_to_sigma``."""
    low, high = 0.0, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if sampling.percent_to_sigma(middle) > sigma else (low, middle)
    return (low + high) / 2


def _entries(latent: Tensor) -> tuple[float, ...]:
    flat = latent.detach().reshape(-1)
    return tuple(flat[:: max(1, flat.numel() // _ENTRIES)][:_ENTRIES].float().tolist())


def _same(one: Ended, other: Ended) -> bool:
    if one.shape != other.shape or abs(one.sigma - other.sigma) > ON_THE_GRID * one.sigma:
        return False
    size = max(map(abs, one.entries))
    pairs = zip(one.entries, other.entries, strict=True)
    return all(abs(a - b) <= _SAME * size for a, b in pairs)
