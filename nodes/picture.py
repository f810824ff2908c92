"""The stats as a picture, drawn with Pillow, which every ComfyUI has."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..sencache_core.app import look

WIDTH, PLAN_WIDTH, MARGIN, LEFT = 1120, 760, 28, 60
RUN_HEIGHT, HEAD, STRIP = 460, 130, 40


def draw_reports(payload: dict) -> torch.Tensor:
    """The payload of the stats viewer as an image ``[1, H, W, 3]`` float32 in 0..1."""
    runs, notes = payload["runs"], payload["notes"]
    lines = [line for note in notes for line in _wrap(note["text"], 130)]
    height = MARGIN + max(1, len(runs)) * RUN_HEIGHT * bool(runs) + 22 * len(lines) + MARGIN
    canvas = Image.new("RGB", (WIDTH, max(height, 80)), look.PAPER)
    draw = ImageDraw.Draw(canvas)
    top = MARGIN
    for run in runs:
        _draw_run(draw, run, top)
        top += RUN_HEIGHT
    for line in lines:
        draw.text((MARGIN, top), line, fill=look.INK, font=look.font(15))
        top += 22
    return torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255.0)[None]


def draw_plan(plan: dict) -> torch.Tensor:
    """The plan of ``SenCache Plan`` as an image ``[1, H, W, 3]`` float32 in 0..1."""
    said = plan["more"], *map(str, plan["notes"])
    lines = [line for text in said for line in _wrap(text, 100) if line]
    drawn = 220 if plan["mask"] else 0
    top = 48
    height = max(top + drawn + 22 * len(lines) + 12, 100)
    canvas = Image.new("RGB", (PLAN_WIDTH, height), look.PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, 14), plan["title"], fill=look.INK, font=look.font(20))
    if drawn:
        pairs = zip(plan["mask"], plan["errors"], strict=True)
        kinds = {"C": "computed", "h": "partial", ".": "reused"}
        empty = {"limit": None, "error": None}
        steps = [{"decision": kinds[letter], "score": error, **empty} for letter, error in pairs]
        left, right = MARGIN + 40, PLAN_WIDTH - MARGIN
        width = look.strip(draw, [s["decision"] for s in steps], (left, top, right, top + STRIP))
        caption = "expected error of a prediction at each step"
        draw.text((left, top + STRIP + 6), caption, fill=look.DIM, font=look.font(14))
        chart = (left, top + STRIP + 30, right, top + drawn - 34)
        _curves(draw, chart, steps, width, True)
        _numbers(draw, chart, len(steps), width)
    for number, line in enumerate(lines):
        draw.text((MARGIN, top + drawn + 22 * number), line, fill=look.INK, font=look.font(15))
    return torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255.0)[None]


def _numbers(draw: ImageDraw.ImageDraw, chart: tuple, count: int, width: float) -> None:
    for number in range(0, count, max(1, math.ceil(count / 12))):
        x = chart[0] + (number + 0.5) * width
        place = x, chart[3] + 6
        draw.text(place, str(number + 1), fill=look.DIM, font=look.font(13), anchor="ma")


def _draw_run(draw: ImageDraw.ImageDraw, run: dict, top: int) -> None:
    """One run, in the order of the stats viewer: the answer, the strip, the chart."""
    spent, saved, steps = run["seconds"], run["saved_seconds"], run["steps"]
    answers = [(f"{(spent + saved) / spent:.1f}x" if spent else "-", "faster")]
    answers.append((f"{saved:.1f} s", "saved"))
    if run["expected"] is not None:
        answers.append((look.share(run["expected"]), "expected error"))
    draw.text((MARGIN, top), run["label"], fill=look.DIM, font=look.font(15))
    for number, (large, small) in enumerate(answers):
        x = MARGIN + number * (WIDTH - 2 * MARGIN) / 3
        draw.text((x, top + 20), large, fill=look.INK, font=look.font(30))
        draw.text((x, top + 56), small, fill=look.DIM, font=look.font(15))
    made = f"{run['family']}, policy {run['policy']}, rule {run['rule']}, tap {run['tap']}"
    asked = "steps" if len(steps) == run["num_steps"] else "evaluations"
    sums = f"{run['evaluations']} of {len(steps) - run['idle']} {asked} computed"
    sums += f", {run['partial']} of them in part" if run["partial"] else ""
    line = f"{sums}, {run['reused']} skipped   |   {made}"
    draw.text((MARGIN, top + 82), line, fill=look.DIM, font=look.font(15))
    if message := _first(run["why"], *run["messages"]):
        line = _wrap(message, 130)[0]
        draw.text((MARGIN, top + 104), line, fill=look.INK, font=look.font(15))
    if not steps:
        return
    strip = top + HEAD
    decisions = [step["decision"] for step in steps]
    box = (MARGIN + LEFT, strip, WIDTH - MARGIN, strip + STRIP)
    width = look.strip(draw, decisions, box)
    _legend(draw, run, MARGIN + LEFT, strip + STRIP + 8)
    chart = (MARGIN + LEFT, strip + STRIP + 42, WIDTH - MARGIN, top + RUN_HEIGHT - 34)
    _curves(draw, chart, steps, width, run["policy"] == "planned")
    _numbers(draw, chart, len(decisions), width)
    draw.text((MARGIN, chart[3] + 6), "step", fill=look.DIM, font=look.font(13), anchor="la")


def _first(*messages: dict | None) -> str:
    """Text of the first message that is more than a detail."""
    return next((one["text"] for one in messages if one and one["level"] != "detail"), "")


def _legend(draw: ImageDraw.ImageDraw, run: dict, left: float, top: float) -> None:
    x = left
    for decision, word in look.WORDS.items():
        count = sum(step["decision"] == decision for step in run["steps"])
        if not count and decision in ("partial", "idle"):
            continue
        look.cell(draw, (x, top, x + 16, top + 16), decision)
        parts = {step["part"]: 0 for step in run["steps"] if step["part"]}
        named = f" ({', '.join(parts)})" if decision == "partial" and parts else ""
        text = f"{word}{named} {count}"
        draw.text((x + 22, top - 1), text, fill=look.INK, font=look.font(14))
        x += 40 + draw.textlength(text, font=look.font(14))
    score, limit, error = look.COLOURS["reused"], look.INK, look.COLOURS["computed"]
    lines = [("score", score), ("limit", limit), ("measured error", error)]
    if run["policy"] == "planned":  # its score is the expected error; there is no limit
        lines = [("expected error of a prediction", score), lines[-1]]
    for name, colour in lines:
        draw.line((x, top + 8, x + 22, top + 8), fill=colour, width=3)
        draw.text((x + 28, top - 1), name, fill=look.INK, font=look.font(14))
        x += 46 + draw.textlength(name, font=look.font(14))


def _curves(
    draw: ImageDraw.ImageDraw, box: tuple, steps: Sequence[dict], width: float, errors: bool
) -> None:
    """``errors``: the scores are expected errors, shares of 1."""
    x0, y0, x1, y1 = box
    series = {key: [s[key] for s in steps] for key in ("score", "limit", "error")}
    # A limit of next to nothing means "compute the rest": it is drawn along the bottom.
    positive = [v for key in ("score", "error") for v in series[key] if v and v > 0]
    draw.rectangle(box, outline=look.GRID)
    if not positive:
        said = "no prediction was measured or expected"
        draw.text((x0 + 12, y0 + 10), said, fill=look.DIM, font=look.font(15))
        return
    low = math.floor(math.log10(max(min(positive), max(positive) * 1e-5)))
    high = max(math.ceil(math.log10(max(positive))), low + 1)

    def place(number: int, value: float) -> tuple[float, float]:
        share = (math.log10(min(max(value, 10.0**low), 10.0**high)) - low) / (high - low)
        return x0 + (number + 0.5) * width, y1 - share * (y1 - y0)

    for power in range(low, high + 1):
        y = place(0, 10.0**power)[1]
        draw.line((x0, y, x1, y), fill=look.GRID)
        value = look.share(10.0**power) if errors else f"{10.0**power:g}"
        draw.text((MARGIN, y - 9), value, fill=look.DIM, font=look.font(13))
    limits = [place(i, v) for i, v in enumerate(series["limit"]) if v is not None]
    if limits:
        draw.line(limits, fill=look.INK, width=2)
    scores = [place(i, v) for i, v in enumerate(series["score"]) if v is not None]
    draw.line(scores, fill=look.COLOURS["reused"], width=2)
    for x, y in scores:
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=look.COLOURS["reused"])
    for i, value in enumerate(series["error"]):
        if value is not None:
            x, y = place(i, value)
            draw.rectangle((x - 4, y - 4, x + 4, y + 4), fill=look.COLOURS["computed"])


def _wrap(text: str, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + len(word) >= width:
            lines.append(line)
            line = ""
        line += (" " if line else "") + word
    return [*lines, line]
