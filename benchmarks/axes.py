"""Two further ways of spending less than a full evaluation, and whether they would pay.

    python benchmarks/axes.py [--family wan ...] [--regime smooth|rough] [--samples 4] [--json FILE]

On uncached clips of the bundled models, from calibration prompts:

* the guidance axis: at some steps the conditional branch runs alone, at half the cost, and the
  guided output is estimated from it (``axes_rows.pattern_error``);
* the depth axis: the first or the last blocks run, and the others add what they added at the two
  evaluations before (``axes_rows.depth_axis``).

Errors are those of single steps on the uncached trajectory: how they add up along a clip, and how
much they move its end, is left out. Least-squares weights are fitted to the clips that they are
judged on, for whole evaluations and for halves alike. The bundled models are tiny and trained on
synthetic clips: the figures say nothing about real ones.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

# To the end of the path: the pack's `nodes` folder must not hide ComfyUI's nodes.py.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.axes_rows import DEPTH_STEPS, REFERENCE, depth_axis, guidance_axis
from benchmarks.axes_runs import record
from benchmarks.case import make_case
from benchmarks.models import REGIMES, load_tiny
from sencache_core.tiny import SPECS


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of one axis as text."""
    keys = [key for key in rows[0] if key not in ("family", "regime", "axis", "blocks")]
    lines = [" ".join(key.replace("_", " ").rjust(13) for key in keys)]
    for row in rows:
        cells = (row[key] for key in keys)
        texts = ["" if c is None else c if isinstance(c, str) else f"{c:.3f}" for c in cells]
        lines.append(" ".join(text.rjust(13) for text in texts))
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("--family", nargs="+", choices=list(SPECS), default=list(SPECS))
    out.add_argument("--regime", nargs="+", choices=list(REGIMES), default=list(REGIMES))
    out.add_argument("--samples", type=int, default=4, help="clips per family and regime")
    out.add_argument("--json", type=Path, metavar="FILE", help="write a list of objects here")
    return out


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print, write; returns the JSON's rows."""
    from tqdm import tqdm

    args = parser().parse_args(argv)
    # Threads of networks this small wait for each other longer than they compute.
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for family, regime in [(f, r) for f in args.family for r in args.regime]:
        case = make_case(load_tiny(family), REGIMES[regime], "diffusers", 1, 1, args.samples)
        with tqdm(total=args.samples * (1 + DEPTH_STEPS), desc=f"{family}, {regime}") as bar:
            runs = []
            for prompt, seed in case.calibration:
                runs.append(record(case, prompt, seed))
                bar.update()
            both = {
                "guidance": guidance_axis(case, runs),
                "depth": depth_axis(case, runs, bar.update),
            }
        case.host.close()
        title = f"{family}, {regime}, {args.samples} clips"
        print(f"\n{title}: guidance axis, error in dB relative to {REFERENCE!r}, cost 0.5")
        print(table(both["guidance"]))
        print(f"\n{title}: depth axis, share of a plain forecast's error that is left")
        print(table(both["depth"]), flush=True)
        where = {"family": family, "regime": regime, "blocks": len(case.model.blocks)}
        rows += [where | {"axis": axis} | row for axis, own in both.items() for row in own]
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return rows


if __name__ == "__main__":
    main()
