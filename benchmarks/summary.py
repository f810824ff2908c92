"""Rows of a bench as tables and plots, finished or not.

``python -m benchmarks.summary rows.json [more.json ...] [--plots FOLDER]``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from .measures import Nearer, nearer, tail
from .method import need
from .store import UNCACHED, Key, Row, read

#: What clips are compared with: keys of a clip's figures.
EXACT, SAME = "exact", "uncached"
#: A peer that spends more than this beyond a row of ours is not put beside it.
MOST_DEARER = 0.05
#: Rows of the tables that show all models at once, beside ours.
ALWAYS = (UNCACHED, "fewer-steps", "unipc", "dpmpp-2m")
#: What has to be said wherever figures are shown.
SCOPE = (
    "Distances are PSNR of decoded clips in dB, mean / tenth percentile. The exact solution is "
    "that of the equation which the sampler's steps approximate. Likeness to the uncached clip is "
    "not quality. The bundled models are tiny and trained on synthetic clips: their figures say "
    "nothing about real ones."
)


class Place(NamedTuple):
    """Rows that may be compared: the same clips, at one budget."""

    family: str
    regime: str
    budget: float


def places(rows: Iterable[Row]) -> dict[Place, dict[str, Row]]:
    """Rows with clips, by place and method. Each holds its models' uncached rows, too."""
    rows = [row for row in rows if row["clips"]]
    found: dict[Place, dict[str, Row]] = {}
    for row in rows:
        if not is_uncached(row):
            place = Place(row["family"], row["regime"], row["budget"])
            found.setdefault(place, {})[row["method"]] = row
    for row in filter(is_uncached, rows):
        for place, methods in found.items():
            if place[:2] == (row["family"], row["regime"]):
                methods[row["method"]] = row
    return dict(
        sorted(found.items(), key=lambda item: (-item[0].budget, item[0].regime != "smooth"))
    )


def is_uncached(row: Row) -> bool:
    """Whether it is a row of uncached clips, of whatever host."""
    return row["method"].startswith(UNCACHED)


def mean(row: Row, key: str) -> float:
    """Of one figure over the row's clips."""
    return sum(clip[key] for clip in row["clips"]) / len(row["clips"])


def both(row: Row, key: str) -> str:
    """Mean and tenth percentile of a distance; ``=`` for uncached clips and themselves."""
    if key == SAME and is_uncached(row):
        return "="
    return f"{mean(row, key):.1f} / {tail([clip[key] for clip in row['clips']]):.1f}"


def beside_peers(row: Row, methods: dict[str, Row], key: str) -> Nearer | None:
    """A row of ours beside the peer of the best mean, on the clips that all of them have."""
    rows = _peers(methods, mean(row, "cost"))
    if not rows or not row["ours"]:
        return None
    count = min(len(one["clips"]) for one in (row, *rows))
    values = {r["method"]: [clip[key] for clip in r["clips"][:count]] for r in (row, *rows)}
    return nearer(values.pop(row["method"]), values)


def _peers(methods: dict[str, Row], cost: float) -> list[Row]:
    """Rows of others that do not spend much more, those that take fewer steps among them."""
    own = (row for row in methods.values() if not row["ours"] and not is_uncached(row))
    return [row for row in own if mean(row, "cost") <= cost + MOST_DEARER]


def across(rows: Sequence[Row], budget: float, key: str) -> str:
    """One distance at one budget: methods down, models and regimes across."""
    columns = {place: found for place, found in places(rows).items() if place.budget == budget}
    names = dict.fromkeys(name for found in columns.values() for name in found)
    first = [name for name in ALWAYS if name in names]
    own = [n for n in names if any(n in f and f[n]["ours"] for f in columns.values())]
    lines = []
    for name in (*first, *own):
        known = [found[name] for found in columns.values() if name in found]
        cells = [both(found[name], key) if name in found else "" for found in columns.values()]
        lines.append([known[0]["title"], *cells])
    others = []
    for found in columns.values():
        caches = [r for r in _peers(found, budget) if r["method"] not in ALWAYS]
        best = max(caches, key=lambda r: mean(r, key), default=None)
        others.append(f"{both(best, key)} `{best['method']}`" if best else "")
    lines.append(["best other cache", *others])
    return _table(("", *(f"{place.family}, {place.regime}" for place in columns)), lines)


def wins(rows: Sequence[Row], budget: float, key: str) -> str:
    """Shares of clips on which rows of ours are nearer than the best peer, models across."""
    columns = {place: found for place, found in places(rows).items() if place.budget == budget}
    own = {n: r["title"] for found in columns.values() for n, r in found.items() if r["ours"]}
    lines = []
    for name, title in own.items():
        pairs = [(found.get(name), found) for found in columns.values()]
        lines.append([title, *(_nearer(row, found, key) for row, found in pairs)])
    return _table(("", *(f"{place.family}, {place.regime}" for place in columns)), lines)


def _nearer(row: Row | None, methods: dict[str, Row], key: str) -> str:
    won = beside_peers(row, methods, key) if row else None
    if won is None:
        return ""
    return f"{won.share:.0%} ({won.low:.0%} to {won.high:.0%}) `{won.peer}`"


def every_row(rows: Sequence[Row]) -> str:
    """All rows, one table per place, the nearest to the exact solution first."""
    parts = []
    for place, methods in places(rows).items():
        most = max(len(row["clips"]) for row in methods.values())
        parts.append(
            f"\n### {place.family}, {place.regime}, budget {place.budget:g}, {most} clips\n"
        )
        lines = [
            [
                f"**{row['title']}**" if row["ours"] else row["title"],
                *(f"{mean(row, 'cost'):.3f}", both(row, EXACT), _nearer(row, methods, EXACT)),
                *(both(row, SAME), _nearer(row, methods, SAME)),
                str(len(row["clips"])) if len(row["clips"]) < most else "",
            ]
            for row in sorted(methods.values(), key=lambda r: -mean(r, EXACT))
        ]
        heads = ("", "cost", "to the exact solution", "nearer than the best peer")
        heads += ("to the uncached clip", "nearer than the best peer", "clips so far")
        parts.append(_table(heads, lines))
        own = [clip["own"] for clip in methods.get(UNCACHED, {"clips": []})["clips"]]
        if own:
            parts.append(f"\nThe exact solutions are right to {min(own):.0f} dB or better.")
        parts += [
            f"\n`{row['method']}` cannot run: {' '.join(row['error'].split())[:120]}"
            for row in rows
            if row["error"] and Place(row["family"], row["regime"], row["budget"]) == place
        ]
    return "\n".join(parts)


def summarise(rows: Sequence[Row]) -> str:
    """Every table, in Markdown."""
    parts = [SCOPE]
    for budget in dict.fromkeys(place.budget for place in places(rows)):
        parts += [
            f"\n## Budget {budget:g}\n\nDistance to the exact solution:\n",
            across(rows, budget, EXACT),
            "\nDistance to the uncached clip:\n",
            across(rows, budget, SAME),
            "\nClips on which ours is nearer to the exact solution than the best peer (95 % "
            "interval of a bootstrap):\n",
            wins(rows, budget, EXACT),
        ]
    return "\n".join([*parts, "\n## All rows", every_row(rows)])


def plot(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Distance to the exact solution over cost, as ``pareto_<family>_<regime>.png`` in ``folder``.

    Raises:
        ImportError: matplotlib is missing.
    """
    need("matplotlib")
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    files = []
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for row in rows if row["clips"]]
    for family, regime in dict.fromkeys((row["family"], row["regime"]) for row in rows):
        figure = Figure(figsize=(9, 6), layout="constrained")
        axis = figure.subplots()
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            if (row["family"], row["regime"]) == (family, regime):
                lines.setdefault(row["title"], []).append((mean(row, "cost"), mean(row, EXACT)))
        for k, (title, points) in enumerate(lines.items()):
            style = {"marker": "os^Dv"[k % 5], "color": colormaps["tab20"](k % 20)}
            axis.plot(*zip(*sorted(points)), label=title, lw=1, ms=5, **style)
        axis.set_xlabel("cost: share of the uncached block executions")
        axis.set_ylabel("PSNR against the exact solution, mean, dB")
        axis.set_title(f"{family}, {regime}")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        files.append(folder / f"pareto_{family}_{regime}.png")
        figure.savefig(files[-1], dpi=120)
    return files


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(heads)
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *lines))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.summary")
    parser.add_argument("files", nargs="+", type=Path, help="rows that sencache bench wrote")
    parser.add_argument("--plots", type=Path, help="folder for a plot per family and regime")
    given = parser.parse_args(arguments)
    keyed: dict[Key, Row] = {}
    for file in given.files:  # of two rows of one name the later one counts
        keyed |= read(file)
    rows = list(keyed.values())
    print(summarise(rows))
    if given.plots:
        plot(rows, given.plots)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
