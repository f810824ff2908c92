"""Clips that are sampled in several calls: which run goes on where another one ended."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..run.facts import Part, Stage
from ..sampler.schedule import ON_THE_GRID, Schedule

#: Entries of a latent that it is recognised by.
_ENTRIES = 64
#: Largest difference between two latents that are one, relative to their size: half precision on
#: the way from node to node makes one.
_SAME = 1e-2
#: Ended stages to remember: enough for a graph with several clips in the making.
_MOST = 16
#: Steps to come beyond which the size of those seen says nothing.
_MOST_STEPS = 200


@dataclass(frozen=True)
class Ended:
    """What is kept of a run that ended above noise level 0: figures, no tensors.

    Attributes:
        sigma: where it ended.
        shape: of its latent.
        entries: some of the latent's values.
        part: what it was; ``None`` for a latent that a run begins with.
        steps: schedule steps of the clip so far.
        carry: evaluations that the clip's budget has left over (or is short of).
    """

    sigma: float
    shape: tuple[int, ...]
    entries: tuple[float, ...]
    part: Part | None = None
    steps: int = 0
    carry: float = 0.0


@dataclass
class Stages:
    """The last ended stages of all models, since a clip may go from one expert to the next.

    They stay when a run has followed: a graph may be run again from there.
    """

    ended: deque[Ended] = field(default_factory=lambda: deque(maxlen=_MOST))
    #: Which went on where which had ended, the last time; of checkpoints that are known.
    followed: dict[Part, Part] = field(default_factory=dict)

    def remember(self, latent: Tensor, part: Part, steps: int, carry: float) -> None:
        """A run has ended above noise level 0 with ``latent``."""
        sigma = part.schedule.sigmas[-1]
        entry = Ended(sigma, tuple(latent.shape), _entries(latent), part, steps, carry)
        self.ended = deque((e for e in self.ended if not _same(e, entry)), maxlen=_MOST)
        self.ended.append(entry)

    def before(self, noise: Tensor, latent: Tensor, sigma: float) -> Ended | None:
        """The stage that a run from ``latent`` at ``sigma`` goes on from; it adds ``noise``."""
        if sigma <= 0 or bool(noise.any()):
            return None
        start = Ended(sigma, tuple(latent.shape), _entries(latent))
        return next((e for e in reversed(self.ended) if _same(e, start)), None)

    def stage_of(self, before: Ended | None, part: Part, sampling: Any) -> Stage:
        """Where a run lies in its clip.

        Args:
            before: the stage that it goes on from.
            part: what it is.
            sampling: ComfyUI's model sampling object.
        """
        if before is not None and part.fingerprint:
            self.followed.pop(before.part, None)
            self.followed[before.part] = part
            while len(self.followed) > _MOST:
                del self.followed[next(iter(self.followed))]
        later = self._later(part, sampling)
        done = before.steps if before else 0
        whole = done + sum(p.schedule.num_steps for p in (part, *later))
        return Stage(done, whole, before.carry if before else 0.0, later)

    def _later(self, part: Part, sampling: Any) -> tuple[Part, ...]:
        """What is to follow: what did so the last time, else one run to the end, in steps of about
        the same size.
        """
        out: list[Part] = []
        while part.schedule.sigmas[-1] > 0 and len(out) < _MOST:
            part = self.followed.get(part) or _rest(part.schedule, sampling)
            if part is None:
                break
            out.append(part)
        return tuple(out)


def _rest(schedule: Schedule, sampling: Any) -> Part | None:
    """A run from the end of ``schedule`` to noise level 0, in steps of the same share of the
    training schedule: as most of ComfyUI's schedulers have them. ``None``: they would be too many.
    """
    sigmas, steps = schedule.sigmas, schedule.num_steps
    start, end = (_percent(sampling, sigma) for sigma in (sigmas[0], sigmas[-1]))
    count = max(1, round((1 - end) * steps / max(end - start, 1e-6)))
    if count > _MOST_STEPS:
        return None
    between = (sampling.percent_to_sigma(end + (1 - end) * k / count) for k in range(1, count))
    return Part(Schedule((sigmas[-1], *between, 0.0), schedule.sampler))


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
