"""What the sampler's steps approximate: the latent's way as an integral of the model's outputs.

Euler follows ``dx / dsigma = (x - x0) / sigma`` with ``x0 = p x + q y`` (Karras et al. 2022,
algorithm 1), that is ``dx / dsigma = A x + B y`` with ``A = (1 - p) / sigma``, ``B = -q / sigma``.
With the scale ``c(sigma) = exp(-integral of A)``, 1 at noise level 0, the scaled latent ``X = c x``
moves by outputs alone: ``dX = c B y dsigma``. Flow models have ``c = 1`` and ``dX = y dsigma``;
DDIM turns the latent by an angle, along v: ``dX = y dphi`` (Salimans and Ho 2022, appendix D).

A step ``x' = a x + b h`` lands at ``X' = X + D`` where it is handed ``h = p x + q D`` with
``q = 1 / (c' b)`` and ``p = (c / c' - a) / b``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..model.families import Family
from .schedule import Schedule
from .solver import Clean, turns

_POINTS, _SHARES = (np.polynomial.legendre.leggauss(5) + np.array([[1.0], [0.0]])) / 2
_FINE, _FINE_SHARES = (np.polynomial.legendre.leggauss(24) + np.array([[1.0], [0.0]])) / 2


@dataclass(frozen=True)
class Path:
    """One step of the sampler.

    Attributes:
        start: time coordinate at which it begins.
        points, shares: time coordinates, and weights of the outputs there in the scaled latent's
            way (Gauss-Legendre quadrature).
        scale: from the sampler's latent to the scaled one, at its start.
        p, q: weights of the latent and of the scaled one's displacement in what is to be handed on;
            both 0 where nothing that is handed on moves it.
    """

    start: float
    points: tuple[float, ...]
    shares: tuple[float, ...]
    scale: float
    p: float
    q: float


def paths_of(
    family: Family,
    schedule: Schedule,
    transitions: Sequence[tuple[float, float]],
    clean: Clean | None = None,
) -> tuple[Path, ...]:
    """The paths of all steps; arguments as of ``solver.transitions``, and what that returned.

    Multistep samplers of k-diffusion approximate what Euler does; what they carry on from earlier
    steps is taken off what is handed on, see ``run/integral.py``.
    """
    turning = turns(family, schedule)
    clean = clean or clean_of(family)
    levels, out, scale = schedule.sigmas, [], 1.0
    if not turning and levels[-1] > 0:
        scale = math.exp(-_growth(clean, 0.0, levels[-1]))
    pairs = zip(levels[-2::-1], levels[:0:-1], reversed(transitions), strict=True)
    for now, after, (a, b) in pairs:
        start, end = family.time(now), family.time(after)
        points, before = start + (end - start) * _POINTS, 1.0
        if turning:
            shares = math.pi / 2 * (end - start) * _SHARES
        else:
            before = scale * math.exp(-_growth(clean, after, now))
            densities = [_density(family, clean, scale, after, t) for t in points]
            shares = (end - start) * _SHARES * densities
        p, q = ((before / scale - a) / b, 1 / (scale * b)) if b else (0.0, 0.0)
        p = 0.0 if abs(p) < 1e-9 else p
        out.append(Path(start, tuple(points.tolist()), tuple(shares.tolist()), before, p, q))
        scale = before
    return tuple(reversed(out))


def clean_of(family: Family) -> Clean:
    """How k-diffusion's samplers see the clean latent where the host does not say."""
    if family.prediction == "flow":
        return lambda sigma: (1.0, -sigma)
    return lambda sigma: (1 / (sigma * sigma + 1), -sigma / math.sqrt(sigma * sigma + 1))


def _growth(clean: Clean, low: float, high: float) -> float:
    """Integral of ``A`` between two noise levels, by quadrature over ``asinh(sigma)``."""
    first, last = math.asinh(low), math.asinh(high)
    total = 0.0
    for point, share in zip(_FINE, _FINE_SHARES, strict=True):
        z = first + (last - first) * point
        sigma = math.sinh(z)
        total += share * (last - first) * (1 - clean(sigma)[0]) / sigma * math.cosh(z)
    return total


def _density(family: Family, clean: Clean, scale: float, low: float, t: float) -> float:
    """``c B dsigma / dt`` at ``t``, where ``scale`` is that at the noise level ``low``."""
    sigma = family.sigma(t)
    slope = 1.0 if family.prediction == "flow" else math.pi / 2 * (1 + sigma * sigma)
    return scale * math.exp(-_growth(clean, low, sigma)) * -clean(sigma)[1] / sigma * slope
