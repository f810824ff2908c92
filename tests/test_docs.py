"""The README's promises: its code runs, its commands and names exist."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from sencache_core import POLICIES, REUSE_RULES
from sencache_core.config import TAPS

tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

#: A Python block, and the comment before it that says why it is not run, if there is one.
BLOCK = re.compile(r"(?:<!-- not run: (?P<why>.+?) -->\n)?```python\n(?P<code>.+?)```", re.DOTALL)
BLOCKS = list(BLOCK.finditer(README))


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_python_blocks_run(block):
    code = compile(block["code"], "README.md", "exec")
    if not block["why"]:
        exec(code, {"__name__": "readme"})


def test_some_python_blocks_run():
    assert sum(not block["why"] for block in BLOCKS) >= 2


@pytest.mark.parametrize("extra", ["demo", "test"])
def test_the_two_commands(extra):
    """Each on a line of its own, as .ci/run reads them, with an extra that exists."""
    run = {"demo": "sencache demo", "test": "python -m pytest -n auto"}[extra]
    assert f'\npip install -e ".[{extra}]" && {run}\n' in README
    assert extra in PROJECT["optional-dependencies"]


def test_readme_and_the_page_of_methods_name_every_choice():
    methods = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    for name in (*POLICIES, *REUSE_RULES, *TAPS):
        assert f"`{name}`" in README, name
    for name in {*POLICIES, *(f"{rule} (rule)" for rule in REUSE_RULES)} - {"off"}:
        assert f"\n### {name}: " in methods, name


def test_links_lead_to_headings():
    """Of the README's own sections and of other pages, by GitHub's names of headings."""
    for page, heading in re.findall(r"\]\(([\w/.]*)#([\w-]+)\)", README):
        text = (ROOT / (page or "README.md")).read_text(encoding="utf-8")
        known = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        names = [re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in known]
        assert heading in names, (page, heading)


def test_generated_tables_are_up_to_date():
    """``python tools/tables.py`` writes them."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "tools" / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    for page in tables.PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert tables.written(page, text) == text, page
    assert tables.methods_page() == (ROOT / tables.METHODS).read_text(encoding="utf-8")


def test_methods_page_says_why_where_nothing_runs():
    """From kept figures; no model runs here."""
    rows = json.loads((ROOT / "docs" / "methods.json").read_text(encoding="utf-8"))
    assert {row["family"] for row in rows} >= {"wan", "ltx", "cogvideox", "ltx2"}
    for row in rows:
        assert row["parity"] and row["note"]
        assert row["runs"] == (row["saved"] is not None) == (row["psnr_mean"] is not None)
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert [name for name in POLICIES if f"### {name}: " not in page] == ["off"]
    for row in rows:
        if not row["runs"]:
            assert row["note"] in page


def test_commands_exist(capsys):
    from sencache_core.app.cli import main

    commands = set(
        re.findall(r"sencache (demo|calibrate|profile \w+|learnt \w+|stored \w+)", README)
    )
    assert len(commands) == 8
    for command in commands:
        with pytest.raises(SystemExit, match="0"):
            main([*command.split(), "--help"])


def test_linked_files_exist():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_no_machine_paths():
    names = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "pyproject.toml", ".ci/run")
    folders = ("docs", "benchmarks", "web/docs")
    pages = [page for folder in folders for page in sorted((ROOT / folder).glob("*.md"))]
    assert len(pages) > 10
    for path in (*(ROOT / name for name in names), *pages):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.~$])/(root|home|work|opt|Users)/", text), path


def test_console_script_exists():
    module, _, function = PROJECT["scripts"]["sencache"].partition(":")
    path = ROOT / (module.replace(".", "/") + ".py")
    assert f"def {function}(" in path.read_text(encoding="utf-8")
