"""One clip sampled twice at once, without and with the cache, as an animated picture."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import CacheConfig
from ..tiny import SPECS, decode_video, held_out_prompts, load_diffusers
from . import look
from .clips import pixels
from .demo import check_weights, make_scheduler, sample
from .metrics import compare

#: Frames a second of the picture, and frames after both samplers have ended.
FPS, AFTER = 10, 26
SIDE, GAP, STRIP = 300, 16, 20


@dataclass(frozen=True)
class _Sampled:
    """One sampling: clips ``[F, H, W, 3]`` uint8 as foreseen after each step, seconds by then."""

    clips: list[np.ndarray]
    seconds: list[float]
    decisions: list[str]
    final: Tensor

    def at(self, moment: float) -> int:
        """Steps done after ``moment`` seconds."""
        return sum(second <= moment for second in self.seconds)


def animate(
    path: str | Path,
    family: str = "wan",
    budget: float = 0.5,
    steps: int | None = None,
    clip: int = 0,
) -> dict[str, Any]:
    """Write an endless WebP of a held-out clip as it is sampled: uncached left, cached right.

    Both start at once; each step takes as long as it took this process. Shown is the clean clip
    that the model has in mind at each step, and below it the steps that are done.

    Args:
        path: file to write.
        family: a flow model among ``tiny.SPECS``.
        budget: share of the steps to compute, in (0, 1].
        steps: sampling steps; ``None`` takes the family's default (50).
        clip: which held-out prompt, and the seed.

    Returns:
        ``prompt, steps, evaluations, seconds_uncached, seconds_cached`` (of the process's own
        time), ``psnr_mean`` (dB).

    Raises:
        ValueError: the family predicts v, a budget outside (0, 1].
        FileNotFoundError, ImportError: as for ``demo.run_demo``.
    """
    from PIL import Image

    spec = SPECS[family]
    if spec.prediction != "flow":
        raise ValueError(f"the clean clip of {family} is not shown; choose a flow model")
    check_weights(family)
    module, scheduler = load_diffusers(family), make_scheduler(family)
    steps, known = steps or spec.steps, held_out_prompts()
    case = family, module, scheduler, known[clip % len(known)], clip, steps
    config = CacheConfig(budget=budget, aim="same")  # its figure is likeness to the uncached clip
    with _one_thread():
        plain, cached = _sampled(case, None), _sampled(case, config)
    near = compare(plain.final, cached.final)
    whole = plain.seconds[-1]
    frames = [
        _frame(number, plain, cached, whole * (number + 1) / steps, near.psnr_mean)
        for number in range(steps + AFTER)
    ]
    first, *others = [Image.fromarray(frame) for frame in frames]
    options = {"duration": 1000 // FPS, "loop": 0, "quality": 75, "method": 4}
    first.save(path, save_all=True, append_images=others, **options)
    return {
        "prompt": case[3],
        "steps": steps,
        "evaluations": sum(decision != "reused" for decision in cached.decisions),
        "seconds_uncached": whole,
        "seconds_cached": cached.seconds[-1],
        "psnr_mean": near.psnr_mean,
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one thread, so that the thread's own time is all of it."""
    usual = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(usual)


def _sampled(case: tuple, config: CacheConfig | None) -> _Sampled:
    from ..hosts.diffusers import attach

    family, module, scheduler, _, _, steps = case
    clean, seconds = [], []
    started = time.thread_time()

    def saw(x: Tensor, output: Tensor, t: Tensor) -> None:
        seconds.append(time.thread_time() - started)
        clean.append(x - float(t) / 1000 * output)

    cache = nullcontext() if config is None else attach(module, config, scheduler, learn=False)
    with cache as attached:
        latent = sample(*case, saw=saw)
    final = decode_video(family, latent)[0]
    clips = [pixels(decode_video(family, one)[0]) for one in clean]
    clips[-1] = pixels(final)
    if config is None:
        return _Sampled(clips, seconds, ["computed"] * steps, final)
    (report,) = attached.reports
    return _Sampled(clips, seconds, [step.decision for step in report.steps], final)


def _frame(number: int, plain: _Sampled, cached: _Sampled, now: float, psnr: float) -> np.ndarray:
    """``[H, W, 3]`` uint8 of the picture at ``now`` seconds."""
    from PIL import Image, ImageDraw

    width, top = 2 * SIDE + 3 * GAP, 40
    canvas = Image.new("RGB", (width, top + SIDE + 84), look.PAPER)
    draw = ImageDraw.Draw(canvas)
    for side, (title, one) in enumerate((("uncached", plain), ("SenCache", cached))):
        x, done = GAP + side * (SIDE + GAP), one.at(now)
        draw.text((x, 10), title, fill=look.INK, font=look.font(17))
        clip = one.clips[max(done, 1) - 1]
        picture = Image.fromarray(clip[number % len(clip)])
        canvas.paste(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (x, top))
        seconds = min(now, one.seconds[-1])
        draw.text(
            (x + SIDE, 12), f"{seconds:.1f} s", fill=look.INK, font=look.font(15), anchor="ra"
        )
        y = top + SIDE + 10
        draw.rectangle((x, y + STRIP, x + SIDE, y + STRIP), fill=look.GRID)
        shown = [decision if i < done else "" for i, decision in enumerate(one.decisions)]
        look.strip(draw, shown, (x, y, x + SIDE, y + STRIP))
        draw.text((x, y + STRIP + 8), _line(one, done), fill=look.DIM, font=look.font(13))
        if one is cached and done == len(one.decisions):
            ratio = plain.seconds[-1] / cached.seconds[-1]
            words = f"{ratio:.1f}x faster, {psnr:.0f} dB to the uncached clip"
            draw.text((x, y + STRIP + 26), words, fill=look.INK, font=look.font(13))
    return np.asarray(canvas)


def _line(one: _Sampled, done: int) -> str:
    skipped = one.decisions[:done].count("reused")
    return f"{done - skipped} of {len(one.decisions)} steps computed, {skipped} skipped"
