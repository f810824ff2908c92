"""How far clips are from what they are compared with, and what many distances come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sencache_core.app.metrics import PSNR_CAP

if TYPE_CHECKING:
    from .models import Model

#: Share of the clips that are allowed to be farther away than the percentile shown.
TAIL = 10.0
#: Resamples of a bootstrap, and the ends of its interval in percent (Efron and Tibshirani 1993,
#: chapter 13).
RESAMPLES, ENDS = 2000, (2.5, 97.5)


def rms(x: Tensor) -> float:
    """Root of the mean square of all entries."""
    return float(x.double().square().mean().sqrt())


def psnr(clip: Tensor, reference: Tensor, peak: float = 1.0) -> float:
    """``10 log10(peak^2 / mse)`` over all entries, in dB, at most 100."""
    mse = float((clip.double() - reference.double()).square().mean())
    if mse <= 0:
        return PSNR_CAP
    value = float(10 * torch.log10(torch.tensor(peak**2 / mse, dtype=torch.float64)))
    return min(value, PSNR_CAP)


def distance(model: Model, latent: Tensor, reference: Tensor) -> float:
    """PSNR of two clips as the model's codec decodes them, in dB.

    Without a codec it is that of the latents, with the range of the reference as its peak.

    Args:
        model: whose latents.
        latent, reference: final latents ``[C, F, H, W]`` or ``[1, C, F, H, W]``.

    Raises:
        ArithmeticError: the latent is not finite.
    """
    if not latent.isfinite().all():
        raise ArithmeticError("the latents are not finite")
    latent, reference = (x.reshape(1, *model.spec.latent) for x in (latent, reference))
    if model.codec is None:
        return psnr(latent, reference, float(reference.max() - reference.min()))
    return psnr(model.decode(latent), model.decode(reference))


def tail(values: Sequence[float]) -> float:
    """The tenth percentile, linear between values: nine clips of ten are at least as near."""
    return float(np.percentile(values, TAIL))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Ends of the bootstrap interval of the mean of ``values``."""
    draws = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(np.asarray(values)[draws].mean(axis=1), ENDS)
    return float(low), float(high)


class Nearer(NamedTuple):
    """How often a method is nearer than the best of others.

    Attributes:
        peer: whose mean is best.
        share: of the clips, compared one by one; equal ones count half.
        low, high: ends of its bootstrap interval.
    """

    peer: str
    share: float
    low: float
    high: float


def nearer(ours: Sequence[float], peers: Mapping[str, Sequence[float]]) -> Nearer:
    """Compare dB clip by clip with the peer of the best mean.

    The interval is of clips drawn anew, with the best peer chosen anew among each draw.

    Args:
        ours: dB of each clip.
        peers: the same clips by others, at least one.
    """
    own, names = np.asarray(ours), list(peers)
    table = np.array([peers[name] for name in names])
    won = (own > table) + 0.5 * (own == table)
    draws = np.random.default_rng(0).integers(len(own), size=(RESAMPLES, len(own)))
    best = table[:, draws].mean(axis=2).argmax(axis=0)
    low, high = np.percentile(won[best[:, None], draws].mean(axis=1), ENDS)
    first = int(table.mean(axis=1).argmax())
    return Nearer(names[first], float(won[first].mean()), float(low), float(high))
