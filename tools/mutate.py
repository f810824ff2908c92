"""Makes each of the listed faults in a copy of the tree, and says which of them no test notices.

    python tools/mutate.py [--only WORD] [--list] [--jobs N] [--limit SECONDS]

Exits with 1 if a fault survives, or runs out of time. The working tree is only read: a fault is one
text of ``faults.py`` in place of another in a temporary copy, where the tests that should notice it
are run. Before that they must pass there without any fault. Tests that are skipped, since ComfyUI
is not here, neither catch a fault nor let it survive.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

sys.path.insert(0, str(Path(__file__).parent))
from faults import FAULTS, Fault

ROOT = Path(__file__).resolve().parents[1]
#: What pytest's exit codes say of a fault; any other means that the tests could not be run.
OUTCOMES = {0: "SURVIVES", 1: "caught"}


def changed(fault: Fault, tree: Path = ROOT) -> str:
    """The source of a fault's file in a tree, with the fault in it.

    Raises:
        ValueError: the fault does not fit the tree: its text is not there, or there twice, or a
            test that it names is missing.
        SyntaxError: what it makes of the file is no Python.
    """
    source = (tree / fault.file).read_text(encoding="utf-8")
    if (found := source.count(fault.old)) != 1:
        raise ValueError(f"{fault.file} holds {found} times, not once: {fault.old!r}")
    for test in fault.tests:
        if not _there(test, tree):
            raise ValueError(f"{fault.file}: there is no test {test}")
    source = source.replace(fault.old, fault.new)
    compile(source, fault.file, "exec")
    return source


def _there(test: str, tree: Path) -> bool:
    """Whether a test of that name is in the tree."""
    file, *names = test.split("[")[0].split("::")
    if not (tree / file).is_file():
        return False
    source = (tree / file).read_text(encoding="utf-8")
    return all(re.search(rf"^\s*(def|class) {name}\b", source, re.MULTILINE) for name in names)


class Copy:
    """A copy of the tree in ``folder``, where tests run on its own package."""

    def __init__(self, folder: Path) -> None:
        self.tree, links = folder / "tree", folder / "path"
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.tree / name)
        # The root itself would hide ComfyUI's nodes.py, and an install come before it.
        links.mkdir()
        for package in ("sencache_core", "benchmarks"):
            (links / package).symlink_to(self.tree / package, target_is_directory=True)
        self._environment = {
            "OMP_NUM_THREADS": "1",
            **os.environ,
            "PYTHONPATH": str(links),
            "PYTHONDONTWRITEBYTECODE": "1",  # a fault may leave a file's size and time as they are
        }
        if ROOT.parent.name == "custom_nodes":
            self._environment.setdefault("COMFYUI_PATH", str(ROOT.parents[1]))

    def test(self, tests: Iterable[str], limit: float | None = None) -> tuple[str, str]:
        """What became of some tests (see :data:`OUTCOMES`), and what pytest said."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        try:
            done = subprocess.run(
                command,
                cwd=self.tree,
                env=self._environment,
                timeout=limit,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        except subprocess.TimeoutExpired:
            return "OUT OF TIME", ""
        if done.returncode == 0 and not re.search(r"\d+ passed", done.stdout):
            return "skipped", done.stdout
        return OUTCOMES.get(done.returncode, "ERROR"), done.stdout

    def attempt(self, fault: Fault, limit: float) -> tuple[str, str]:
        """As :meth:`test`, with a fault in the tree meanwhile."""
        place = self.tree / fault.file
        before = place.read_bytes()
        place.write_text(changed(fault, self.tree), encoding="utf-8")
        try:
            return self.test(fault.tests, limit)
        finally:
            place.write_bytes(before)


def run(faults: Sequence[Fault], jobs: int, limit: float) -> Counter[str]:
    """Try every fault, print a line for each, and count the outcomes."""
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        copies: Queue[Copy] = Queue()
        for number in range(jobs):
            copies.put(Copy(Path(folder) / str(number)))

        def attempt(fault: Fault) -> tuple[Fault, str, str, float]:
            copy, started = copies.get(), time.monotonic()
            try:
                return fault, *copy.attempt(fault, limit), time.monotonic() - started
            finally:
                copies.put(copy)

        outcome, said = copies.queue[0].test(sorted({t for fault in faults for t in fault.tests}))
        if outcome not in ("SURVIVES", "skipped"):
            raise SystemExit(f"{said}\nthe tests must pass before a fault is made")
        outcomes: Counter[str] = Counter()
        with ThreadPoolExecutor(jobs) as pool:
            for fault, outcome, said, seconds in pool.map(attempt, faults):
                outcomes[outcome] += 1
                print(f"{outcome:11} {seconds:4.0f} s  {fault.file}: {fault.what}", flush=True)
                if outcome == "ERROR":
                    print(said)
    return outcomes


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="WORD", help="faults that hold this word")
    parser.add_argument("--list", action="store_true", help="list the faults and run nothing")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="copies to work in")
    parser.add_argument("--limit", type=float, default=300, metavar="SECONDS", help="a fault's")
    options = parser.parse_args(arguments)
    word = options.only.lower()
    faults = [f for f in FAULTS if word in f"{f.file} {f.what} {f.tests}".lower()]
    if not faults:
        parser.error(f"no fault holds the word {options.only!r}")
    for fault in faults:
        try:
            changed(fault)
        except ValueError as error:
            parser.error(f"{error}; adapt tools/faults.py")
        if options.list:
            needs = " (ComfyUI)" if fault.needs_comfyui else ""
            print(f"{fault.file}: {fault.what}{needs}\n    {' '.join(fault.tests)}")
    if options.list:
        return 0
    outcomes = run(faults, options.jobs, options.limit)
    print(", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()))
    return 0 if outcomes.keys() <= {"caught", "skipped"} else 1


if __name__ == "__main__":
    raise SystemExit(main())
