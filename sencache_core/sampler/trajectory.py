"""Whether a latent continues a trajectory: what tells the samples of one model apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..types import same_time

#: Largest mean square of a step, as a share of that between independent latents of the same size
#: (ours). A step of ten over a whole run stays below a third of it; samples that only share their
#: prompt lie above.
FARTHEST = 0.5

#: How many times faster than so far a trajectory may move (ours): guidance that sets in and
#: corrections of forecasts quicken it; another sample lies many steps away.
FASTEST = 4.0


@dataclass
class Trajectory:
    """Where one sample is, and how it came there.

    Attributes:
        latent: sketch of each modality, ``[B, n]`` float32, see ``types.sketch``.
        t: the family's time coordinate there.
        before: latent and time one step earlier, ``None`` at the start.
        path, span: distance and time covered so far.
        stride: time of the last step.
    """

    latent: tuple[Tensor, ...]
    t: float
    before: tuple[tuple[Tensor, ...], float] | None = None
    path: float = 0.0
    span: float = 0.0
    stride: float = 0.0

    def distances(self, latent: tuple[Tensor, ...], t: float) -> Tensor:
        """Three mean squares ``[3]`` float32, on the device of the latents: of the step to
        ``latent`` at ``t``, of the step between independent latents of this size, and of what
        ``latent`` misses a straight continuation by.
        """
        expected = self.latent
        if self.before is not None:
            earlier, then = self.before
            share = (t - self.t) / (self.t - then)
            expected = tuple(
                torch.lerp(b, a, 1 + share) for a, b in zip(self.latent, earlier, strict=True)
            )
        differences = tuple(a - b for a, b in zip(latent, self.latent, strict=True))
        missed = tuple(a - b for a, b in zip(latent, expected, strict=True))
        independent = _mean_square(self.latent) + _mean_square(latent)
        return torch.stack([_mean_square(differences), independent, _mean_square(missed)])

    def continues(self, moved: float, independent: float, t: float) -> bool:
        """Whether a step to ``t`` with these :meth:`distances` is one of this trajectory."""
        if moved > FARTHEST * independent:
            return False
        if not self.span:
            return True
        time = self.stride if same_time(t, self.t) else FASTEST * abs(t - self.t)
        return moved**0.5 <= self.path / self.span * time

    def advance(self, latent: tuple[Tensor, ...], t: float, moved: float) -> None:
        """Go on to ``latent``; a second visit of one time replaces the first."""
        if not same_time(t, self.t):
            self.before = self.latent, self.t
            self.stride = abs(t - self.t)
            self.path, self.span = self.path + moved**0.5, self.span + self.stride
        self.latent, self.t = latent, t


def _mean_square(parts: tuple[Tensor, ...]) -> Tensor:
    total = torch.stack([part.square().sum() for part in parts]).sum()
    return total / max(sum(part.numel() for part in parts), 1)
