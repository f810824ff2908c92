"""Pictures for the command line: a run's decisions, clips side by side, a profile's curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ..measure.profile import Profile
from ..policies import Planned
from ..run.stats import RunReport
from .clips import pixels

#: Colours by decision, from Okabe and Ito's set, which colour-blind readers can tell apart.
COLOURS = {
    "computed": "#0072B2",
    "partial": "#009E73",
    "forced": "#56B4E9",
    "reused": "#E69F00",
    "idle": "#CCCCCC",
}
#: Frames of each clip on a contact sheet, and the factor on the difference pictures.
SHEET_FRAMES, SHEET_GAIN = 6, 4.0


def stats_plot(report: RunReport, path: str | Path) -> None:
    """Scores, limits if any, and the strip of decisions, over a run's rounds, as a PNG."""
    figure = _figure(9, 3.6)
    top, strip = figure.subplots(2, 1, sharex=True, height_ratios=(6, 1))
    if scored := [s for s in report.steps if s.score is not None]:
        # The score of policy planned is the error that it expects; there is no limit.
        label = "expected error" if report.policy == Planned.name else "score"
        score = [s.score for s in scored]
        top.plot([s.ordinal for s in scored], score, "o-", ms=3, color="black", label=label)
    if limited := [s for s in scored if s.limit is not None]:
        limit = [s.limit for s in limited]
        top.plot([s.ordinal for s in limited], limit, "--", color="#D55E00", label="limit")
    if measured := [s for s in report.steps if s.error]:
        error = [s.error for s in measured]
        label = "relative error of a forecast"
        top.plot([s.ordinal for s in measured], error, ".", color="#009E73", label=label)
    if lowest := [v for s in report.steps for v in (s.score, s.error) if v and v > 0]:
        # A budget's last limits are next to nothing; they may leave the picture.
        top.set_yscale("log")
        top.set_ylim(bottom=min(lowest) / 2)
    if top.has_data():
        top.legend(fontsize=8, frameon=False)
    top.set_title(
        f"{report.family}, {report.policy}, {report.rule}: {report.summary()}", fontsize=9
    )
    for step in report.steps:
        strip.bar(step.ordinal, 1, width=0.9, color=COLOURS[step.decision])
    strip.set_yticks([])
    strip.set_xlabel("evaluation   (" + _legend(report) + ")", fontsize=8)
    figure.savefig(path, dpi=120)


def contact_sheet(rows: Sequence[tuple[str, Tensor, Tensor]], path: str | Path) -> None:
    """Reference, cached clip and their amplified difference, below each other, as a PNG.

    Args:
        rows: title, reference and cached clip (each ``[F, 3, H, W]`` in 0..1).
        path: file to write.
    """
    figure = _figure(9, 4.6 * len(rows))
    axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axis, (title, reference, cached) in zip(axes, rows, strict=True):
        picked = np.linspace(0, len(reference) - 1, min(SHEET_FRAMES, len(reference))).round()
        frames = [
            clip[picked].permute(2, 0, 3, 1).flatten(1, 2)
            for clip in (reference, cached, (cached - reference).abs() * SHEET_GAIN)
        ]
        axis.imshow(np.concatenate([f.clamp(0, 1).numpy() for f in frames]))
        axis.set_title(f"{title}\nuncached, cached, difference x {SHEET_GAIN:g}", fontsize=9)
        axis.axis("off")
    figure.savefig(path, dpi=100)


def side_by_side(pairs: Sequence[tuple[Tensor, Tensor]], path: str | Path, fps: int) -> None:
    """Uncached (left) and cached clips (right), one pair a row, as an endless animated WebP.

    Args:
        pairs: clips ``[F, 3, H, W]`` in 0..1, all of one shape.
        path: file to write.
        fps: frames per second.
    """
    from PIL import Image

    frames = [
        np.concatenate([np.concatenate([pixels(a[k]), pixels(b[k])], 1) for a, b in pairs])
        for k in range(len(pairs[0][0]))
    ]
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=others, duration=1000 // fps, loop=0, quality=90)


def profile_plot(profile: Profile, path: str | Path) -> None:
    """Every curve of a profile over the time coordinate, with its spread, as a PNG."""
    figure = _figure(4 * len(profile.mean), 3)
    axes = figure.subplots(1, len(profile.mean), squeeze=False)[0]
    for axis, (name, curve) in zip(axes, profile.mean.items(), strict=True):
        axis.plot(profile.t, curve, color=COLOURS["computed"])
        if name in profile.spread:
            low, high = curve - profile.spread[name], curve + profile.spread[name]
            axis.fill_between(profile.t, low, high, color=COLOURS["forced"], alpha=0.4)
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


def _legend(report: RunReport) -> str:
    words = "blue", "green", "light blue", "orange", "grey"
    names = dict(zip(COLOURS, words, strict=True))
    seen = {step.decision for step in report.steps}
    return ", ".join(f"{colour}: {name}" for name, colour in names.items() if name in seen)
