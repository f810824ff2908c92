"""Paths, and the one place that finds ComfyUI."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# The repository root goes to the end of the path: sencache_core must be found without an install,
# and the pack's `nodes` folder must not hide ComfyUI's nodes.py.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
sys.path.append(str(ROOT))

# The same examples every time, however slow the machine.
settings.register_profile("sencache", deadline=None, derandomize=True)
settings.load_profile("sencache")

#: Requirements of ComfyUI that its server can do without.
OPTIONAL = {"comfyui-workflow-templates", "comfyui-embedded-docs", "pyopengl", "comfy-angle"}


def comfyui_path() -> Path | None:
    """Folder of ComfyUI: ``COMFYUI_PATH``, else around this pack, else ``~/ComfyUI``."""
    named = os.environ.get("COMFYUI_PATH")
    around = ROOT.parents[1] if ROOT.parent.name == "custom_nodes" else None
    for candidate in (named, around, Path.home() / "ComfyUI"):
        if candidate and (Path(candidate) / "comfy" / "sd.py").is_file():
            return Path(candidate).resolve()
    return None


def comfyui_version(path: Path) -> str:
    found = re.search(r'"(.+)"', (path / "comfyui_version.py").read_text())
    return found.group(1) if found else "of unknown version"


def missing_requirements(path: Path) -> list[str]:
    """Requirements of ComfyUI that this interpreter lacks."""
    lines = (path / "requirements.txt").read_text().splitlines()
    names = [m.group().lower() for line in lines if (m := re.match(r"[\w.-]+", line))]
    installed = {
        re.sub(r"[-_.]+", "-", dist.name or "").lower()
        for dist in importlib.metadata.distributions()
    }
    return sorted({re.sub(r"[-_.]+", "-", n) for n in names} - installed - OPTIONAL)


def comfyui_obstacle() -> str | None:
    """Why the ComfyUI tests cannot run in this process, or ``None``."""
    path = comfyui_path()
    if path is None:
        return "no ComfyUI found; set COMFYUI_PATH to its folder"
    if missing := missing_requirements(path):
        return f"this Python lacks requirements of ComfyUI: {', '.join(missing)}"
    return None


class PlainRoot:
    """Collects the repository root as a folder, not as the package that its __init__.py makes it:
    pytest would import the pack, and with it ComfyUI, before the first test."""

    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Dir | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(PlainRoot())
    if os.environ.get("SENCACHE_REQUIRE_COMFYUI") and (obstacle := comfyui_obstacle()):
        raise pytest.UsageError(f"SENCACHE_REQUIRE_COMFYUI is set, but {obstacle}")


def pytest_report_header() -> str:
    obstacle = comfyui_obstacle()
    if obstacle:
        return f"ComfyUI tests are skipped: {obstacle}"
    return f"ComfyUI {comfyui_version(comfyui_path())}: its tests run"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked ``comfyui`` where they cannot run."""
    marked = [item for item in items if item.get_closest_marker("comfyui")]
    if marked and (obstacle := comfyui_obstacle()):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=obstacle))


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """ComfyUI's folder, first on ``sys.path`` and imported for the CPU, or a skip.

    ComfyUI reads the command line when it is imported, hence the replaced arguments.
    """
    if obstacle := comfyui_obstacle():
        pytest.skip(obstacle)
    path = comfyui_path()
    sys.path.insert(0, str(path))
    argv, sys.argv = sys.argv, ["x", "--cpu"]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args
    finally:
        sys.argv = argv
    return path


@pytest.fixture(scope="session")
def comfyui_python() -> str:
    """Interpreter for tests that start a ComfyUI server."""
    return os.environ.get("COMFYUI_PYTHON") or sys.executable
