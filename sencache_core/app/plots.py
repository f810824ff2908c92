"""Pictures for the command line: a run's decisions, clips side by side, a profile's curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ..measure.profile import Profile
from ..policies import Planned
from ..run.stats import RunReport
from . import look
from .clips import pixels

#: Frames of each clip on a contact sheet.
SHEET_FRAMES = 6
#: Height of the labels above clips, in pixels.
HEAD = 18


def stats_plot(report: RunReport, path: str | Path) -> None:
    """The answer, the strip of decisions and the errors or scores of a run's steps, as a PNG."""
    figure = _figure(9, 3.6)
    strip, chart = figure.subplots(2, 1, sharex=True, height_ratios=(1, 4))
    for kind in look.WORDS:
        steps = [step.ordinal + 1 for step in report.steps if step.decision == kind]
        if not steps:
            continue
        looks = {"color": look.COLOURS[kind], "label": f"{look.WORDS[kind]} {len(steps)}"}
        if kind == "reused":
            looks |= {"hatch": "/////", "edgecolor": look.PAPER, "linewidth": 0}
        strip.bar(steps, look.HEIGHT.get(kind, 1), width=0.88, **looks)
        if kind == "forced":
            strip.plot(steps, [0.5] * len(steps), ".", ms=3, color=look.PAPER)
    strip.axis("off")
    strip.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=5, fontsize=8, frameon=False)
    planned = report.policy == Planned.name
    if scored := [s for s in report.steps if s.score is not None]:
        # The score of policy planned is the error that it expects; there is no limit.
        label = "expected error of a prediction" if planned else "score"
        score = [s.score for s in scored]
        places = [s.ordinal + 1 for s in scored]
        chart.plot(places, score, "o-", ms=3, color=look.COLOURS["reused"], label=label)
    if limited := [s for s in scored if s.limit is not None]:
        limit, places = [s.limit for s in limited], [s.ordinal + 1 for s in limited]
        chart.plot(places, limit, "--", color=look.INK, label="limit")
    if measured := [s for s in report.steps if s.error]:
        error, places = [s.error for s in measured], [s.ordinal + 1 for s in measured]
        blue = look.COLOURS["computed"]
        chart.plot(places, error, "s", ms=3, color=blue, label="measured error")
    if lowest := [v for s in report.steps for v in (s.score, s.error) if v and v > 0]:
        # A budget's last limits are next to nothing; they may leave the picture.
        chart.set_yscale("log")
        chart.set_ylim(bottom=min(lowest) / 2)
        if planned:
            chart.yaxis.set_major_formatter(lambda value, _: look.share(value))
            chart.yaxis.set_minor_formatter(lambda value, _: "")
    if chart.has_data():
        above = {"loc": "lower left", "bbox_to_anchor": (0, 1)}
        chart.legend(fontsize=8, frameon=False, ncols=3, **above)
    for side in ("top", "right"):
        chart.spines[side].set_visible(False)
    chart.grid(axis="y", color=look.GRID, linewidth=0.6)
    chart.set_xlim(0.5, len(report.steps) + 0.5)
    chart.set_xlabel("step", fontsize=8)
    figure.suptitle(_answer(report), fontsize=10)
    figure.savefig(path, dpi=120)


def _answer(report: RunReport) -> str:
    """What a run has come to, in the words of the stats viewer."""
    seconds, saved = report.seconds, report.saved_seconds()
    asked = "steps" if len(report.steps) == report.num_steps else "evaluations"
    parts = [f"{(seconds + saved) / seconds:.1f}x faster, {saved:.1f} s saved"] if seconds else []
    parts.append(f"{report.evaluations} of {len(report.steps)} {asked} computed")
    if report.expected is not None and math.isfinite(report.expected):
        parts.append(f"expected error {look.share(report.expected)}")
    return f"{report.family}, {report.policy}, {report.rule}: {', '.join(parts)}"


def contact_sheet(rows: Sequence[tuple[str, Tensor, Tensor]], path: str | Path) -> None:
    """Uncached clip, cached clip and their difference, below each other and labelled, as a PNG.

    The difference is signed, grey where there is none, and magnified until it can be seen.

    Args:
        rows: title, reference and cached clip (each ``[F, 3, H, W]`` in 0..1).
        path: file to write.
    """
    figure = _figure(9, 4.6 * len(rows))
    axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axis, (title, reference, cached) in zip(axes, rows, strict=True):
        picked = np.linspace(0, len(reference) - 1, min(SHEET_FRAMES, len(reference))).round()
        difference = (cached - reference)[picked]
        gain = 2 ** math.floor(math.log2(0.5 / max(float(difference.abs().max()), 1e-6)))
        rows_of = {
            "uncached": reference[picked],
            "cached": cached[picked],
            f"difference\nx {gain:g}": 0.5 + gain * difference,
        }
        frames = [clip.permute(2, 0, 3, 1).flatten(1, 2) for clip in rows_of.values()]
        axis.imshow(np.concatenate([f.clamp(0, 1).numpy() for f in frames]))
        axis.set_title(title, fontsize=9)
        height = reference.shape[-2]
        axis.set_yticks([height * (k + 0.5) for k in range(3)], list(rows_of), fontsize=8)
        axis.tick_params(length=0)
        axis.set_xticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
    figure.savefig(path, dpi=100)


def side_by_side(pairs: Sequence[tuple[Tensor, Tensor]], path: str | Path, fps: int) -> None:
    """Uncached (left) and cached clips (right), labelled, one pair a row, as an endless WebP.

    Args:
        pairs: clips ``[F, 3, H, W]`` in 0..1, all of one shape.
        path: file to write.
        fps: frames per second.
    """
    from PIL import Image, ImageDraw

    width = pairs[0][0].shape[-1]
    head = Image.new("RGB", (2 * width, HEAD), look.PAPER)
    draw = ImageDraw.Draw(head)
    for x, words in ((4, "uncached"), (width + 4, "cached")):
        draw.text((x, 2), words, fill=look.INK, font=look.font(12))
    clips = [
        np.concatenate([np.concatenate([pixels(a[k]), pixels(b[k])], 1) for a, b in pairs])
        for k in range(len(pairs[0][0]))
    ]
    frames = [np.concatenate([np.asarray(head), clip]) for clip in clips]
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=others, duration=1000 // fps, loop=0, quality=90)


def profile_plot(profile: Profile, path: str | Path) -> None:
    """Every curve of a profile over the time coordinate, with its spread, as a PNG."""
    figure = _figure(4 * len(profile.mean), 3)
    axes = figure.subplots(1, len(profile.mean), squeeze=False)[0]
    for axis, (name, curve) in zip(axes, profile.mean.items(), strict=True):
        axis.plot(profile.t, curve, color=look.COLOURS["computed"])
        if name in profile.spread:
            low, high = curve - profile.spread[name], curve + profile.spread[name]
            axis.fill_between(profile.t, low, high, color=look.COLOURS["forced"], alpha=0.4)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("t, noise to the right", fontsize=8)
    figure.savefig(path, dpi=120)


def _figure(width: float, height: float):
    """A figure without pyplot: no window, no state that outlives the call."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib: in the source tree, pip install -e '.[demo]'"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")
