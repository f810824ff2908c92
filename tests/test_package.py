"""What the registry and a source distribution hold, and what they say of the pack."""

import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import sencache_core

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
#: What ComfyUI loads or shows.
NEEDED = ("__init__.py", "nodes", "web", "locales", "example_workflows", "sencache_core")


def listed(*options: str) -> set[str]:
    """Tracked files, as git lists them with ``options``."""
    command = ["git", "-c", "core.quotePath=off", "ls-files", *options]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("this is no git checkout")
    return set(found.stdout.splitlines())


def test_the_registrys_package_holds_all_that_comfyui_loads():
    tracked = listed()
    left_out = listed("-ci", "--exclude-from=.comfyignore")
    wanted = {path for path in tracked if path.split("/")[0] in NEEDED}
    assert wanted and not wanted & left_out
    ends = {Path(path).suffix for path in tracked - left_out}
    assert {".py", ".js", ".md", ".json", ".jpg", ".safetensors"} <= ends
    folders = {path.split("/")[0] for path in tracked - left_out}
    assert not folders & {"assets", "benchmarks", "docs", "tests", "tools", ".ci"}
    assert {"pyproject.toml", "README.md", "LICENSE"} <= tracked - left_out


def test_a_source_distribution_holds_them_too():
    target = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]
    assert {f"/{name}" for name in NEEDED} <= set(target["include"])
    assert all((ROOT / name[1:]).exists() for name in target["include"])


def test_the_registry_is_told_what_it_asks_for():
    project, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9_-]*", project["name"]) and "comfyui" not in project["name"]
    assert 40 < len(project["description"]) < 200
    assert project["license"] == {"text": "Apache-2.0"}
    assert comfy["PublisherId"] and comfy["DisplayName"] == "SenCache"
    assert {"Icon", "Banner"} <= comfy.keys() and comfy["requires-comfyui"].startswith(">=")
    assert "Operating System :: OS Independent" in project["classifiers"]
    assert (ROOT / comfy["version"]["path"]).samefile(sencache_core.__file__)


@pytest.mark.parametrize(("name", "shape"), [("icon", 1.0), ("banner", 21 / 9)])
def test_icon_and_banner_have_the_shape_that_the_registry_asks_for(name, shape):
    data = (ROOT / "assets" / f"{name}.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width / height == pytest.approx(shape, abs=0.01)
    assert name != "icon" or width <= 400


def test_the_page_knows_the_release():
    text = (ROOT / "web" / "lib" / "version.js").read_text(encoding="utf-8")
    assert f'VERSION = "{sencache_core.__version__}"' in text
