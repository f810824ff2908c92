"""Imports go strictly down; policies and reuse rules, and the hosts, do not know each other."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sencache_core

ROOT = Path(sencache_core.__file__).resolve().parents[1]
CORE = ROOT / "sencache_core"

#: Rooms of the core, from top to ground: each may import those below it, and its own files.
ROOMS = (
    "app",
    "hosts",
    "config",
    "measure",
    "run",
    "policies",
    "forecast",
    "sampler",
    "model",
    "tiny",
    "types",
    "words",
)
#: Public rooms of the core that nodes may use beside the package's own names.
OPEN_TO_NODES = {
    *("app", "app.clips", "app.look", "app.metrics", "config", "hosts.comfy", "hosts.comfy_ahead"),
    *("hosts.comfy_stored", "measure.blocks", "measure.calibration", "measure.joining"),
    *("measure.learnt_store", "measure.library", "measure.profile", "measure.profile_file"),
    *("measure.stored", "model.fingerprint", "model.taps", "policies.groups", "policies.presets"),
    *("tiny", "words"),
}
#: What modules below the hosts may import of other projects.
CORE_LIBRARIES = {"filelock", "numpy", "safetensors", "torch"}

FILES = sorted(p for p in CORE.rglob("*.py"))
NODE_FILES = sorted((ROOT / "nodes").rglob("*.py"))


def name_of(path: Path) -> str:
    """Dotted name of a module inside the core, ``""`` for the core's own ``__init__``."""
    parts = path.relative_to(CORE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """``(module, names, dots)`` of every import of a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, (), 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", tuple(alias.name for alias in node.names), node.level


def core_imports(path: Path) -> Iterator[str]:
    """Dotted names of the core's modules that a file of the core imports."""
    folder = path.relative_to(CORE).parts[:-1]
    for module, names, dots in imports(path):
        if dots:
            base = folder[: len(folder) - dots + 1]
            if module:
                yield ".".join((*base, module))
            else:
                yield from (".".join((*base, name)) for name in names)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down(path):
    own = name_of(path).split(".")[0]
    if not own:
        return
    assert own in ROOMS, f"give {own} a place in ROOMS"
    for target in core_imports(path):
        room = target.split(".")[0]
        if room == "__version__":
            continue
        assert room in ROOMS, f"{own} imports {target}, which has no place"
        assert ROOMS.index(room) >= ROOMS.index(own), f"{own} must not import {target}"


@pytest.mark.parametrize("path", FILES + NODE_FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_are_relative(path):
    for module, _, dots in imports(path):
        assert dots or module.split(".")[0] not in {"sencache_core", "nodes"}, module


def test_hosts_do_not_import_each_other():
    """A host may have files of its own beside it: ``_diffusers``, ``comfy_keys``."""

    def host(stem: str) -> str:
        return stem.strip("_").split("_")[0]

    for path in (CORE / "hosts").glob("*.py"):
        for target in core_imports(path):
            room, _, other = target.partition(".")
            if room == "hosts":
                assert host(other) == host(path.stem), f"{path.name} imports {target}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_core_needs_what_comfyui_has(path):
    own = name_of(path).split(".")[0]
    if own in {"app", "hosts", "tiny"}:
        return
    for module, _, dots in imports(path):
        top = module.split(".")[0]
        if not dots:
            assert top in CORE_LIBRARIES or top in sys.stdlib_module_names, module


@pytest.mark.parametrize("path", NODE_FILES, ids=lambda p: p.stem)
def test_nodes_use_public_names(path):
    depth = len(path.relative_to(ROOT).parts)
    for module, names, dots in imports(path):
        if dots < depth or not module.startswith("sencache_core"):
            continue
        room = module.removeprefix("sencache_core").removeprefix(".")
        if room:
            assert room in OPEN_TO_NODES, f"{path.name} imports {module}"
            assert not any(name.startswith("_") for name in names)
        else:
            public = set(sencache_core.__all__) | OPEN_TO_NODES | {"__version__"}
            assert set(names) <= public, f"{path.name} imports {names}"


def test_pack_door_is_guarded():
    """A lone import of the root ``__init__`` (pytest, linters) must not pull in ComfyUI."""
    door = ROOT / "__init__.py"
    if not door.exists():
        pytest.skip("sencache_core is installed without the pack")
    tree = ast.parse(door.read_text(encoding="utf-8"))
    guarded = [node for node in tree.body if isinstance(node, ast.If)]
    outside = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node.test) for node in guarded] == ["__package__"]
    assert not outside


def drawing() -> str:
    """The rooms from top to ground, with their size and the rooms that each of them imports."""
    lines = []
    for room in ROOMS:
        own = [path for path in FILES if name_of(path).split(".")[0] == room]
        size = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in own)
        used = {target.split(".")[0] for path in own for target in core_imports(path)} - {room}
        below = " ".join(other for other in ROOMS if other in used)
        lines.append(f"{room:9} {len(own):3} files {size:5} lines   {below}".rstrip())
    return "\n".join(lines)


def test_drawing_has_no_circle():
    """Read from the drawing alone: whatever stands behind a room stands in a line below."""
    lines = [line.split() for line in drawing().splitlines()]
    order = [words[0] for words in lines]
    assert order == list(ROOMS) and all(int(words[1]) for words in lines)
    for number, words in enumerate(lines):
        assert set(words[5:]) <= set(order[number + 1 :]), words[0]


if __name__ == "__main__":
    print(drawing())
