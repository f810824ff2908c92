"""The stats as a picture, drawn with Pillow, which every ComfyUI has."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

WIDTH, PLAN_WIDTH, MARGIN = 1120, 760, 28
RUN_HEIGHT, HEAD, STRIP, GAP = 420, 84, 40, 18

PAPER, INK, DIM, GRID = "#ffffff", "#1d2433", "#667085", "#e4e7ec"
COMPUTED, PARTIAL, FORCED, REUSED = "#2563a8", "#2f8f7b", "#7f8ea3", "#f0a63a"
FILL = {
    "computed": COMPUTED,
    "partial": PARTIAL,
    "forced": FORCED,
    "reused": REUSED,
    "idle": GRID,
}
#: Height of a cell that was run only in part, as a share of the strip.
HEIGHT = {"partial": 0.72, "reused": 0.45, "idle": 0.2}


def draw_reports(payload: dict) -> torch.Tensor:
    """The payload of the stats viewer as an image ``[1, H, W, 3]`` float32 in 0..1."""
    runs, notes = payload["runs"], payload["notes"]
    lines = [line for note in notes for line in _wrap(note["text"], 130)]
    height = MARGIN + max(1, len(runs)) * RUN_HEIGHT * bool(runs) + 22 * len(lines) + MARGIN
    canvas = Image.new("RGB", (WIDTH, max(height, 80)), PAPER)
    draw = ImageDraw.Draw(canvas)
    top = MARGIN
    for run in runs:
        _draw_run(draw, run, top)
        top += RUN_HEIGHT
    for line in lines:
        draw.text((MARGIN, top), line, fill=INK, font=_font(15))
        top += 22
    return torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255.0)[None]


def draw_plan(plan: dict) -> torch.Tensor:
    """The plan of ``SenCache Plan`` as an image ``[1, H, W, 3]`` float32 in 0..1."""
    said = plan["more"], *map(str, plan["notes"])
    lines = [line for text in said for line in _wrap(text, 100) if line]
    drawn = 220 if plan["mask"] else 0
    top = 48
    canvas = Image.new("RGB", (PLAN_WIDTH, max(top + drawn + 22 * len(lines) + 12, 100)), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, 14), plan["title"], fill=INK, font=_font(20))
    if drawn:
        pairs = zip(plan["mask"], plan["errors"], strict=True)
        kinds = {"C": "computed", "h": "partial", ".": "reused"}
        empty = {"limit": None, "error": None}
        steps = [{"decision": kinds[letter], "score": error, **empty} for letter, error in pairs]
        left, right = MARGIN + 40, PLAN_WIDTH - MARGIN
        width = _strip(draw, steps, (left, top, right, top + STRIP))
        caption = "error to be expected of a forecast there, relative to the true output"
        draw.text((left, top + STRIP + 6), caption, fill=DIM, font=_font(14))
        chart = (left, top + STRIP + 30, right, top + drawn - 34)
        _curves(draw, chart, steps, width)
        _numbers(draw, chart, len(steps), width)
    for number, line in enumerate(lines):
        draw.text((MARGIN, top + drawn + 22 * number), line, fill=INK, font=_font(15))
    return torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255.0)[None]


def _strip(draw: ImageDraw.ImageDraw, steps: Sequence[dict], box: tuple) -> float:
    """One cell an evaluation; returns the distance between two."""
    left, top, right, bottom = box
    width = (right - left) / len(steps)
    gap = min(2.0, 0.2 * width)
    for number, step in enumerate(steps):
        own = (left + number * width, top, left + (number + 1) * width - gap, bottom)
        _cell(draw, own, step["decision"])
    return width


def _numbers(draw: ImageDraw.ImageDraw, chart: tuple, count: int, width: float) -> None:
    for number in range(0, count, max(1, math.ceil(count / 12))):
        x = chart[0] + (number + 0.5) * width
        draw.text((x, chart[3] + 6), str(number), fill=DIM, font=_font(13), anchor="ma")


def _draw_run(draw: ImageDraw.ImageDraw, run: dict, top: int) -> None:
    title = f"{run['label']}: {run['evaluations']} of {len(run['steps'])} evaluations run"
    draw.text((MARGIN, top), title, fill=INK, font=_font(22))
    saved = f"{run['seconds']:.1f} s in the sampler, about {run['saved_seconds']:.1f} s saved"
    made = f"{run['family']}, policy {run['policy']}, rule {run['rule']}, tap {run['tap']}"
    draw.text((MARGIN, top + 30), f"{saved}   |   {made}", fill=DIM, font=_font(15))
    first = next((one for one in run["messages"] if one["level"] != "detail"), None)
    if message := (run["why"] or first or {}).get("text"):
        draw.text((MARGIN, top + 52), _wrap(message, 130)[0], fill=INK, font=_font(15))
    steps = run["steps"]
    if not steps:
        return
    strip = top + HEAD
    width = _strip(draw, steps, (MARGIN + 60, strip, WIDTH - MARGIN, strip + STRIP))
    _legend(draw, run, MARGIN + 60, strip + STRIP + 6)
    chart = (MARGIN + 60, strip + STRIP + 40, WIDTH - MARGIN, top + RUN_HEIGHT - 34)
    _curves(draw, chart, steps, width)
    _numbers(draw, chart, len(steps), width)
    draw.text((MARGIN, chart[3] + 6), "evaluation", fill=DIM, font=_font(13), anchor="la")


def _cell(draw: ImageDraw.ImageDraw, box: tuple, decision: str) -> None:
    """Colour and shape both tell: forced has a dot, what ran in part or not at all is lower."""
    x0, y0, x1, y1 = box
    y0 += (y1 - y0) * (1 - HEIGHT.get(decision, 1))
    draw.rectangle((x0, y0, x1, y1), fill=FILL[decision])
    if decision == "forced":
        x, y, r = (x0 + x1) / 2, (y0 + y1) / 2, min(4.0, (x1 - x0) / 4)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=PAPER)


def _legend(draw: ImageDraw.ImageDraw, run: dict, left: float, top: float) -> None:
    computed = run["evaluations"] - run["forced"] - run["partial"]
    x = left
    for decision, count in (
        ("computed", computed),
        *[(kind, run[kind]) for kind in ("partial", "idle") if run[kind]],
        ("forced", run["forced"]),
        ("reused", run["reused"]),
    ):
        _cell(draw, (x, top, x + 16, top + 16), decision)
        parts = {step["part"]: 0 for step in run["steps"] if step["part"]}
        named = f" ({', '.join(parts)})" if decision == "partial" and parts else ""
        text = f"{decision}{named} {count}"
        draw.text((x + 22, top - 1), text, fill=INK, font=_font(14))
        x += 40 + draw.textlength(text, font=_font(14))
    lines = [("score", REUSED), ("limit", INK), ("measured error", COMPUTED)]
    if run["policy"] == "planned":  # its score is the expected error; there is no limit
        lines = [("expected error", REUSED), lines[-1]]
    for name, colour in lines:
        draw.line((x, top + 8, x + 22, top + 8), fill=colour, width=3)
        draw.text((x + 28, top - 1), name, fill=INK, font=_font(14))
        x += 46 + draw.textlength(name, font=_font(14))


def _curves(draw: ImageDraw.ImageDraw, box: tuple, steps: Sequence[dict], width: float) -> None:
    x0, y0, x1, y1 = box
    series = {key: [s[key] for s in steps] for key in ("score", "limit", "error")}
    # A limit of next to nothing means "compute the rest": it is drawn along the bottom.
    positive = [v for key in ("score", "error") for v in series[key] if v and v > 0]
    draw.rectangle(box, outline=GRID)
    if not positive:
        draw.text((x0 + 12, y0 + 10), "no evaluation was scored", fill=DIM, font=_font(15))
        return
    low = math.floor(math.log10(max(min(positive), max(positive) * 1e-5)))
    high = max(math.ceil(math.log10(max(positive))), low + 1)

    def place(number: int, value: float) -> tuple[float, float]:
        share = (math.log10(min(max(value, 10.0**low), 10.0**high)) - low) / (high - low)
        return x0 + (number + 0.5) * width, y1 - share * (y1 - y0)

    for power in range(low, high + 1):
        y = place(0, 10.0**power)[1]
        draw.line((x0, y, x1, y), fill=GRID)
        draw.text((MARGIN, y - 9), f"{10.0**power:g}", fill=DIM, font=_font(13))
    limits = [place(i, v) for i, v in enumerate(series["limit"]) if v is not None]
    if limits:
        draw.line(limits, fill=INK, width=2)
    scores = [place(i, v) for i, v in enumerate(series["score"]) if v is not None]
    draw.line(scores, fill=REUSED, width=2)
    for x, y in scores:
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=REUSED)
    for i, value in enumerate(series["error"]):
        if value is not None:
            x, y = place(i, value)
            draw.rectangle((x - 4, y - 4, x + 4, y + 4), fill=COMPUTED)


def _wrap(text: str, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + len(word) >= width:
            lines.append(line)
            line = ""
        line += (" " if line else "") + word
    return [*lines, line]


def _font(size: int):
    return ImageFont.load_default(size)
