"""``sencache bench``: runs methods over models, regimes and budgets, one row for each."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from sencache_core.tiny import SPECS

from .case import Case, Clip, choose, make_case
from .checkpoint import load_checkpoint
from .measures import distance
from .method import Method, find_methods, need
from .models import REGIMES, Model, Regime, load_tiny
from .store import KEYS, UNCACHED, Kept, Key, Row, Store, read, write


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        models, regimes, methods: everything in every combination.
        budgets: shares of the uncached run's block executions to spend, in (0, 1]. At 1 only
            methods that do more than to skip are run.
        samples: test clips, one prompt and seed each.
        tune_samples: clips that settings are tried on; never among the test clips.
        calibration_samples: clips that methods calibrate on; never among the test clips.
    """

    models: Sequence[Model]
    regimes: Sequence[Regime]
    methods: Sequence[Method]
    budgets: Sequence[float]
    samples: int = 16
    tune_samples: int = 2
    calibration_samples: int = 8

    def __post_init__(self) -> None:
        if not self.budgets or any(not 0 < budget <= 1 for budget in self.budgets):
            raise ValueError("budgets are shares of the uncached cost in (0, 1]")

    @property
    def rows(self) -> list[tuple[Method, float]]:
        """Of one model in one regime."""
        return [(m, b) for m in self.methods for b in self.budgets if b < 1 or m.at_full]


def run_bench(
    plan: Plan,
    json_file: str | Path,
    references: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> list[Row]:
    """Compare methods, at the same cost, with the exact solution and with uncached sampling.

    Args:
        plan: what is run.
        json_file: the list of rows, rewritten after every clip.
        references: folder of exact solutions, uncached clips and profiles, which later runs take
            from it; ``None``: beside the file, under its name with the ending ``.references``.
        resume: keep what the file has of the same models, and add what is missing, clip by clip.
        progress: show a progress bar.

    Returns:
        The rows: ``family, regime, method, budget``; ``title, ours, origin_of`` as of the method;
        ``identity`` of the model; ``setting`` (by name) and ``clips``: of each its number
        ``clip``, ``cost`` (share of the uncached run's block executions, partial blocks by their
        share of arithmetic), and the PSNR of the decoded clip, in dB, to the ``exact`` solution
        (``None`` for samplers that draw noise) and to the ``uncached`` clip of its host; in rows of
        uncached clips also ``own``, the dB that the exact solution's own error stays below;
        ``error`` (``None``, or why there are no figures).

    Raises:
        ValueError: a file to resume that holds no rows.
        ImportError: the ``bench`` extra is not installed.
    """
    need("tqdm")
    from tqdm import tqdm

    path = Path(json_file)
    folder = Path(references or path.with_suffix(".references"))
    rows = read(path) if resume and path.exists() else {}
    total = len(plan.models) * len(plan.regimes) * len(plan.rows) * plan.samples
    with _quiet(), tqdm(total=total, unit="clip", disable=not progress) as bar:
        for model in plan.models:
            store = Store(folder, model)
            for regime in plan.regimes:
                bench = _Bench(plan, path, rows, bar, store, model, regime)
                with contextlib.closing(bench):
                    for method, budget in plan.rows:
                        bench.fill(method, budget)
    return list(rows.values())


class _Bench:
    """One model in one regime."""

    def __init__(
        self,
        plan: Plan,
        path: Path,
        rows: dict[Key, Row],
        bar: Any,
        store: Store,
        model: Model,
        regime: Regime,
    ) -> None:
        self._path, self._rows, self._bar, self._store = path, rows, bar, store
        self._model, self._regime, self._samples = model, regime, plan.samples
        self._counts = plan.samples, plan.tune_samples, plan.calibration_samples
        self.case = cache(self._case)
        self._open: list[Case] = []

    def close(self) -> None:
        for case in self._open:
            case.host.close()

    def _case(self, host: str) -> Case:
        case = make_case(self._model, self._regime, host, self._store, *self._counts)
        self._open.append(case)
        return case

    def _uncached(self, case: Case) -> None:
        """The row of a host's uncached clips."""
        host = case.host.name
        self._bar.set_description(f"{self._model.name} {self._regime.name} {host} references")
        row = self._row(UNCACHED if host == "diffusers" else f"{UNCACHED}-{host}", 1.0)
        row["setting"] = {}
        for k in range(len(row["clips"]), self._samples):
            own = {} if self._regime.draws else {"own": self._truths[k][1]}
            self._add(row, k, case.references[k], case, **own)

    @property
    def _truths(self) -> list[Kept]:
        return self.case("diffusers").truths

    def _row(self, name: str, budget: float, method: Method | None = None) -> Row:
        """The row as far as it is there, without an error from before."""
        key = self._model.name, self._regime.name, name, budget
        row = self._rows.get(key)
        about = {"identity": self._store.identity, "title": name, "ours": False, "origin_of": []}
        if method is not None:
            about |= {"title": method.title or name, "ours": method.ours}
            about |= {"origin_of": list(method.origin_of)}
        if row is None or row["identity"] != self._store.identity or row["error"]:
            row = {**dict(zip(KEYS, key)), "setting": None, "clips": [], "error": None}
        self._rows[key] = row = {**row, **about}
        return row

    def fill(self, method: Method, budget: float) -> None:
        """Sample what the row has not got; a method that cannot run is a result."""
        row = self._row(method.name, budget, method)
        done = len(row["clips"])
        self._bar.update(min(done, self._samples))
        try:
            if done < self._samples:
                self._sample(row, method, budget)
        except Exception as error:
            row |= {"clips": [], "error": f"{type(error).__name__}: {error}"}
            self._bar.update(self._samples - done)
        write(self._path, self._rows)

    def _sample(self, row: Row, method: Method, budget: float) -> None:
        case = self.case(method.host)
        self._uncached(case)
        self._bar.set_description(" ".join(str(row[key]) for key in KEYS))
        case.prepare(method)
        if row["setting"] is None:
            row["setting"], clips = choose(case, method, budget)
            for k, clip in enumerate(clips):
                self._add(row, k, clip, case)
        first = len(row["clips"])
        for k, clip in enumerate(case.clips(method, row["setting"], case.tests[first:]), first):
            self._add(row, k, clip, case)
            self._bar.update()

    def _add(self, row: Row, k: int, clip: Clip, case: Case, **more: float) -> None:
        exact = None if self._regime.draws else self._truths[k][0]
        figures = {
            "clip": k,
            "cost": case.cost([clip]),
            "exact": None if exact is None else distance(case.model, clip.latent, exact),
            "uncached": distance(case.model, clip.latent, case.references[k].latent),
        }
        row["clips"].append({**figures, **more})
        write(self._path, self._rows)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """diffusers without its remarks on experimental caches."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def bench(arguments: argparse.Namespace) -> int:
    """Run what the command line asks for, and print the tables.

    Returns:
        Exit code: 1 if a method that was asked for by name has a row that failed, or if every row
        of a model in a regime did.

    Raises:
        ValueError, OSError, ImportError: as for ``run_bench`` and the loading of models.
    """
    from .summary import by_sampler, summarise  # not before it may run as a program of its own

    if arguments.config and not arguments.checkpoint:
        raise ValueError("--config describes a --checkpoint")
    if arguments.checkpoint and arguments.family:
        raise ValueError("--checkpoint takes the family from its config, not from --family")
    samplers, methods = arguments.sampler or [], find_methods(arguments.methods)
    regimes = [REGIMES[name] for name in arguments.regime or REGIMES]
    if samplers:
        regimes = [regime.sampled_by(sampler) for regime in regimes for sampler in samplers]
        methods = [m for m in methods if m.host == "comfyui" or arguments.methods]
        if other := [method.name for method in methods if method.host != "comfyui"]:
            raise ValueError(f"--sampler is ComfyUI's, where {', '.join(other)} cannot run")
    if arguments.checkpoint:
        models = [load_checkpoint(path, arguments.config) for path in arguments.checkpoint]
    else:
        models = [load_tiny(family) for family in dict.fromkeys(arguments.family or SPECS)]
    path = Path(arguments.json)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Threads of networks this small wait for each other longer than they compute.
    torch.set_num_threads(1)
    counts = arguments.samples, arguments.tune_samples, arguments.calibration_samples
    plan = Plan(models, regimes, methods, arguments.budgets, *counts)
    rows = run_bench(plan, path, arguments.references, arguments.resume)
    print(by_sampler(rows) if samplers else summarise(rows))
    print(f"Rows: {path.resolve()}")
    asked = [{model.name for model in models}, {regime.name for regime in regimes}]
    asked += [{method.name for method in methods}, set(arguments.budgets)]
    own = [row for row in rows if all(row[key] in any_of for key, any_of in zip(KEYS, asked))]
    return show_failures(own, named=bool(arguments.methods))


def show_failures(rows: Sequence[Row], named: bool) -> int:
    """Say on standard error which rows failed and why.

    Args:
        rows: those that were asked for.
        named: whether the methods were asked for by name.

    Returns:
        The exit code: see :func:`bench`.
    """
    failed = [row for row in rows if row["error"] is not None]
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for row in failed:
        why = row["family"], row["regime"], " ".join(row["error"].split())
        reasons.setdefault(why, []).append(f"{row['method']} at {row['budget']:g}")
    for (family, regime, why), names in reasons.items():
        print(f"sencache: {family}, {regime}: {', '.join(names)}: {why}", file=sys.stderr)
    if failed:
        print(f"sencache: {len(failed)} of {len(rows)} rows failed", file=sys.stderr)
    places = {(row["family"], row["regime"]) for row in rows}
    measured = {(row["family"], row["regime"]) for row in rows if row["error"] is None}
    return int(bool(failed) and (named or places != measured))
