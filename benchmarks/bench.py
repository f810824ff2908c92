"""``sencache bench``: runs methods over models, regimes and budgets, one row for each."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from sencache_core.tiny import SPECS

from .case import Case, Clip, make_case, run_tuned
from .checkpoint import load_checkpoint
from .measures import measure
from .method import Method, Setting, describe, find_methods, need
from .models import REGIMES, Model, Regime, load_tiny

#: Name of the rows of uncached sampling, with which the others are compared.
UNCACHED = "uncached"

#: Fields that name a row, and those that are measured.
KEYS = ("family", "regime", "method", "budget")
MEASURED = (
    *("cost", "psnr_mean", "psnr_worst", "ssim_mean", "msssim_mean", "lpips_mean"),
    *("rms_final", "rms_worst", "seconds"),
)

Row = dict[str, Any]
Key = tuple[str, str, str, float]


def run_bench(
    models: Sequence[Model],
    regimes: Sequence[Regime],
    methods: Sequence[Method],
    budgets: Sequence[float],
    json_file: str | Path,
    samples: int = 8,
    tune_samples: int = 2,
    calibration_samples: int = 8,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> list[Row]:
    """Compare methods with uncached sampling, at the same cost.

    The JSON file is rewritten after every row.

    Args:
        models, regimes, methods: everything in every combination.
        budgets: shares of the uncached run's block executions to spend, in (0, 1].
        json_file: the list of rows.
        samples: test clips, one prompt and seed each.
        tune_samples: clips that settings are tried on; never among the test clips.
        calibration_samples: clips that methods calibrate on; never among the test clips.
        out: folder for a Pareto plot per model and regime; ``None``: no plots.
        resume: keep the file's rows of this many samples that have no error, and add the others.
        progress: show a progress bar.

    Returns:
        The rows: ``family, regime, method, setting, budget, cost`` (share of the uncached run's
        block executions, partial blocks by their share of arithmetic), ``psnr_mean, psnr_worst``
        (dB, over clips), ``ssim_mean, msssim_mean, lpips_mean`` (``None``: not measured),
        ``rms_final, rms_worst`` (of the final latents' difference, mean and worst), ``seconds``
        (mean per clip), ``samples, error`` (``None``, or why there are no figures).

    Raises:
        ValueError: a budget outside (0, 1], no sample, or a file to resume that holds no rows.
        ImportError: the ``bench`` extra is not installed.
    """
    if not budgets or any(not 0 < budget <= 1 for budget in budgets):
        raise ValueError("budgets are shares of the uncached cost in (0, 1]")
    need("tqdm")
    if any(model.codec for model in models):
        need("kornia", "torchmetrics")
    if out is not None:
        need("matplotlib")
        Path(out).mkdir(parents=True, exist_ok=True)
    path = Path(json_file)
    rows = _read(path, samples) if resume and path.exists() else {}
    with _quiet(), _bar(progress, len(models) * len(regimes) * len(methods) * len(budgets)) as bar:
        for model, regime in ((m, r) for m in models for r in regimes):
            cases: dict[str, Case] = {}
            try:
                for method, budget in ((m, b) for m in methods for b in budgets):
                    key = model.name, regime.name, method.name, budget
                    bar.set_description(" ".join(map(str, key)))
                    if key not in rows:
                        try:
                            if method.host not in cases:
                                case = make_case(
                                    model,
                                    regime,
                                    method.host,
                                    samples,
                                    tune_samples,
                                    calibration_samples,
                                )
                                cases[method.host] = case
                                _add_uncached(rows, case, method.host)
                            rows[key] = _row(cases[method.host], method, budget)
                        except Exception as error:  # a peer that cannot run is a result
                            rows[key] = _failed(key, samples, error)
                        _write(path, rows)
                    bar.update()
            finally:
                for case in cases.values():
                    case.host.close()
    if out is not None:
        from .summary import plot  # not before it may run as a program of its own

        plot(list(rows.values()), Path(out))
    return list(rows.values())


def _add_uncached(rows: dict[Key, Row], case: Case, host: str) -> None:
    name = UNCACHED if host == "diffusers" else f"{UNCACHED}-{host}"
    key = case.model.name, case.regime.name, name, 1.0
    if key not in rows:
        rows[key] = _figures(key, case, {}, case.uncached)


def _row(case: Case, method: Method, budget: float) -> Row:
    setting, clips = run_tuned(case, method, budget)
    key = case.model.name, case.regime.name, method.name, budget
    return _figures(key, case, setting, clips)


def _figures(key: Key, case: Case, setting: Setting, clips: Sequence[Clip]) -> Row:
    """A row of clips that were sampled."""
    decode = case.model.decode
    figures = [
        measure(clip.latent, reference.latent, decode(clip.latent), decode(reference.latent))
        for clip, reference in zip(clips, case.uncached, strict=True)
    ]
    if not all(math.isfinite(f.rms) for f in figures):
        raise ArithmeticError("the latents are not finite")
    return {
        **dict(zip(KEYS, key)),
        "setting": describe(setting),
        "cost": case.cost(clips),
        "psnr_mean": _mean(f.psnr for f in figures),
        "psnr_worst": min(f.psnr for f in figures),
        "ssim_mean": _mean(f.ssim for f in figures),
        "msssim_mean": _mean(f.msssim for f in figures),
        "lpips_mean": _mean(f.lpips for f in figures),
        "rms_final": _mean(f.rms for f in figures),
        "rms_worst": max(f.rms for f in figures),
        "seconds": _mean(clip.seconds for clip in clips),
        "samples": len(clips),
        "error": None,
    }


def _failed(key: Key, samples: int, error: Exception) -> Row:
    return {
        **dict(zip(KEYS, key)),
        "setting": None,
        **dict.fromkeys(MEASURED),
        "samples": samples,
        "error": f"{type(error).__name__}: {error}",
    }


def _mean(values: Iterable[float | None]) -> float | None:
    values = list(values)
    return None if None in values else sum(values) / len(values)


def _read(path: Path, samples: int) -> dict[Key, Row]:
    """The rows of a file that need not be made again, by key."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise TypeError("not a list")
        return {
            tuple(row[name] for name in KEYS): row
            for row in rows
            if row["samples"] == samples and row["error"] is None
        }
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} holds no rows of a bench: {error}") from error


def _write(path: Path, rows: dict[Key, Row]) -> None:
    """Replace the file as a whole, so that an interrupt leaves the old one or the new one."""
    text = json.dumps(list(rows.values()), indent=1, allow_nan=False) + "\n"
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


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


def _bar(show: bool, total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, unit="row", disable=not show)


def bench(arguments: argparse.Namespace) -> int:
    """Run what the command line asks for, and print the table.

    Returns:
        Exit code: 1 if a method that was asked for by name has a row that failed, or if every row
        of a model in a regime did.

    Raises:
        ValueError, OSError, ImportError: as for ``run_bench`` and the loading of models.
    """
    from .summary import markdown, table

    if bool(arguments.checkpoint) != bool(arguments.config):
        raise ValueError("--checkpoint and --config go together")
    if arguments.checkpoint and arguments.family:
        raise ValueError("--checkpoint takes the family from its config, not from --family")
    methods = find_methods(arguments.methods)
    regimes = [REGIMES[name] for name in arguments.regime or REGIMES]
    if arguments.checkpoint:
        models = [load_checkpoint(arguments.checkpoint, arguments.config)]
    else:
        models = [load_tiny(family) for family in dict.fromkeys(arguments.family or SPECS)]
    for path in map(Path, filter(None, (arguments.json, arguments.markdown))):
        if path.is_dir():
            raise ValueError(f"{path} is a folder, not a file")
        path.parent.mkdir(parents=True, exist_ok=True)
    # Threads of networks this small wait for each other longer than they compute.
    torch.set_num_threads(1)
    rows = run_bench(
        models,
        regimes,
        methods,
        arguments.budgets,
        arguments.json,
        samples=arguments.samples,
        tune_samples=arguments.tune_samples,
        calibration_samples=arguments.calibration_samples,
        out=arguments.out,
        resume=arguments.resume,
    )
    print(table(rows))
    if arguments.markdown:
        Path(arguments.markdown).write_text(markdown(rows) + "\n", encoding="utf-8")
    print(f"Rows: {Path(arguments.json).resolve()}")
    if arguments.out:
        print(f"Plots: {Path(arguments.out).resolve()}")
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
