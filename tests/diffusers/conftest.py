"""What every test of the diffusers host has at hand."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small lose far more than they gain by threads, most of all on busy machines."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def wan():
    """A guided sampling loop over a small Wan transformer."""
    from diffusers_runs import Sampler

    return Sampler("wan")
