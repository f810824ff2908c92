"""What the cards show, each drawn into a box of an image twice as large as it will be."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFont

from sencache_core.tiny import decode_video, load_diffusers, sample

PAPER, INK, DIM = "#14161b", "#f2f4f8", "#9aa3b2"
COMPUTED, SKIPPED = "#5b9bd5", "#2b313c"
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
CIRCLE = "a red circle moving left on a dark striped background"

Draw = ImageDraw.ImageDraw
Box = tuple[float, float, float, float]
Drawing = Callable[[Image.Image, tuple[int, int, int, int]], None]


def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(FONTS / f"DejaVuSans{'-Bold' if bold else ''}.ttf", 2 * size)


@cache
def frames() -> list[Image.Image]:
    """A clip of the bundled tiny Wan model."""
    torch.set_num_threads(1)
    latents = sample("wan", load_diffusers("wan"), [CIRCLE], seed=7, steps=30)
    (clip,) = decode_video("wan", latents)
    pixels = (clip.clamp(0, 1) * 255).byte().movedim(1, -1).numpy()
    return [Image.fromarray(frame) for frame in pixels]


def strip(draw: Draw, box: tuple[int, int, int, int], mask: str, color: str = COMPUTED) -> None:
    """One cell a step; a skipped one is dark and low, so that colour is not needed to tell."""
    left, top, right, bottom = box
    wide = (right - left) / len(mask)
    for i, letter in enumerate(mask):
        x = left + i * wide
        high = top if letter == "C" else bottom - (bottom - top) // 3
        fill = color if letter == "C" else SKIPPED
        draw.rectangle((x, high, x + wide * 0.78, bottom), fill=fill)


def film(image: Image.Image, box: tuple[int, int, int, int], count: int = 3) -> None:
    """Frames of the tiny model's clip, side by side."""
    left, top, right, bottom = box
    gap = 20
    side = min((right - left - gap * (count - 1)) // count, bottom - top)
    clip = frames()
    for i in range(count):
        frame = clip[round(i * (len(clip) - 1) / max(count - 1, 1))]
        spot = (left + i * (side + gap), top + (bottom - top - side) // 2)
        image.paste(frame.resize((side, side), Image.Resampling.LANCZOS), spot)


def _frame(draw: Draw, box: Box, accent: str) -> None:
    draw.rounded_rectangle(box, 20, fill="#20252e", outline=accent, width=6)


def _hills(draw: Draw, box: Box, accent: str, at: float) -> None:
    """A scene with a sun at a share ``at`` of its way."""
    left, top, right, bottom = box
    wide, high, r = right - left, bottom - top, (bottom - top) * 0.12
    x, y = left + r + 12 + (wide - 2 * r - 24) * at, top + high * 0.3
    draw.ellipse((x - r, y - r, x + r, y + r), fill="#f2c14e")
    inner, floor = 8, bottom - 8
    peaks = [(0.0, 1.0), (0.28, 0.5), (0.5, 0.75), (0.75, 0.42), (1.0, 1.0)]
    points = [
        (min(max(left + wide * px, left + inner), right - inner), min(top + high * py, floor))
        for px, py in peaks
    ]
    draw.polygon(points, fill=accent)


def scenes(accent: str, count: int = 3) -> Drawing:
    """A drawn clip: the sun wanders over the hills."""

    def drawn(image: Image.Image, box: tuple[int, int, int, int]) -> None:
        draw, (left, top, right, bottom) = ImageDraw.Draw(image), box
        gap = 24
        wide = (right - left - gap * (count - 1)) / count
        for i in range(count):
            x = left + i * (wide + gap)
            spot = (x, top + 40, x + wide, bottom - 40)
            _frame(draw, spot, accent)
            _hills(draw, spot, accent, i / max(count - 1, 1))

    return drawn


def from_picture(accent: str, subject: bool = False) -> Drawing:
    """A still picture, an arrow, a clip that begins with it or shows its subject."""

    def drawn(image: Image.Image, box: tuple[int, int, int, int]) -> None:
        draw, (left, top, _, bottom) = ImageDraw.Draw(image), box
        still = (left, top + 80, left + 240, bottom - 80)
        frames = [
            (left + 392 + 68 * i, top + 32 + 24 * i, left + 752 + 68 * i, bottom - 80 + 24 * i)
            for i in range(3)
        ]
        for spot, outline in ((still, INK), *((spot, accent) for spot in frames)):
            _frame(draw, spot, outline)
        arrow(draw, left + 268, (top + bottom) / 2, accent)
        if subject:
            _person(draw, still, accent)
            _person(draw, frames[-1], accent)
        else:
            _hills(draw, still, accent, 0.0)
            _hills(draw, frames[-1], accent, 1.0)

    return drawn


def _person(draw: Draw, box: Box, accent: str) -> None:
    left, top, right, bottom = box
    x, y, r = (left + right) / 2, (top + bottom) / 2, (bottom - top) * 0.16
    draw.ellipse((x - r, y - 2.2 * r, x + r, y - 0.2 * r), fill=accent)
    draw.pieslice((x - 1.9 * r, y, x + 1.9 * r, y + 4 * r), 180, 360, fill=accent)


def arrow(draw: Draw, x: float, y: float, accent: str) -> None:
    draw.rectangle((x, y - 8, x + 60, y + 8), fill=accent)
    tip = [(x + 56, y - 32), (x + 100, y), (x + 56, y + 32)]
    draw.polygon(tip, fill=accent)


def experts(image: Image.Image, box: tuple[int, int, int, int]) -> None:
    """Two models in a row, the first one's picture still rough."""
    draw, (left, top, right, bottom) = ImageDraw.Draw(image), box
    accents, wide = ("#8a5fb0", "#5fb0a0"), 360
    generator = torch.Generator().manual_seed(0)
    for number, accent in enumerate(accents):
        x = left if number == 0 else right - wide
        spot = (x, top + 40, x + wide, bottom - 40)
        _frame(draw, spot, accent)
        if number:
            _hills(draw, spot, accent, 0.7)
            continue
        side, inner = 32, 20
        for row in range(int((spot[3] - spot[1] - 2 * inner) // side)):
            for column in range(int((wide - 2 * inner) // side)):
                grey = int(torch.rand(1, generator=generator) * 150) + 60
                at = (x + inner + column * side, spot[1] + inner + row * side)
                fill = (int(grey * 0.8), int(grey * 0.6), grey)
                draw.rectangle((*at, at[0] + side - 2, at[1] + side - 2), fill=fill)
    arrow(draw, (left + right) / 2 - 50, (top + bottom) / 2, INK)


def with_sound(image: Image.Image, box: tuple[int, int, int, int]) -> None:
    draw, (left, top, right, bottom) = ImageDraw.Draw(image), box
    spot = (left + 140, top, right - 140, bottom - 168)
    _frame(draw, spot, "#d0844a")
    _hills(draw, spot, "#d0844a", 0.6)
    levels = [0.2, 0.5, 0.9, 0.6, 0.3, 0.7, 1.0, 0.5, 0.2, 0.6, 0.8, 0.4, 0.7, 0.3, 0.5, 0.9, 0.6]
    wide, middle = (right - left) / len(levels), bottom - 72
    for i, level in enumerate(levels):
        x, half = left + i * wide, 68 * level
        draw.rounded_rectangle(
            (x + wide * 0.2, middle - half, x + wide * 0.75, middle + half), 10, fill=INK
        )


def removed(image: Image.Image, box: tuple[int, int, int, int]) -> None:
    """A scene in which a dashed outline stands for what is taken out."""
    draw, (left, top, right, bottom) = ImageDraw.Draw(image), box
    spot = (left + 80, top, right - 80, bottom)
    _frame(draw, spot, "#6a9f58")
    _hills(draw, spot, "#6a9f58", 0.85)
    x, y, r = (left + right) / 2, (top + bottom) / 2 + 52, 108
    for start in range(0, 360, 24):
        draw.arc((x - r, y - r, x + r, y + r), start, start + 14, fill=INK, width=12)


def drafts(image: Image.Image, box: tuple[int, int, int, int]) -> None:
    """Many small rough ones, one large."""
    draw, (left, top, right, bottom) = ImageDraw.Draw(image), box
    side, gap = (bottom - top - 40) // 3, 20
    for i in range(9):
        x, y = left + (i % 3) * (side + gap), top + (i // 3) * (side + gap)
        spot = (x, y, x + side, y + side)
        chosen = i == 4
        _frame(draw, spot, "#f2c14e" if chosen else "#596272")
        _hills(draw, spot, "#c06a86" if chosen else "#596272", (i * 0.37) % 1)
    wide = 3 * side + 2 * gap
    arrow(draw, left + wide + 24, (top + bottom) / 2, INK)
    spot = (left + wide + 152, top + 20, right, bottom - 20)
    _frame(draw, spot, "#f2c14e")
    _hills(draw, spot, "#c06a86", 0.48)


def versus(image: Image.Image, box: tuple[int, int, int, int]) -> None:
    """The same frame, by A and by B."""
    draw, (left, top, right, bottom) = ImageDraw.Draw(image), box
    frame, side = frames()[len(frames()) // 2], bottom - top
    for letter, x in (("A", left), ("B", right - side)):
        image.paste(frame.resize((side, side), Image.Resampling.LANCZOS), (x, top))
        r = 52
        spot = (x + side - 2 * r - 16, bottom - 2 * r - 16)
        draw.ellipse((*spot, spot[0] + 2 * r, spot[1] + 2 * r), fill=PAPER)
        draw.text((spot[0] + r, spot[1] + r), letter, INK, font(30, True), "mm")
    draw.text(((left + right) / 2, (top + bottom) / 2), "?", INK, font(44, True), "mm")


def curve(image: Image.Image, box: tuple[int, int, int, int]) -> None:
    """How much the output changes from step to step, as a calibration draws it."""
    draw, (left, top, right, bottom) = ImageDraw.Draw(image), box
    draw.line((left, top, left, bottom, right, bottom), fill=DIM, width=6)
    values = [0.95, 0.62, 0.42, 0.3, 0.22, 0.18, 0.16, 0.16, 0.18, 0.22, 0.3, 0.44, 0.66, 0.86]
    points = [
        (left + (i + 0.5) * (right - left) / len(values), bottom - value * (bottom - top))
        for i, value in enumerate(values)
    ]
    draw.line(points, fill="#f2c14e", width=12, joint="curve")
    for x, y in points:
        draw.ellipse((x - 16, y - 16, x + 16, y + 16), fill="#f2c14e")
