"""Rows of a bench as tables and plots, and what they come to.

``python -m benchmarks.summary rows.json [more.json ...] [--plots FOLDER]``
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .measures import lpips_model
from .method import need

Row = dict[str, Any]

OURS = "planned"
ORACLES = ("oracle", "searched")
#: Margins that were set before anything was measured, in dB: mean and worst clip.
GOALS = {"smooth": (3.0, 5.0), "rough": (2.0, 2.0)}
#: Budgets that the goals were set for.
GOAL_BUDGETS = (0.5, 0.36)
#: Costs that differ by less count as the same.
ROUNDED = 0.01
#: A peer that cannot get nearer than this to the cost of ours does not spend the same budget.
MOST_DEARER = 0.1
#: What has to be said wherever figures of the bundled models are shown.
SCOPE = (
    "Distances to the uncached clip of the same prompt and seed. The bundled models are tiny and "
    "trained on synthetic clips: the figures say nothing about real models."
)
#: Columns after the method: title, key, format.
COLUMNS = (
    ("budget", "budget", "{:6.2f}"),
    ("cost", "cost", "{:6.3f}"),
    ("PSNR", "psnr_mean", "{:6.2f}"),
    ("worst", "psnr_worst", "{:6.2f}"),
    ("SSIM", "ssim_mean", "{:7.4f}"),
    ("MS-SSIM", "msssim_mean", "{:7.4f}"),
    ("LPIPS", "lpips_mean", "{:7.4f}"),
    ("RMS", "rms_final", "{:7.4f}"),
    ("worst", "rms_worst", "{:7.4f}"),
    ("seconds", "seconds", "{:7.2f}"),
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """All rows as text, one block per family and regime, with what has to be said about them."""
    lines = []
    width = max([6, *(len(row["method"]) for row in rows)])
    for (family, regime), group in _groups(rows):
        lines.append(f"\n{family}, {regime}")
        titles = [title.rjust(len(form.format(0))) for title, _, form in COLUMNS]
        lines.append("  ".join(["method".ljust(width), *titles, "setting"]))
        for row in group:
            lines.append("  ".join([row["method"].ljust(width), *_cells(row)]))
    lines += ["", SCOPE]
    if all(row["lpips_mean"] is None for row in rows):
        reason = "no decoded clips" if all(r["ssim_mean"] is None for r in rows) else None
        lines.append(f"LPIPS was not measured: {reason or lpips_model()[1]}.")
    if any(row["ssim_mean"] is None and row["error"] is None for row in rows):
        lines.append(
            "Without a codec there is no SSIM, and PSNR is that of the latents, with the range of "
            "the uncached latent as its peak."
        )
    return "\n".join(lines)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """One Markdown table per family, regime, budget and number of clips, best mean PSNR first."""
    lines = []
    for (family, regime), group in _groups(rows):
        kinds = {(row["budget"], row["samples"]) for row in group if row["budget"] < 1}
        for budget, samples in sorted(kinds, reverse=True):
            rows_ = [r for r in group if (r["budget"], r["samples"]) == (budget, samples)]
            done = sorted((r for r in rows_ if not r["error"]), key=lambda r: -r["psnr_mean"])
            lines += [f"\n### {family}, {regime}, budget {budget:g}, {samples} clips\n"]
            lines += ["| method | cost | PSNR mean | worst | SSIM | MS-SSIM | RMS | seconds |"]
            lines += ["|---|---|---|---|---|---|---|---|"]
            for r in done:
                cells = (
                    f"`{r['method']}`",
                    f"{r['cost']:.3f}",
                    f"{r['psnr_mean']:.2f}",
                    f"{r['psnr_worst']:.2f}",
                    *("" if r[k] is None else f"{r[k]:.4f}" for k in ("ssim_mean", "msssim_mean")),
                    f"{r['rms_final']:.4f}",
                    f"{r['seconds']:.1f}",
                )
                lines.append(f"| {' | '.join(cells)} |")
            for r in rows_:
                if r["error"]:
                    why = " ".join(r["error"].split())[:120]
                    lines.append(f"| `{r['method']}` | cannot run: {why} | | | | | | |")
    return "\n".join(lines)


def plot(rows: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """PSNR over cost, a line per method, as ``pareto_<family>_<regime>.png`` in ``folder``.

    Raises:
        ImportError: matplotlib is missing.
    """
    need("matplotlib")
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    files = []
    for (family, regime), group in _groups(rows):
        figure = Figure(figsize=(9, 6), layout="constrained")
        axis = figure.subplots()
        methods = dict.fromkeys(r["method"] for r in group if r["budget"] < 1 and not r["error"])
        for index, method in enumerate(methods):
            points = sorted(
                (r["cost"], r["psnr_mean"]) for r in group if r["method"] == method and r["cost"]
            )
            style = {"marker": "os^Dv"[index % 5], "color": colormaps["tab20"](index % 20)}
            axis.plot(*zip(*points), label=method, lw=1, ms=5, **style)
        axis.set_xlabel("cost: share of the uncached block executions")
        axis.set_ylabel("PSNR against the uncached clip, mean, dB")
        axis.set_title(f"{family}, {regime}")
        axis.grid(alpha=0.3)
        if methods:
            axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        files.append(folder / f"pareto_{family}_{regime}.png")
        figure.savefig(files[-1], dpi=120)
    return files


def _groups(rows: Iterable[dict[str, Any]]) -> list[tuple[tuple[str, str], list[dict[str, Any]]]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["family"], row["regime"]), []).append(row)
    return list(groups.items())


def _cells(row: dict[str, Any]) -> list[str]:
    cells = []
    for _, key, form in COLUMNS:
        blank = "-".rjust(len(form.format(0)))
        cells.append(blank if row[key] is None else form.format(row[key]))
    return [*cells, row["setting"] if row["error"] is None else " ".join(row["error"].split())[:90]]


class Cell(NamedTuple):
    """Rows that may be compared: one run of the same clips at one budget."""

    regime: str
    budget: float
    family: str
    samples: int


def cells(rows: Iterable[Row]) -> dict[Cell, dict[str, Row]]:
    """Rows without an error, by cell and method; smooth and dear ones first."""
    out: dict[Cell, dict[str, Row]] = {}
    for row in rows:
        if row["error"] is None and not row["method"].startswith("uncached"):
            cell = Cell(row["regime"], row["budget"], row["family"], row["samples"])
            out.setdefault(cell, {})[row["method"]] = row
    order = sorted(out, key=lambda cell: (cell.regime != "smooth", -cell.budget, -cell.samples))
    return {cell: out[cell] for cell in order}


def is_peer(method: str) -> bool:
    """Whether a row is of somebody else's method."""
    own = method.startswith((OURS, "sencache", "interval", "cfg-cache", "uncached"))
    return not own and method not in (*ORACLES, "alphas-only")


def beside_peers(rows: Sequence[Row]) -> str:
    """Our default beside the best peer by the mean and the best by the worst clip, cell by cell.

    Peers land near a budget, mostly above it; the last column but one has ours at their own cost.
    """
    lines, found = [], cells(rows)
    for cell, methods in found.items():
        ours = methods.get(OURS)
        peers = [row for name, row in methods.items() if is_peer(name)]
        peers = [row for row in peers if ours and row["cost"] <= ours["cost"] + MOST_DEARER]
        if not peers:
            continue
        mean, worst = (max(peers, key=lambda r, k=k: r[k]) for k in ("psnr_mean", "psnr_worst"))
        level = _at_cost_of(mean, cell, found), _at_cost_of(worst, cell, found)
        ahead, ahead_level = (
            (a["psnr_mean"] - mean["psnr_mean"], b["psnr_worst"] - worst["psnr_worst"])
            for a, b in ((ours, ours), level)
        )
        lines.append(
            [
                *(cell.regime, f"{cell.budget:g}", cell.family, str(cell.samples)),
                *(f"{ours['cost']:.3f}", _both(ours)),
                *(_best(mean, "psnr_mean"), _best(worst, "psnr_worst")),
                *(_signed(ahead), _signed(ahead_level), _reached(cell, ahead)),
            ]
        )
    heads = ("regime", "budget", "family", "clips", "cost", OURS, "best peer, mean")
    return _table(
        (*heads, "best peer, worst", "difference", "at the peer's cost", "goal reached"), lines
    )


def _at_cost_of(peer: Row, cell: Cell, found: dict[Cell, dict[str, Row]]) -> Row:
    """Our dearest row of the same clips at a peer's cost or less, but never below the cell's."""
    ours = found[cell][OURS]
    others = (
        methods[OURS]
        for other, methods in found.items()
        if OURS in methods and other._replace(budget=cell.budget) == cell
    )
    within = (row for row in others if ours["cost"] < row["cost"] <= peer["cost"] + ROUNDED)
    return max(within, key=lambda row: row["cost"], default=ours)


def parts(rows: Sequence[Row], regime: str) -> str:
    """Our default and its variants, one column a budget and family, mean / worst clip."""
    mine = {
        cell: methods
        for cell, methods in cells(rows).items()
        if cell.regime == regime and any(name.startswith(f"{OURS}-") for name in methods)
    }
    names = {name for methods in mine.values() for name in methods}
    own = (name for name in names if name.startswith(OURS) or name == "alphas-only")
    lines = [
        [
            f"`{name}`",
            *(_both(methods[name]) if name in methods else "" for methods in mine.values()),
        ]
        for name in sorted(own, key=lambda name: (name != OURS, name))
    ]
    return _table(("variant", *(f"{cell.budget:g} {cell.family}" for cell in mine)), lines)


def at_three_quarters(rows: Sequence[Row]) -> str:
    """Evaluations of the conditional branch alone beside plans of the same cost."""
    lines = []
    for cell, methods in cells(rows).items():
        if any(name.startswith("cfg-cache") for name in methods):
            names = (OURS, "cfg-cache-fitted", "cfg-cache-bands")
            found = (methods.get(name) for name in names)
            shown = (f"{_both(row)} at {row['cost']:.2f}" if row else "" for row in found)
            lines.append([cell.regime, cell.family, str(cell.samples), *shown])
    heads = ("regime", "family", "clips", OURS, "cfg-cache, fitted difference")
    return _table((*heads, "cfg-cache, FasterCache's bands"), lines)


def oracles(rows: Sequence[Row]) -> str:
    """How far the best schedule that a search finds is ahead of the plan, in dB of the mean."""
    lines = []
    for cell, methods in cells(rows).items():
        if OURS not in methods:
            continue
        for name in ORACLES:
            if name in methods:
                ahead = methods[name]["psnr_mean"] - methods[OURS]["psnr_mean"]
                figures = (_both(methods[OURS]), _both(methods[name]), f"{ahead:+.1f}")
                where = (cell.regime, f"{cell.budget:g}", cell.family, str(cell.samples))
                lines.append([*where, f"`{name}`", *figures])
    heads = ("regime", "budget", "family", "clips", "search", OURS, "found", "ahead by")
    return _table(heads, lines)


def to_plot(rows: Sequence[Row]) -> list[Row]:
    """Ours and the peers on the most clips of each family and regime, ours first."""
    most: dict[tuple[str, str], int] = {}
    for row in rows:
        where = row["family"], row["regime"]
        most[where] = max(row["samples"], most.get(where, 0))
    shown = [
        row
        for row in rows
        if row["samples"] == most[row["family"], row["regime"]]
        and (row["method"] == OURS or is_peer(row["method"]))
    ]
    return sorted(shown, key=lambda row: row["method"] != OURS)


def _both(row: Row) -> str:
    return f"{row['psnr_mean']:.1f} / {row['psnr_worst']:.1f}"


def _signed(pair: tuple[float, float]) -> str:
    return " / ".join(f"{value:+.1f}" for value in pair)


def _best(row: Row, key: str) -> str:
    return f"{row[key]:.1f} `{row['method']}` at {row['cost']:.2f}"


def _reached(cell: Cell, ahead: tuple[float, float]) -> str:
    if cell.budget not in GOAL_BUDGETS:
        return ""
    pairs = zip(("mean", "worst"), ahead, GOALS[cell.regime], strict=True)
    return " and ".join(name for name, by, goal in pairs if by >= goal) or "neither"


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(heads)
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *lines))


#: Every table by the title that it is printed under.
TABLES: dict[str, Callable[[Sequence[Row]], str]] = {
    "Ours beside the best peer": beside_peers,
    "What each part earns, smooth": lambda rows: parts(rows, "smooth"),
    "What each part earns, rough": lambda rows: parts(rows, "rough"),
    "Conditional evaluations": at_three_quarters,
    "Distance to the oracle": oracles,
    "All rows": markdown,
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.summary")
    parser.add_argument("files", nargs="+", type=Path, help="rows that sencache bench wrote")
    parser.add_argument("--plots", type=Path, help="folder for a Pareto plot per family and regime")
    given = parser.parse_args(arguments)
    rows = [row for file in given.files for row in json.loads(file.read_text(encoding="utf-8"))]
    for title, table in TABLES.items():
        print(f"\n## {title}\n\n{table(rows)}")
    if given.plots:
        given.plots.mkdir(parents=True, exist_ok=True)
        plot(to_plot(rows), given.plots)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
