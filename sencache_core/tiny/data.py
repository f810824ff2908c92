"""Procedural clips of moving shapes, and the prompts that describe them.

A prompt has the form ``a <colour> <shape> <motion> on a <tone> <pattern> background``. The words
of the five attributes are disjoint, so a bag of words describes a clip completely. Everything else
(start position, size, speed, phase of the pattern, exact shade) comes from the seed. The seed's
share is narrow on purpose: models this small draw crisp outlines only where the prompt settles
most of the picture.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random

import torch

COLOURS = {
    "red": (0.90, 0.12, 0.12),
    "green": (0.10, 0.75, 0.20),
    "blue": (0.15, 0.25, 0.95),
    "yellow": (0.95, 0.85, 0.10),
    "magenta": (0.90, 0.15, 0.80),
    "cyan": (0.10, 0.80, 0.90),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring", "bar")
MOTIONS = {
    "left": "moving left",
    "right": "moving right",
    "up": "moving up",
    "down": "moving down",
    "diagonally": "moving diagonally",
    "circling": "circling",
    "bouncing": "bouncing",
    "growing": "growing",
    "shrinking": "shrinking",
    "spinning": "spinning",
}
TONES = {"dark": 0.12, "grey": 0.45, "light": 0.82}
PATTERNS = ("plain", "gradient", "striped", "checkered")


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """The five attributes of a clip; each is a key of the tables above."""

    colour: str
    shape: str
    motion: str
    tone: str
    pattern: str

    @property
    def prompt(self) -> str:
        """The text that describes the clip."""
        motion = MOTIONS[self.motion]
        return f"a {self.colour} {self.shape} {motion} on a {self.tone} {self.pattern} background"

    @property
    def triple(self) -> tuple[str, str, str]:
        """(colour, shape, motion): the unit in which prompts are held out of training."""
        return self.colour, self.shape, self.motion


def parse_prompt(prompt: str) -> ClipSpec:
    """Read the attributes out of a prompt; an attribute it does not name gets a default."""
    words = prompt.lower().replace(",", " ").split()

    def pick(table, default):
        return next((word for word in words if word in table), default)

    return ClipSpec(
        pick(COLOURS, "red"),
        pick(SHAPES, "circle"),
        pick(MOTIONS, "right"),
        pick(TONES, "dark"),
        pick(PATTERNS, "plain"),
    )


def _held_out_specs() -> list[ClipSpec]:
    triples = list(itertools.product(COLOURS, SHAPES, MOTIONS))
    rng = random.Random(20250101)
    rng.shuffle(triples)
    # Limits per shape and motion keep the set varied: 24 of 360 triples.
    chosen: list[tuple[str, str, str]] = []
    for triple in triples:
        similar = sum(triple[1] == t[1] for t in chosen), sum(triple[2] == t[2] for t in chosen)
        if similar[0] < 4 and similar[1] < 3:
            chosen.append(triple)
    tones, patterns = list(TONES), list(PATTERNS)
    return [
        ClipSpec(*triple, tones[i % len(tones)], patterns[(i // 3) % len(patterns)])
        for i, triple in enumerate(chosen)
    ]


HELD_OUT = tuple(_held_out_specs())
HELD_OUT_TRIPLES = frozenset(spec.triple for spec in HELD_OUT)


def held_out_prompts() -> list[str]:
    """Prompts whose (colour, shape, motion) never occurs in training: demo and benchmarks."""
    return [spec.prompt for spec in HELD_OUT]


def calibration_prompts(count: int = 24) -> list[str]:
    """``count`` prompts from the training distribution, disjoint from the held-out ones."""
    rng = random.Random(20250202)
    return [random_spec(rng).prompt for _ in range(count)]


def random_spec(rng: random.Random) -> ClipSpec:
    """A random training spec; never one with a held-out (colour, shape, motion)."""
    while True:
        spec = ClipSpec(*(rng.choice(list(t)) for t in (COLOURS, SHAPES, MOTIONS, TONES, PATTERNS)))
        if spec.triple not in HELD_OUT_TRIPLES:
            return spec


def _background(spec: ClipSpec, size: int, rng: random.Random) -> torch.Tensor:
    """[size, size] grey levels in 0..1."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = axis[:, None], axis[None, :]
    level = TONES[spec.tone] + rng.uniform(-0.03, 0.03)
    contrast = 0.11
    if spec.pattern == "gradient":
        angle = 0.5 * math.pi + rng.uniform(-0.3, 0.3)
        wave = (math.cos(angle) * x + math.sin(angle) * y) * 1.4
    elif spec.pattern == "striped":
        phase = rng.uniform(-0.4, 0.4)
        wave = torch.tanh(3 * torch.sin(x * 2 * math.pi + phase)) + 0 * y
    elif spec.pattern == "checkered":
        phase_x, phase_y = rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4)
        wave = torch.tanh(
            4 * torch.sin(x * 2 * math.pi + phase_x) * torch.sin(y * 2 * math.pi + phase_y)
        )
    else:
        wave = torch.zeros(size, size)
    return (level + contrast * wave).expand(size, size).clamp(0, 1)


def _track(motion: str, frames: int, rng: random.Random) -> list[tuple[float, float, float, float]]:
    """Per frame (x, y, radius, angle); the picture spans -1..1, y points down."""
    radius = rng.uniform(0.46, 0.52)
    x0, y0 = rng.uniform(-0.10, 0.10), rng.uniform(-0.10, 0.10)
    reach = rng.uniform(0.40, 0.48)
    phase = rng.uniform(-0.3, 0.3)
    out = []
    for frame in range(frames):
        t = frame / (frames - 1)
        sweep = reach * (2 * t - 1)
        x, y, r, angle = x0, y0, radius, 0.0
        if motion == "left":
            x = -sweep
        elif motion == "right":
            x = sweep
        elif motion == "up":
            y = -sweep
        elif motion == "down":
            y = sweep
        elif motion == "diagonally":
            x, y = sweep, sweep
        elif motion == "circling":
            x = 0.36 * math.cos(phase + 2 * math.pi * t)
            y = 0.36 * math.sin(phase + 2 * math.pi * t)
        elif motion == "bouncing":
            y = 0.4 - 0.75 * abs(math.sin(1.5 * math.pi * t))
        elif motion == "growing":
            r = radius * (0.45 + 0.9 * t)
        elif motion == "shrinking":
            r = radius * (1.35 - 0.9 * t)
        elif motion == "spinning":
            angle = phase + math.pi * t
        out.append((x, y, r, angle))
    return out


def _signed_distance(shape: str, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Distance to the outline of a shape of radius about 1, negative inside."""
    if shape == "circle":
        return torch.sqrt(u * u + v * v) - 0.95
    if shape == "ring":
        return (torch.sqrt(u * u + v * v) - 0.72).abs() - 0.26
    if shape == "square":
        return torch.maximum(u.abs(), v.abs()) - 0.82
    if shape == "triangle":
        side = u.abs() * 0.866 - v * 0.5 - 0.5
        return torch.maximum(side, v - 0.6)
    if shape == "cross":
        a, b = u.abs(), v.abs()
        return torch.minimum(torch.maximum(a - 0.32, b - 1.0), torch.maximum(a - 1.0, b - 0.32))
    if shape == "bar":
        return torch.maximum(u.abs() - 1.05, v.abs() - 0.33)
    raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")


def make_clip(
    spec: ClipSpec | str, family: str = "wan", seed: int = 0, size: tuple[int, int] | None = None
) -> torch.Tensor:
    """Render one clip.

    Args:
        spec: the attributes, or a prompt to read them from.
        family: "wan", "ltx" or "cogvideox"; gives the default clip size.
        seed: start position, size, speed, shade.
        size: (frames, pixels per side), overrides ``family``.

    Returns:
        float32 tensor ``[frames, 3, side, side]`` in 0..1.
    """
    if isinstance(spec, str):
        spec = parse_prompt(spec)
    if size is None:
        from .specs import SPECS

        size = SPECS[family].frames, SPECS[family].pixels
    frames, side = size
    rng = random.Random(f"{seed}|{spec.prompt}")
    background = _background(spec, side, rng)
    shade = rng.uniform(0.92, 1.0)
    colour = torch.tensor(COLOURS[spec.colour]) * shade
    track = torch.tensor(_track(spec.motion, frames, rng), dtype=torch.float32)
    x, y, radius, angle = (column[:, None, None] for column in track.unbind(1))
    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    dx, dy = (axis[None, None, :] - x) / radius, (axis[None, :, None] - y) / radius
    if spec.motion == "spinning":
        cos, sin = torch.cos(angle), torch.sin(angle)
        dx, dy = cos * dx + sin * dy, cos * dy - sin * dx
    distance = _signed_distance(spec.shape, dx, dy) * radius
    cover = (0.5 - distance * (side / 2)).clamp(0, 1)[:, None]
    return background * (1 - cover) + colour[None, :, None, None] * cover
