"""``sencache bench``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from sencache_core.tiny import SPECS

from .bench import run_bench
from .models import REGIMES, load_checkpoint, load_tiny
from .registry import find_methods
from .report import markdown, table


def bench(arguments: argparse.Namespace) -> int:
    """Run what the command line asks for, and print the table.

    Raises:
        ValueError, OSError, ImportError: as for ``run_bench`` and the loading of models.
    """
    if bool(arguments.checkpoint) != bool(arguments.config):
        raise ValueError("--checkpoint and --config go together")
    if arguments.checkpoint and arguments.family:
        raise ValueError("--checkpoint takes the family from its config, not from --family")
    methods = find_methods(arguments.methods.split(",") if arguments.methods else None)
    budgets = [float(budget) for budget in arguments.budgets.split(",")]
    if arguments.checkpoint:
        models = [load_checkpoint(arguments.checkpoint, arguments.config)]
    else:
        models = [load_tiny(family) for family in arguments.family or SPECS]
    # Threads of networks this small wait for each other longer than they compute.
    torch.set_num_threads(1)
    rows = run_bench(
        models,
        [REGIMES[name] for name in arguments.regime or REGIMES],
        methods,
        budgets,
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
    return 0
