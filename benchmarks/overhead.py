"""What skipping a step costs, as a share of what it saves.

    python benchmarks/overhead.py [--model wan-1.3b ...] [--json FILE] [--blocks N]
        [--device cpu|cuda]

For the real shapes of four video models, with random weights, two branches of guidance at batch 1:

* a full evaluation: the diffusers network in bfloat16. One block stands for all of them; what was
  multiplied or extrapolated is printed and lies in the JSON's ``full_how``. (At Wan 1.3B, a block
  extrapolated from 12,480 tokens came out 10 % above the one timed at 32,760.)
* the output tap, our default: decision and forecast of the real ``Session`` on float32 latents,
  asked branch by branch, and for both in one call;
* the stack tap: the same session on block-stack residuals, inside the real network without blocks;
* EasyCache of the ComfyUI that is found: its own wrapper around a network that answers at once.

Not included, on either side: what the host does around the network at every step anyway. ComfyUI's
host code of the output tap also turns ``denoised`` back into the raw output at evaluated steps, and
the diffusers one compares its inputs with the last ones: a few passes over one latent.
On a CPU with one thread matrix products are slow, on a GPU the launches of small operations are:
shares measured on one say little about the other.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch

# To the end of the path: the pack's `nodes` folder must not hide ComfyUI's nodes.py.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.comfy_host import Unavailable
from benchmarks.overhead_full import Full, clock_name, measure
from benchmarks.overhead_rows import BRANCHES, Costs, easycache, output_tap, stack_tap
from benchmarks.overhead_shapes import SHAPES, Network, Shape
from sencache_core import CacheConfig


def rows_of(shape: Shape, full: Full, network: Network, config: CacheConfig) -> list[dict]:
    """All rows of one model.

    Args:
        shape: the model.
        full: its full evaluation.
        network: where the stack tap runs.
        config: what the sessions are started with.
    """
    stack = replace(config, tap="stack")
    methods: list[tuple[str, Callable[[], Costs]]] = [
        ("output tap", lambda: output_tap(shape, network.device, config)),
        ("output tap, one call", lambda: output_tap(shape, network.device, config, True)),
        ("stack tap", lambda: stack_tap(network, stack)),
        ("EasyCache (ComfyUI)", lambda: easycache(shape, network.device)),
    ]
    rows = []
    for name, run in methods:
        try:
            run()  # warms up
            rows.append(as_row(shape, full, run()))
        except Unavailable as error:
            rows.append({"model": shape.name, "method": name, "error": str(error)})
    return rows


def as_row(shape: Shape, full: Full, costs: Costs) -> dict[str, Any]:
    """One JSON object: seconds, shares of a full evaluation, bytes, latents (of float32)."""
    latent = 4 * sum(prod(size) for size in shape.latents)
    held = costs.held / len(BRANCHES)
    row: dict[str, Any] = {"model": shape.name, "method": costs.method}
    for name in ("decision", "reused", "evaluated"):
        seconds = costs.median(name)
        row[f"{name}_seconds"] = seconds
        row[f"{name}_share"] = None if seconds is None else seconds / full.seconds
    row |= {
        "slowest_decision_seconds": max(costs.decision, default=None),
        "rounds_reused": len(costs.reused),
        "rounds_evaluated": len(costs.evaluated),
        "bytes_per_branch": round(held),
        "latents_per_branch": held / latent,
        "latent_bytes": latent,
        "full_seconds": full.seconds,
        "full_how": full.how,
        "blocks_timed": full.blocks_timed,
        "block_seconds": full.block,
        "embeddings_and_head_seconds": full.shell,
        "tokens": shape.tokens,
        "source": shape.source,
        "note": costs.note,
        "error": None,
    }
    return row


def table(rows: Sequence[dict]) -> str:
    """Rows of one model as text."""
    lines = [
        f"  {'method':20} {'reused step':>20} {'decision':>20} {'evaluated: more':>20} "
        f"{'per branch':>22}"
    ]
    for row in rows:
        if row["error"]:
            lines.append(f"  {row['method']:20} skipped: {row['error']}")
            continue
        cells = []
        for name in ("reused", "decision", "evaluated"):
            seconds, share = row[f"{name}_seconds"], row[f"{name}_share"]
            cell = "-" if seconds is None else f"{seconds * 1e3:.2f} ms {100 * share:7.2g} %"
            cells.append(f"{cell:>20}")
        held = f"{row['bytes_per_branch'] / 2**20:.1f} MiB = {row['latents_per_branch']:.2f} lat."
        lines.append(f"  {row['method']:20} {' '.join(cells)} {held:>22}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("--model", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    out.add_argument("--json", type=Path, metavar="FILE", help="write a list of objects here")
    out.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    out.add_argument(
        "--blocks", type=int, help="blocks to run (default: 1 on a CPU, all of them on a GPU)"
    )
    out.add_argument("--repeats", type=int, default=3, help="runs of which the median is taken")
    out.add_argument("--threads", type=int, default=1, help="CPU threads, of both sides")
    out.add_argument(
        "--patience",
        type=float,
        default=180.0,
        help="longest run in seconds that is timed; beyond it a block is extrapolated",
    )
    return out


def main(argv: Sequence[str] | None = None) -> list[dict]:
    """Measure, print, write; returns the JSON's rows."""
    args = parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    config = CacheConfig()
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"{args.threads} CPU thread"
    clock = clock_name(device)
    print(f"torch {torch.__version__}, {name}, {clock}", flush=True)
    setup = {
        "device": name,
        "clock": clock,
        "torch": torch.__version__,
        "policy": config.policy.name,
        "rule": config.rule.name,
        "budget": config.budget,
    }
    rows: list[dict] = []
    with torch.inference_mode():
        for key in args.model:
            shape = SHAPES[key]
            network = Network(shape, device)
            blocks = args.blocks or (1 if args.device == "cpu" else shape.blocks)
            full = measure(network, blocks, args.patience, args.repeats)
            own = rows_of(shape, full, network, config)
            print(f"\n{shape.title}: full evaluation {full.seconds:.2f} s\n  {full.how}")
            print(table(own), flush=True)
            rows += [row | setup for row in own]
            del network
            if args.json:
                args.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return rows


if __name__ == "__main__":
    main()
