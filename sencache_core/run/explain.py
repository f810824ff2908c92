"""Whether the sampler's steps follow from the outputs: seen in the latents, not in its name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..types import sketch
from .stats import RunReport

#: Steps at the start of a run that are looked at.
LOOKED_AT = 3

#: RMS that a step may move the latent by for reasons of its own, per RMS that it moves it in all
#: (ours): deterministic samplers stay below 1e-4, but for the rounding of the latent's dtype.
UNEXPLAINED = 0.03


class Explain:
    """Compares the first latents of a run with what outputs and earlier latents span.

    Every deterministic sampler moves the latent along its outputs and the latents before. What is
    left is fresh noise, or a part of the latent that somebody else sets (masks). Forecasts need not
    be shown: they are combinations of outputs that were.

    Args:
        report: told, once.
    """

    def __init__(self, report: RunReport) -> None:
        self._report = report
        self._latents: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._left = LOOKED_AT  # steps

    def clear(self) -> None:
        """Look no more, and drop every tensor."""
        self._left = 0
        self._latents.clear()
        self._outputs.clear()

    def begin(self, x: Sequence[Tensor]) -> bool:
        """A round begins at the latent ``x``, per modality ``[B, ...]``.

        Returns:
            Whether the step before it moved the latent by more than that; said once.
        """
        if not self._left:
            return False
        unexplained = False
        latent = torch.cat([part.reshape(-1) for part in map(sketch, x)])
        known = [y for y in (*self._latents, *self._outputs) if y.shape == latent.shape]
        if self._latents and len(known) == len(self._latents) + len(self._outputs):
            rounding = max(torch.finfo(part.dtype).eps for part in x)
            unexplained = _unexplained(latent, self._latents[-1], known, rounding)
        self._left -= bool(self._latents)
        self._latents.append(latent)
        if unexplained:
            self._report.say("fresh_noise")
        if unexplained or not self._left:
            self.clear()
        return unexplained

    def observe(self, outputs: Sequence[Tensor]) -> None:
        """What the branches of a call gave, each ``[B, ...]``."""
        if self._left:
            self._outputs += [sketch(y).reshape(-1) for y in outputs]


def _unexplained(latent: Tensor, before: Tensor, known: Sequence[Tensor], rounding: float) -> bool:
    """Whether the step from ``before`` to ``latent`` holds more than ``known`` span."""
    rows = torch.stack([latent - before, *known]).cpu().double().numpy()
    target, span = rows[0], rows[1:]
    weights = np.linalg.lstsq(span.T, target, rcond=None)[0]
    size, left = np.linalg.norm(target), np.linalg.norm(target - weights @ span)
    return bool(left > UNEXPLAINED * size + rounding * np.linalg.norm(span[0]))
