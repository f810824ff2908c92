"""How steps look and are called in every picture, as in the stats viewer (``web/lib/strip.js``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PAPER, INK, DIM, GRID = "#ffffff", "#222222", "#606060", "#dddddd"

#: Colours by decision: those of the viewer in ComfyUI's light theme. They differ for colour-blind
#: eyes too; heights, hatching and dot tell the decisions apart without them.
COLOURS = {
    "computed": "#3979b2",
    "partial": "#15896c",
    "forced": "#6c7580",
    "reused": "#ad711c",
    "idle": "#b2b2b2",
}
#: Height of a cell as a share of the strip: what was run in part, or skipped, is lower.
HEIGHT = {"reused": 0.5, "partial": 0.75, "idle": 0.2}

WORDS = {
    "computed": "computed",
    "partial": "in part",
    "forced": "always computed",
    "reused": "skipped",
    "idle": "not asked",
}


def share(value: float) -> str:
    """A share of 1 in percent, to two digits: ``2.5 %``."""
    return f"{float(f'{100 * value:.2g}'):g} %"


def strip(draw: Any, decisions: Sequence[str], box: tuple[float, float, float, float]) -> float:
    """Draw one cell a step into ``box`` (left, top, right, bottom); the distance between two.

    Args:
        draw: Pillow's ``ImageDraw``.
        decisions: one a step, as ``StepRecord`` has them; empty ones leave their place free.
        box: in pixels.
    """
    left, top, right, bottom = box
    width = (right - left) / len(decisions)
    gap = min(max(0.003 * (right - left), 1.0), 0.25 * width)
    for number, decision in enumerate(decisions):
        if decision:
            x = left + number * width
            cell(draw, (x, top, x + width - gap, bottom), decision)
    return width


def cell(draw: Any, box: tuple[float, float, float, float], decision: str) -> None:
    """One cell. Colour and shape both tell: a guard's has a dot, a skipped one is hatched."""
    x0, y0, x1, y1 = box
    y0 += (y1 - y0) * (1 - HEIGHT.get(decision, 1))
    draw.rectangle((x0, y0, x1, y1), fill=COLOURS[decision])
    if decision == "forced":
        x, y, r = (x0 + x1) / 2, (y0 + y1) / 2, min((x1 - x0) / 4, (y1 - y0) / 9)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=PAPER)
    if decision == "reused":
        pitch = max((y1 - y0) / 2.5, 4)
        for number in range(1, int((x1 - x0 + y1 - y0) / pitch) + 1):
            both = x0 + y0 + number * pitch  # x + y along one line of the hatching
            a, b = max(x0, both - y1), min(x1, both - y0)
            if a < b:
                draw.line((a, both - a, b, both - b), fill=PAPER, width=max(1, round(pitch / 4)))


def font(size: float) -> Any:
    """Pillow's own font, which every Pillow has."""
    from PIL import ImageFont

    return ImageFont.load_default(size)
