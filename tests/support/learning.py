"""What runs have told, made up, for tests of what is learnt."""

from __future__ import annotations

import numpy as np

from sencache_core import ProfileHeader
from sencache_core.run.witness import Observed

HEADER = ProfileHeader("wan", "0123456789abcdef", guidance=3.0)


def observed(count, rounds=None, seed=0):
    """A run of ``count`` outputs that turn evenly."""
    rng, t = np.random.default_rng(seed), np.linspace(0.02, 1, count)
    y = np.cos(2 * np.outer(t, rng.random(400)) + 6 * rng.random(400))
    return Observed(t, y @ y.T / 400, y @ y.T / 400 + 1.0, rounds or 2 * count)
