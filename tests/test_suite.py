"""The suite itself: it tests this checkout, and says in a line what it leaves out."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def pytest_in(folder, *arguments, **environment):
    """Exit code and output of a run of pytest in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def test_another_checkout_is_not_tested_by_mistake(tmp_path):
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    (tmp_path / "tests" / "test_nothing.py").write_text("def test_nothing():\n    assert True\n")
    code, said = pytest_in(tmp_path, PYTHONPATH=str(ROOT))
    assert code == 4 and "passed" not in said
    (line,) = (line for line in said.splitlines() if "pip install -e ." in line)
    assert str(ROOT / "sencache_core") in line and f"this checkout, {tmp_path}" in line


def test_what_is_lacking_is_told_in_one_line(tmp_path):
    lacking = {"HOME": str(tmp_path), "COMFYUI_PATH": "", "SENCACHE_REQUIRE_COMFYUI": ""}
    code, said = pytest_in(ROOT, "tests/nodes/test_schema.py", **lacking)
    assert code == 0
    (line,) = (line for line in said.splitlines() if "SKIPPED" in line)
    count = int(re.match(r"SKIPPED (\d+): no ComfyUI found; set COMFYUI_PATH", line).group(1))
    assert count > 20 and f"{count} skipped" in said.splitlines()[-1]


def test_every_slow_test_is_there(pytestconfig):
    """A name in the list that nothing has any more would let its test into the fast ones."""
    conftest = pytestconfig.pluginmanager.get_plugin(str(ROOT / "tests" / "conftest.py"))
    for entry in conftest.SLOW:
        file, *names = entry.split("::")
        assert (ROOT / file).exists(), entry
        if names:
            source = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            tests = {n.name for n in ast.walk(source) if isinstance(n, ast.FunctionDef)}
            assert any(name.startswith(names[-1]) for name in tests), entry
