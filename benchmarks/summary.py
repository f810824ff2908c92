"""Rows of a bench as tables and pictures, finished or not.

``python -m benchmarks.summary rows.json [more.json ...] [--plots FOLDER]``; for rows of
``sencache bench --sampler NAME``: ``--samplers``.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from .measures import Nearer, interval, nearer, tail
from .picture import draw
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
#: What has to be said of tables by sampler.
SAMPLERS = (
    "PSNR of decoded clips in dB, mean / tenth percentile; `at`: the cost, where it is not within "
    "0.02 of the budget. Samplers that draw noise as they go follow no ODE, so that there is no "
    "exact solution to compare with: their cells are empty. Their clips are compared with the "
    "uncached clip of the same seed; with fewer steps it draws other noise. The models are tiny "
    "and trained on synthetic clips: figures compare methods on them and say nothing about real "
    "ones."
)
#: Costs this near to each other are one cost.
SAME_COST = 0.02


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
    """Of one figure over the row's clips; ``nan`` where clips have none."""
    values = [clip[key] for clip in row["clips"]]
    return math.nan if None in values else sum(values) / len(values)


def both(row: Row, key: str) -> str:
    """Mean and tenth percentile of a distance; ``=`` for uncached clips and themselves.

    Empty where there is none: samplers that draw noise have no exact solution.
    """
    if key == SAME and is_uncached(row):
        return "="
    if math.isnan(mean(row, key)):
        return ""
    return f"{mean(row, key):.1f} / {tail([clip[key] for clip in row['clips']]):.1f}"


def _down(row: Row, key: str) -> float:
    """Sorts the nearest first, and last what has no distance."""
    return math.inf if math.isnan(mean(row, key)) else -mean(row, key)


def beside_peers(row: Row, methods: dict[str, Row], key: str) -> Nearer | None:
    """A row of ours beside the peer of the best mean, on the clips that all of them have."""
    rows = _peers(methods, mean(row, "cost"))
    if not rows or not row["ours"] or math.isnan(mean(row, key)):
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
        best = min(caches, key=lambda r: _down(r, key), default=None)
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


def pairs(rows: Sequence[Row], budget: float) -> str:
    """What ours are nearer than their origins, in dB: pairs down, models and both distances
    across; empty where there are none."""
    columns = {place: found for place, found in places(rows).items() if place.budget == budget}
    origins = {
        (row["method"], own): row["title"]
        for found in columns.values()
        for row in found.values()
        for own in row.get("origin_of", ())
        if own in found
    }
    lines = []
    for (origin, own), title in origins.items():
        paired = [(found.get(own), found.get(origin)) for found in columns.values()]
        cells = [_less(*two, key) for two in paired for key in (SAME, EXACT)]
        lines.append([f"{own} - {title}", *cells])
    words = ("uncached clip", "exact solution")
    heads = [f"{place.family}, {place.regime}, {which}" for place in columns for which in words]
    return _table(("", *heads), lines) if lines else ""


def _less(own: Row | None, origin: Row | None, key: str) -> str:
    if own is None or origin is None or math.isnan(mean(own, key) + mean(origin, key)):
        return ""
    clips = zip(own["clips"], origin["clips"])  # those that both have
    differences = [a[key] - b[key] for a, b in clips]
    low, high = interval(differences)
    costs = mean(own, "cost"), mean(origin, "cost")
    at = "" if abs(costs[0] - costs[1]) <= SAME_COST else " at {:.2f} and {:.2f}".format(*costs)
    return f"{sum(differences) / len(differences):+.1f} ({low:+.1f} to {high:+.1f}){at}"


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
            for row in sorted(methods.values(), key=lambda r: (_down(r, EXACT), _down(r, SAME)))
        ]
        heads = ("", "cost", "to the exact solution", "nearer than the best peer")
        heads += ("to the uncached clip", "nearer than the best peer", "clips so far")
        parts.append(_table(heads, lines))
        own = [c["own"] for c in methods.get(UNCACHED, {"clips": []})["clips"] if "own" in c]
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
        if paired := pairs(rows, budget):
            parts += [
                "\nMethods of ours less their origins, on the same clips: dB, and the ends of the "
                f"95 % interval of a bootstrap. Costs are given where they differ by over "
                f"{SAME_COST:g}:\n",
                paired,
            ]
    return "\n".join([*parts, "\n## All rows", every_row(rows)])


def by_sampler(rows: Sequence[Row]) -> str:
    """Two tables a model, regime and budget, in Markdown: samplers down, methods across."""
    found: dict[tuple, dict[str, dict[str, Row]]] = {}
    for place, methods in places(rows).items():
        regime, _, sampler = place.regime.partition(" ")
        found.setdefault((place.family, regime, place.budget), {})[sampler] = methods
    parts = [SAMPLERS]
    for (family, regime, budget), samplers in found.items():
        names = dict.fromkeys(
            UNCACHED if is_uncached(row) else name
            for methods in samplers.values()
            for name, row in sorted(methods.items(), key=lambda item: not is_uncached(item[1]))
        )
        parts.append(f"\n## {family}, {regime}, budget {budget:g}")
        for key, title in ((EXACT, "To the exact solution"), (SAME, "To the uncached clip")):
            shown = [name for name in names if key == EXACT or name != UNCACHED]
            lines = []
            for sampler, methods in samplers.items():
                by_name = {UNCACHED if is_uncached(r) else n: r for n, r in methods.items()}
                lines.append([sampler, *(_at(by_name.get(name), key, budget) for name in shown)])
            parts += [f"\n{title}:\n", _table(("", *shown), lines)]
    return "\n".join(parts)


def _at(row: Row | None, key: str, budget: float) -> str:
    if row is None or row["error"]:
        return "cannot run" if row else ""
    cost, text = mean(row, "cost"), both(row, key)
    near = abs(cost - budget) <= SAME_COST or is_uncached(row) or not text
    return text if near else f"{text} at {cost:.2f}"


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(heads)
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *lines))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.summary")
    parser.add_argument("files", nargs="+", type=Path, help="rows that sencache bench wrote")
    parser.add_argument("--plots", type=Path, help="folder for pictures of cost and distance")
    parser.add_argument("--samplers", action="store_true", help="tables by sampler")
    given = parser.parse_args(arguments)
    keyed: dict[Key, Row] = {}
    for file in given.files:  # of two rows of one name the later one counts
        keyed |= read(file)
    rows = list(keyed.values())
    print(by_sampler(rows) if given.samplers else summarise(rows))
    if given.plots:
        draw(rows, given.plots)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
