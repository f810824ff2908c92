"""Paths, and the one place that finds ComfyUI."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# The repository root goes to the end of the path: sencache_core must be found without an install,
# and the pack's `nodes` folder must not hide ComfyUI's nodes.py.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
sys.path.append(str(ROOT))

# Networks this small lose far more than they gain by threads. Set before torch is imported, and
# for the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"

# No test leaves anything in the user's folder, or plans by what another one has left.
os.environ["SENCACHE_LEARNT"] = "off"

# The same examples every time, however slow the machine.
settings.register_profile(
    "sencache",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
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
        return (
            f"this Python lacks requirements of ComfyUI ({', '.join(missing)}); "
            f"pip install -r {path / 'requirements.txt'}"
        )
    return None


def foreign_package() -> str | None:
    """What would be tested instead of this checkout, and the cure; ``None`` if nothing would."""
    for name in ("sencache_core", "benchmarks"):
        found = importlib.util.find_spec(name)
        place = Path(found.origin).resolve() if found and found.origin else None
        if place != ROOT / name / "__init__.py":
            return (
                f"{name} is imported from {place.parent if place else 'nowhere'}, not from this "
                f"checkout, {ROOT}: run `pip install -e .` here, in an environment of its own"
            )
    return None


class PlainRoot:
    """Collects the repository root as a folder, not as the package that its __init__.py makes it:
    pytest would import the pack, and with it ComfyUI, before the first test."""

    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Dir | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_configure(config: pytest.Config) -> None:
    if foreign := foreign_package():
        raise pytest.UsageError(foreign)
    config.pluginmanager.register(PlainRoot())
    if os.environ.get("SENCACHE_REQUIRE_COMFYUI") and (obstacle := comfyui_obstacle()):
        raise pytest.UsageError(f"SENCACHE_REQUIRE_COMFYUI is set, but {obstacle}")


def pytest_report_header() -> str:
    obstacle = comfyui_obstacle()
    if obstacle:
        return f"ComfyUI tests are skipped: {obstacle}"
    return f"ComfyUI {comfyui_version(comfyui_path())}: its tests run"


#: Beginnings of the names of tests that take long: a second of processor time and more each, or
#: many of them. They are marked ``slow``.
SLOW = (
    "tests/benchmarks/",
    "tests/comfy/test_branches.py",
    "tests/comfy/test_compile.py",
    "tests/comfy/test_families.py::test_budget_is_met_and_counted",
    "tests/comfy/test_families.py::test_computing_everything_changes_nothing",
    "tests/comfy/test_first_blocks.py",
    "tests/comfy/test_lifecycle.py::test_the_original_patcher_is_untouched",
    "tests/comfy/test_looks.py::test_what_has_not_changed_is_reused",
    "tests/comfy/test_neighbours.py::test_neighbours_that_are_no_caches_are_left_alone",
    "tests/comfy/test_old_host.py",
    "tests/comfy/test_partial_blocks.py",
    "tests/comfy/test_record.py::test_measures_and_changes_nothing",
    "tests/comfy/test_samplers.py",
    "tests/comfy/test_stack.py",
    "tests/comfy/test_stored.py::test_a_cached_run_is_answered_as_it_was",
    "tests/comfy/test_stored.py::test_a_learning_cache_is_left_as_it_is",
    "tests/comfy/test_stored.py::test_a_similar_prompt_gives_the_start_if_asked",
    "tests/comfy/test_stored.py::test_a_tap_inside_the_model_is_refused_in_words",
    "tests/comfy/test_stored.py::test_another_process_resumes",
    "tests/comfy/test_stored.py::test_more_budget_goes_on_from_the_first_skip",
    "tests/comfy/test_stored.py::test_only_what_comes_later_is_computed",
    "tests/diffusers/test_compile.py",
    "tests/diffusers/test_stack.py",
    "tests/diffusers/test_trajectories.py::test_samples_beyond_the_limit_are_computed_in_full",
    "tests/diffusers/test_trajectories.py::test_samples_made_in_turn_are_each_what_they_are_alone",
    "tests/nodes/test_apply_browser.py",
    "tests/nodes/test_browser.py",
    "tests/nodes/test_calibrate.py::test_an_interrupt_keeps_measured_samples",
    "tests/nodes/test_calibrate.py::test_measures_gain_and_says_what_it_costs",
    "tests/nodes/test_preview.py",
    "tests/nodes/test_server.py",
    "tests/test_budget.py::test_asked_and_achieved_cost_agree",
    "tests/test_cli.py::test_calibrate_show_and_use",
    "tests/test_cli.py::test_demo",
    "tests/test_cli.py::test_full_budget_changes_nothing",
    "tests/test_cli.py::test_interrupted_calibration_keeps_what_it_has",
    "tests/test_cli.py::test_more_clips_than_prompts",
    "tests/test_cli.py::test_more_evaluations_come_closer",
    "tests/test_cli.py::test_sampling_agrees_with_the_reference_sampler",
    "tests/test_cli.py::test_speed_up_is_that_of_medians_of_runs_in_turns",
    "tests/test_cli.py::test_what_was_done_is_said",
    "tests/test_mutate.py::test_survivors_are_told",
    "tests/test_policies.py::test_budgets_are_met",
    "tests/test_policies.py::test_budgets_count_the_blocks_that_always_run",
    "tests/test_profile_files.py::test_a_file_is_refused_in_words_or_gives_finite_latents",
    "tests/test_stored.py::test_two_processes_share_a_store",
    "tests/test_suite.py::test_what_is_lacking_is_told_in_one_line",
    "tests/test_tiny.py::test_training_step_and_resume",
)
#: What was lacking and what to do, by what a skipped test says.
CURES = {
    "this ComfyUI|frontend of": "parts that this ComfyUI does not have; take a newer one",
    "0\\.3\\.64": "no ComfyUI 0.3.64 found; set COMFYUI_OLD_PATH to its folder",
    "ComfyUI": "",
    "bench|cache": 'packages of the bench are missing; pip install -e ".[bench]"',
    "Chromium": "Chromium is not installed; apt-get install chromium, or put one on the path",
    "weights": "weights are missing; run `git status` to see what the checkout lacks",
    "Node": "Node.js is not installed; install it from nodejs.org or by your package manager",
    "Python": "this Python is too old for them; take 3.11 or newer",
    "import|diffusers|matplotlib|Pillow|Playwright": (
        'packages of the tests are missing; pip install -e ".[test]"'
    ),
}


def cause(reason: str) -> str:
    """The line under which a skipped test is counted."""
    cures = (cure for words, cure in CURES.items() if re.search(words, reason))
    return next(cures, "") or reason


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each cause of skipped tests, with its cure."""
    skipped = terminalreporter.stats.get("skipped", ())
    reasons = (report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    for line, count in Counter(map(cause, reasons)).most_common():
        terminalreporter.write_line(f"SKIPPED {count}: {line}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What ``-n auto`` means: one worker a core, also where two are one by hyper-threading.

    At most eight, for each worker needs a gigabyte or two.
    """
    usable = getattr(os, "sched_getaffinity", None)
    return min(len(usable(0)) if usable else os.cpu_count() or 1, 8)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each test goes to the next free process; those of the nodes to one, as they share a server.

    xdist's own groups do not reach it with pytest 9.2: they are written into a field that is gone.
    """
    from xdist.scheduler import LoadScopeScheduling

    class OneServer(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "nodes" if nodeid.startswith("tests/nodes/") else nodeid

    return OneServer(config, log) if config.getvalue("dist") == "load" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what takes long, and skip the tests marked ``comfyui`` where they cannot run."""
    for item in items:
        if item.nodeid.split("[")[0].startswith(SLOW):
            item.add_marker(pytest.mark.slow)
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
