"""Fixtures of the tests that run inside ComfyUI. Helpers lie next to them: ``models``, ``runs``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The models are so small that a second thread only waits for the first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def runs(comfyui: Path) -> Iterator[ModuleType]:
    import models
    import runs

    yield runs
    # Patchers that outlive ComfyUI's modules complain when the interpreter takes them down.
    models.forget()


@pytest.fixture(scope="session")
def host(comfyui: Path) -> ModuleType:
    from sencache_core.hosts import comfy

    return comfy
