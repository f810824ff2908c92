"""What is kept of an output: itself, or the clean latent that it stands for.

A sampler that draws noise as it goes moves the latent by more than outputs. An output tells the way
from the noise at hand to the clean latent; at another noise an earlier output leads elsewhere,
whereas the clean latent is still where it was. So there clean latents ``D = p x + q y`` are kept,
and an earlier one says of the output at the latent at hand that it is ``(D - p x) / q``
(docs/theory.md, section 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..sampler.solver import Clean
from ..types import Anchor, packed


class Keeping:
    """Owned by a session, dropped with it.

    Args:
        clean: how the sampler sees the clean latent; ``None``: outputs are kept as they are.
    """

    def __init__(self, clean: Clean | None) -> None:
        self._clean = clean
        self._x: Tensor | None = None
        self._p = self._q = 0.0
        self._dtype: torch.dtype | None = None

    def open(self, x: Sequence[Tensor], sigma: float) -> None:
        """A round begins at the latent ``x``, per modality; the model is told ``sigma``."""
        if self._clean is not None:
            self._p, self._q = self._clean(sigma)
            self._x = packed(x)

    def close(self) -> None:
        self._x = None

    def fits(self, y: Tensor) -> bool:
        """Whether it is known which latent the output ``y`` belongs to.

        From the first time on that it is not, outputs are kept as they are.
        """
        if self._clean is not None and self._x.shape != y.shape:
            self._clean = None
            return False
        return True

    def kept(self, y: Tensor, dtype: torch.dtype) -> tuple[Tensor, torch.dtype]:
        """What to keep of the output ``y``, of payloads of type ``dtype``, and as what."""
        if self._clean is None:
            return y, dtype
        self._dtype = dtype
        # In half precision its rounding would outlive the noise.
        return (self._x.to(y.device) * self._p).float().add_(y, alpha=self._q), torch.float32

    def said(self, kept: Sequence[Anchor]) -> Sequence[Anchor]:
        """What was kept, as outputs at the latent at hand."""
        if self._clean is None:
            return kept
        return [replace(anchor, y=self._output(anchor.y)) for anchor in kept]

    def _output(self, clean: Tensor) -> Tensor:
        x = self._x.to(clean)
        return (clean - x * self._p).div_(self._q).to(self._dtype)
