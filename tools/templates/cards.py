"""Draws the pictures of the template page, the icon and the banner.

    python -m tools.templates.cards

needs the extra ``demo``. A card's strip is the plan that its workflow begins with; frames are of
the bundled tiny model, the other pictures are drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

from sencache_core import FAMILIES, CacheConfig, Schedule, flow_sigmas

from . import drawings as drawn
from .catalogue import WORKFLOWS
from .drawings import COMPUTED, DIM, INK, PAPER, font, strip

ROOT = Path(__file__).resolve().parents[2]
SIDE = 512


class Card(NamedTuple):
    """One picture: words, the plan and a drawing within a box, in pixels of twice the size."""

    title: str
    line: str
    mask: str
    accent: str
    draw: drawn.Drawing


def plan(family: str, steps: int, budget: float, sampler: str = "euler", shift: float = 5.0) -> str:
    """``C`` for a computed step and a dot for a skipped one, in the order of the run."""
    schedule = Schedule(flow_sigmas(steps, shift), sampler)
    return str(CacheConfig(budget=budget).plan(FAMILIES[family], schedule))


def cards() -> dict[str, Card]:
    """By the workflow's title."""
    two = plan("wan", 10, 0.7) + plan("wan", 10, 0.5)
    t2v = plan("wan", 30, 0.5, "uni_pc", 8.0)
    made = (
        Card("Start here", "nothing to download", plan("wan", 50, 0.5), COMPUTED, drawn.film),
        Card("Wan 2.1", "text to video", t2v, "#5b9bd5", drawn.scenes("#5b9bd5")),
        Card(
            "Wan 2.1",
            "image to video",
            plan("wan", 20, 0.55, "uni_pc", 8.0),
            "#4aa3a0",
            drawn.from_picture("#4aa3a0"),
        ),
        Card("Wan 2.2", "text to video, two experts", two, "#8a5fb0", drawn.experts),
        Card(
            "Wan 2.1 VACE",
            "from a reference picture",
            plan("wan", 20, 0.6, "uni_pc", 8.0),
            "#c8794f",
            drawn.from_picture("#c8794f", True),
        ),
        Card(
            "LTX-Video",
            "text to video",
            plan("ltx", 30, 0.6),
            "#b5557a",
            drawn.scenes("#b5557a", 4),
        ),
        Card("LTX-2", "video with sound", plan("ltx2", 20, 0.65), "#d0844a", drawn.with_sound),
        Card("CogVideoX", "remove an object", plan("cogvideox", 30, 0.6), "#6a9f58", drawn.removed),
        Card("Draft, then final", "hunt for seeds", plan("wan", 30, 0.25), "#f2c14e", drawn.drafts),
        Card("Compare", "two methods", plan("wan", 50, 0.4), COMPUTED, drawn.versus),
        Card("Calibrate", "a model of your own", plan("wan", 30, 0.5), "#f2c14e", drawn.curve),
    )
    return dict(zip(WORKFLOWS, made, strict=True))


def render(card: Card) -> Image.Image:
    """The upper left corner stays free: ComfyUI puts a label there."""
    side, edge = 2 * SIDE, 72
    image = Image.new("RGB", (side, side), PAPER)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, side, 20), fill=card.accent)
    draw.text((edge, 184), card.title, INK, font(46 if len(card.title) < 14 else 40, True))
    draw.text((edge, 296), card.line, DIM, font(28))
    card.draw(image, (edge, 390, side - edge, 790))
    strip(draw, (edge, 832, side - edge, 892), card.mask)
    count = card.mask.count("C")
    draw.text((edge, 912), f"{count} of {len(card.mask)} steps computed", INK, font(24))
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def icon() -> Image.Image:
    """Square, 400 pixels, read at 32: cells of computed and skipped steps."""
    side = 800
    image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((0, 0, side - 1, side - 1), 144, fill=PAPER)
    heights = (1.0, 0.36, 0.76, 0.36, 0.9)
    wide, left = 92, 102
    for i, height in enumerate(heights):
        x, bottom = left + i * 126, 644
        fill = COMPUTED if height > 0.5 else "#46505f"
        draw.rounded_rectangle((x, bottom - 488 * height, x + wide, bottom), 20, fill=fill)
    return image.resize((400, 400), Image.Resampling.LANCZOS)


def banner() -> Image.Image:
    """21 to 9."""
    wide, high = 2520, 1080
    image = Image.new("RGB", (wide, high), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((140, 140), "SenCache", INK, font(86, True))
    line = "Faster video in ComfyUI: computes the steps that matter,"
    draw.text((140, 392), line, DIM, font(32))
    draw.text((140, 484), "predicts the rest. One slider, met exactly.", DIM, font(32))
    strip(draw, (140, 660, wide - 140, 820), plan("wan", 50, 0.5))
    words = "Wan   ·   LTX-Video   ·   LTX-2   ·   CogVideoX"
    draw.text((140, 880), words, INK, font(30))
    return image.resize((1260, 540), Image.Resampling.LANCZOS)


def main() -> None:
    for title, card in cards().items():
        render(card).save(ROOT / "example_workflows" / f"{title}.jpg", quality=88, optimize=True)
    assets = ROOT / "assets"
    assets.mkdir(exist_ok=True)
    icon().save(assets / "icon.png", optimize=True)
    banner().save(assets / "banner.png", optimize=True)


if __name__ == "__main__":
    main()
