"""What runs have left on disk: the commands that list and remove it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..measure.learnt_store import LearntStore, default_folder
from ..measure.library import learnt_rows
from ..measure.stored import CallFacts, CallStore, named_folder


def add_commands(commands: Any) -> None:
    """``learnt`` and ``stored``, to the subparsers of the ``sencache`` command."""
    learnt = commands.add_parser("learnt", help="what ordinary runs have told of their models")
    actions = learnt.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="one line a model, schedule, sampler and guidance")
    listing.set_defaults(run=_list_learnt)
    remove = actions.add_parser("remove", help="forget it")
    remove.add_argument("name", metavar="NAME", help="beginning of a listed name, or all")
    remove.set_defaults(run=_remove_learnt)
    for action in (listing, remove):
        action.add_argument(
            "--folder", metavar="DIR", help="ComfyUI's is user/default/sencache/learnt"
        )

    stored = commands.add_parser("stored", help="what SenCache Store keeps of runs in ComfyUI")
    actions = stored.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="one line for all runs that began alike")
    listing.set_defaults(run=_list_stored)
    remove = actions.add_parser("remove", help="delete it")
    remove.add_argument("name", metavar="RUN", help="beginning of a listed run, or all")
    remove.set_defaults(run=_remove_stored)
    for action in (listing, remove):
        action.add_argument(
            "--folder", metavar="DIR", help="ComfyUI's is user/default/sencache/stored"
        )


def _learnt(arguments: argparse.Namespace) -> LearntStore:
    folder = arguments.folder or default_folder()
    if folder is None:
        raise ValueError("SENCACHE_LEARNT is off; name a folder with --folder")
    return LearntStore(Path(folder))


def _list_learnt(arguments: argparse.Namespace) -> int:
    store, found = _learnt(arguments), False
    for row in learnt_rows(store):
        found = True
        if row.header is None:
            print(f"{row.name}: {row.problem}")
            continue
        header = row.header
        facts = (
            header.label,
            f"{header.samples} run{'s' * (header.samples != 1)}",
            f"{header.steps} steps",
            header.sampler,
            f"guidance {header.guidance:g}" if header.guidance else "",
            header.tap if header.tap != "output" else "",
            "" if row.error is None else f"forecasts {row.error:.1%} off",
            f"{row.size / 1000:.0f} kB",
        )
        print(f"{row.name}: {', '.join(filter(None, facts))}")
    if not found:
        print(f"nothing has been learnt in {store.folder}")
    return 0


def _remove_learnt(arguments: argparse.Namespace) -> int:
    store = _learnt(arguments)
    name = "" if arguments.name == "all" else arguments.name
    removed = store.remove(name)
    if not removed:
        raise ValueError(f"nothing in {store.folder} begins with {arguments.name!r}")
    print(f"{removed} removed from {store.folder}")
    return 0


def _stored(arguments: argparse.Namespace) -> CallStore:
    folder = arguments.folder or named_folder()
    if folder is None:
        raise ValueError(
            "name the folder with --folder or SENCACHE_STORED; ComfyUI's is "
            "user/default/sencache/stored"
        )
    return CallStore(Path(folder))


def _list_stored(arguments: argparse.Namespace) -> int:
    store = _stored(arguments)
    runs: dict[str, list[tuple[CallFacts, int]]] = {}
    for path, found in store.listed():
        size = path.stat().st_size
        if found is None:
            print(f"{path.stem}: damaged, or of a newer version")
        else:
            runs.setdefault(found[1].run, []).append((found[1], size))
    for run, calls in runs.items():
        facts = calls[0][0]
        steps = {call.step for call, _ in calls}
        told = (
            facts.family,
            f"{len(calls)} model call{'s' * (len(calls) != 1)}",
            f"{len(steps)} of {facts.steps} steps",
            facts.sampler,
            f"guidance {facts.guidance:g}" if facts.guidance else "",
            " x ".join(map(str, facts.shape)),
            f"{sum(size for _, size in calls) / 1e6:.1f} MB",
        )
        print(f"{run}: {', '.join(filter(None, told))}")
    if not runs:
        print(f"nothing is stored in {store.folder}")
    return 0


def _remove_stored(arguments: argparse.Namespace) -> int:
    store = _stored(arguments)
    removed = store.remove("" if arguments.name == "all" else arguments.name)
    if not removed:
        raise ValueError(f"no run in {store.folder} begins with {arguments.name!r}")
    print(f"{removed} removed from {store.folder}")
    return 0
