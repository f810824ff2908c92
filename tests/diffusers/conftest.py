"""What every test of the diffusers host has at hand."""

from __future__ import annotations

import pytest


@pytest.fixture
def wan():
    """A guided sampling loop over a small Wan transformer."""
    from diffusers_runs import Sampler

    return Sampler("wan")
