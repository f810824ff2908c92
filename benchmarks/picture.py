"""All methods on a plane of cost and distance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .method import need
from .store import UNCACHED, Row

#: What clips are compared with, and what the axis says: by key of a clip's figures.
PANELS = {
    "uncached": "PSNR to the uncached clip, dB (mean)",
    "exact": "PSNR to the exact solution, dB (mean)",
}
#: Distance between labels as a share of the panel's height.
APART = 0.021


class Point(NamedTuple):
    """A method at one budget: mean share of block executions, mean dB."""

    cost: float
    distance: float


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """One picture of every family and regime, and ``methods.png`` of their mean, in ``folder``.

    Points of one method at several budgets are joined. Filled: ours; hollow: others'; those of one
    colour are a method of ours and its origins. The mean is over the methods that have clips at
    every family and regime.

    Raises:
        ImportError: matplotlib is missing.
    """
    need("matplotlib")
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for row in rows if row["clips"]]
    where = list(dict.fromkeys((row["family"], row["regime"]) for row in rows))
    files = []
    for family, regime in where:
        own = [row for row in rows if (row["family"], row["regime"]) == (family, regime)]
        files.append(folder / f"methods_{family}_{regime.replace(' ', '_')}.png")
        _save(own, f"{family}, {regime}", 1, files[-1])
    if len(where) > 1:
        files.append(folder / "methods.png")
        _save(rows, f"mean of {len(where)} families and regimes", len(where), files[-1])
    return files


def _save(rows: Sequence[Row], title: str, places: int, file: Path) -> None:
    from matplotlib.figure import Figure

    lines = {key: _points(rows, key, places) for key in PANELS}
    shown = max(len(found) for found in lines.values())
    size = (20, max(7.0, 0.21 * shown))
    figure = Figure(figsize=size, layout="constrained")
    about, colours = {row["method"]: row for row in rows}, _colours(rows)
    for axis, (key, words) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for method, points in lines[key].items():
            ours, colour = about[method]["ours"], colours[method]
            face = colour if ours or method.startswith(UNCACHED) else "white"
            style = {"marker": "o" if ours else "D", "mfc": face, "color": colour}
            axis.plot(*zip(*points), lw=0.6, ms=5, alpha=0.9, **style)
        axis.set_xlabel("cost: share of the uncached block executions")
        axis.set_ylabel(words)
        axis.grid(alpha=0.25)
        _label(axis, {about[m]["title"]: (p[-1], colours[m]) for m, p in lines[key].items()})
    figure.suptitle(
        f"{title}. Filled: ours; hollow: others. Figures of tiny models tell nothing of real ones."
    )
    figure.savefig(file, dpi=110)


def _points(rows: Iterable[Row], key: str, places: int) -> dict[str, list[Point]]:
    """By method, the cheapest first; over all ``places``, or none where one is missing."""
    found: dict[tuple[str, float], list[Point]] = {}
    for row in rows:
        itself = key == "uncached" and row["method"].startswith(UNCACHED)
        values = [clip[key] for clip in row["clips"]]
        if not itself and None not in values:
            cost = sum(clip["cost"] for clip in row["clips"]) / len(values)
            point = Point(cost, sum(values) / len(values))
            found.setdefault((row["method"], row["budget"]), []).append(point)
    lines: dict[str, list[Point]] = {}
    for (method, _), points in found.items():
        if len(points) == places:
            mean = Point(*(sum(column) / places for column in zip(*points)))
            lines.setdefault(method, []).append(mean)
    return {method: sorted(points) for method, points in lines.items()}


def _colours(rows: Iterable[Row]) -> dict[str, Any]:
    """A method of ours and its origins share one; what has no cache is black."""
    from matplotlib import colormaps

    origin = {own: row["method"] for row in rows for own in row.get("origin_of", ())}
    group = {row["method"]: origin.get(row["method"], row["method"]) for row in rows}
    names = list(dict.fromkeys(group.values()))
    palette = [*colormaps["tab20"].colors[::2], *colormaps["Dark2"].colors]
    plain = [name for name in names if name.startswith((UNCACHED, "fewer-steps"))]
    colours = {name: palette[k % len(palette)] for k, name in enumerate(names)}
    colours |= dict.fromkeys(plain, "black")
    return {method: colours[name] for method, name in group.items()}


def _label(axis: Any, ends: dict[str, tuple[Point, Any]]) -> None:
    """Names at the right of the panel, in the order of the points, each tied to its own."""
    low, high = axis.get_ylim()
    order = sorted(ends, key=lambda title: ends[title][0].distance)
    apart = min(APART, 1 / max(len(order), 1))
    heights: list[float] = []
    for title in order:
        own = (ends[title][0].distance - low) / (high - low)
        heights.append(max(own, heights[-1] + apart) if heights else own)
    most = 1.0
    for k in reversed(range(len(heights))):  # what does not fit below the top moves down
        heights[k] = min(heights[k], most)
        most = heights[k] - apart
    for title, height in zip(order, heights, strict=True):
        point, colour = ends[title]
        axis.annotate(
            title,
            xy=point,
            xytext=(1.04, height),
            textcoords="axes fraction",
            fontsize=8,
            color=colour,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "lw": 0.4, "color": colour, "alpha": 0.6},
        )
