"""What a ComfyUI model predicts, read from its sampling object by asking it."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from ..sampler.solver import Clean

#: Relative difference within which two factors are one: they come in float32.
_SAME = 1e-4


def prediction_of(sampling: Any) -> str | None:
    """``"flow"``, ``"v"``, ``"eps"``, ``"x0"``, ``"another quantity"``, or ``None``: not known.

    The sampling object scales the network's input, and makes the denoised latent ``a x + b y`` of
    noisy latent and output (Karras et al. 2022, table 1): these factors are read at one noise level
    in the middle.
    """
    if not hasattr(sampling, "percent_to_sigma"):
        return None
    sigma = float(sampling.percent_to_sigma(0.5))
    level, one = torch.tensor([sigma]), torch.ones(1, 1)
    scale = float(sampling.calculate_input(level, one))
    a = float(sampling.calculate_denoised(level, 0 * one, one))
    b = float(sampling.calculate_denoised(level, one, 0 * one))
    root = (sigma**2 + 1) ** 0.5
    known = {
        "flow": {(1.0, 1.0, -sigma)},
        # On latents of constant scale (CogVideoX), and on x0 + sigma noise.
        "v": {(1.0, 1 / root, -sigma / root), (1 / root, 1 / root**2, -sigma / root)},
        "eps": {(1 / root, 1.0, -sigma)},
        "x0": {(1 / root, 0.0, 1.0), (1.0, 0.0, 1.0)},
    }
    for name, ways in known.items():
        if any(all(_close(*pair) for pair in zip(way, (scale, a, b), strict=True)) for way in ways):
            return name
    return "another quantity"


def clean_of(sampling: Any) -> Clean:
    """How a sampler sees the clean latent: ``(p, q)`` by sigma, ``denoised = p x + q y``."""

    @cache
    def clean(sigma: float) -> tuple[float, float]:
        level, one = torch.tensor([sigma], dtype=torch.float64), torch.ones(1, 1).double()
        p = sampling.calculate_denoised(level, 0 * one, one)
        return float(p), float(sampling.calculate_denoised(level, one, 0 * one))

    return clean


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= _SAME * max(abs(one), abs(other), 1e-3)
