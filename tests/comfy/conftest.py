"""Fixtures of the tests that run inside ComfyUI. Helpers lie next to them: ``models``, ``runs``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

sys.path.append(str(Path(__file__).parent))


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
