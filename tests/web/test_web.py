"""Runs the unit tests of web/lib with Node."""

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.mark.skipif(not shutil.which("node"), reason="Node.js is not installed")
def test_javascript():
    tests = sorted(str(path) for path in HERE.glob("*.test.mjs"))
    done = subprocess.run(["node", "--test", *tests], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_libraries_have_no_side_effects_on_comfyui():
    """The frontend loads every script below web/: only sencache.js may touch it."""
    web = HERE.parents[1] / "web"
    for path in (web / "lib").glob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert "scripts/" not in text and "registerExtension" not in text, path.name
