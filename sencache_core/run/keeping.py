"""What is kept of an output: itself, or what it makes of its latent.

An output tells the way from the latent at hand onward. A sampler that draws noise as it goes moves
the latent by more than outputs: at another noise an earlier output leads elsewhere, whereas the
clean latent is still where it was (docs/theory.md, section 7). And some rules hold the output less
the latent (EasyCache). Both are ``p x + q y`` with factors that follow from the noise level; what
was kept as ``K`` says of the output at the latent at hand that it is ``(K - p x) / q``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..forecast.reuse import ReuseRule
from ..model.families import Family
from ..sampler.schedule import Schedule
from ..sampler.solver import Clean, unit_scale
from ..types import Anchor, packed
from .stats import RunReport


def change_of(family: Family, schedule: Schedule, clean: Clean | None = None) -> Clean:
    """Factors of the output less the latent as the model is fed it."""
    return lambda sigma: (-unit_scale(family, schedule, family.time(sigma), clean), 1.0)


class Keeping:
    """Owned by a session, dropped with it.

    Args:
        kept_as: ``(p, q)`` of what is kept, by noise level; ``None``: outputs as they are.
        rule: makes the missing outputs. One that ``reads_x`` forecasts nothing where it is not
            known which latent an output belongs to; others go on with outputs as they are.
        report: told of that, once.
    """

    def __init__(self, kept_as: Clean | None, rule: ReuseRule, report: RunReport) -> None:
        self._kept_as, self._needed, self._report = kept_as, rule.reads_x, report
        self._x: Tensor | None = None
        self._p = self._q = 0.0
        self._dtype: torch.dtype | None = None

    def open(self, x: Sequence[Tensor], sigma: float) -> None:
        """A round begins at the latent ``x``, per modality; the model is told ``sigma``."""
        if self._kept_as is not None:
            flat = len({(part.shape[:-1], part.device) for part in x}) == 1 and x[0].ndim == 3
            self._p, self._q = self._kept_as(sigma)
            self._x = packed(x) if len(x) == 1 or flat else None

    def close(self) -> None:
        self._x = None

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether outputs of ``shape`` can be kept, and be told from what was kept."""
        if self._kept_as is None or (self._x is not None and self._x.shape == tuple(shape)):
            return True
        if self._needed:
            self._report.say("apart", policy=self._report.policy)
        return False

    def give_up(self) -> bool:
        """An output does not fit: whether, from here on, outputs are kept as they are."""
        if not self._needed:
            self._kept_as = None
        return not self._needed

    def kept(self, y: Tensor, dtype: torch.dtype) -> tuple[Tensor, torch.dtype]:
        """What to keep of the output ``y``, of payloads of type ``dtype``, and as what."""
        if self._kept_as is None:
            return y, dtype
        self._dtype = dtype
        # In half precision its rounding would outlive the noise.
        return (self._x.to(y.device) * self._p).float().add_(y, alpha=self._q), torch.float32

    def said(self, kept: Sequence[Anchor]) -> Sequence[Anchor]:
        """What was kept, as outputs at the latent at hand."""
        if self._kept_as is None:
            return kept
        return [replace(anchor, y=self._output(anchor.y)) for anchor in kept]

    def _output(self, kept: Tensor) -> Tensor:
        x = self._x.to(kept)
        return (kept - x * self._p).div_(self._q).to(self._dtype)
