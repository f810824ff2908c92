"""Equations whose solutions are known: what a model says, and where that leads."""

import math

import torch

from sencache_core import Schedule

#: Where they start, float64.
X = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def flow(steps: int) -> Schedule:
    return Schedule(tuple(1 - k / steps for k in range(steps + 1)))


def angles(steps: int) -> Schedule:
    return Schedule(tuple(math.tan(1.4 * (1 - k / steps)) for k in range(steps + 1)))


def every(step: int, steps: int) -> str:
    return "".join("C" if k % step == 0 or k in (0, 1, steps - 1) else "." for k in range(steps))


def error(latent: torch.Tensor, truth: torch.Tensor) -> float:
    return float((latent - truth).square().mean().sqrt())


def v_of(x, sigma, condition):
    """v of data that is spread by 0.5 around 1: known in closed form, as is its path."""
    s, c = math.sin(math.atan(sigma)), math.cos(math.atan(sigma))
    spread = 0.25 * c * c + s * s
    clean = 1 + 0.25 * c / spread * (x - c)
    return (c * x - clean) / s


def v_path(x, start):
    """Where :func:`v_of` leads from ``x`` at the angle ``start``."""
    s, c = math.sin(start), math.cos(start)
    return 1 + (x - c) * 0.5 / math.sqrt(0.25 * c * c + s * s)


def u_of(x, sigma, condition):
    """Flow velocity of data that is spread by 0.5 around 1."""
    a = 1 - sigma
    spread = 0.25 * a * a + sigma * sigma
    return -1 + (sigma - 0.25 * a) / spread * (x - a)


U_TRUTH = 1 + X * 0.5
