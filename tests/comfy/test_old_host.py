"""The oldest ComfyUI that the pack supports: import and run, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.comfyui

HERE = Path(__file__).parent
#: What differs between the hosts: every family, windows, hooks, errors, clones, refusals.
FILES = (
    *("test_families.py", "test_branches.py", "test_lifecycle.py", "test_refusals.py"),
    *("test_neighbours.py", "test_guiders.py", "test_stages.py"),
)
CHOSEN = (
    "(test_computing_everything and euler) or replay or windows or hooks or layer or interrupt"
    " or untouched or nodes_after or refused or itself or one_call or a_switch or is_run_again"
)


def test_the_oldest_supported_host():
    old = Path(os.environ.get("COMFYUI_OLD_PATH") or Path.home() / "ComfyUI-old")
    if not (old / "comfy" / "sd.py").is_file():
        pytest.skip("no ComfyUI 0.3.64 found; set COMFYUI_OLD_PATH to its folder")
    command = [sys.executable, "-m", "pytest", "-q", "-k", CHOSEN, *(str(HERE / f) for f in FILES)]
    done = subprocess.run(
        command,
        cwd=HERE.parents[1],
        env=os.environ | {"COMFYUI_PATH": str(old)},
        capture_output=True,
        text=True,
        check=False,
    )
    tail = done.stdout[-3000:] + done.stderr[-1000:]
    assert done.returncode == 0, tail
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed.group(1)) > 40, tail
