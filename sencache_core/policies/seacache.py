"""SeaCache: reuse while what the noise leaves visible of the latent has hardly changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..forecast.reuse import Hold, ReuseRule, TaylorSeer
from ..model.families import Family
from ..model.signals import NOISY_LATENT
from ..types import OUTPUT, STACK, Step
from ..words import Message
from .accumulating import PLACE, Accumulated, Accumulating
from .base import Guards, Preset, RunInfo

#: How far noise levels are kept from 0 and 1, and what keeps quotients finite (both: repository).
EDGE, TINY = 1e-6, 1e-16


@dataclass
class SeaState(Accumulated):
    """Run state of :class:`SeaCache`.

    Attributes:
        seen: the filtered latent in the round before, computed or not.
    """

    seen: Tensor | None = None


@dataclass(frozen=True)
class SeaCache(Accumulating):
    """Reuse while ``sum mean|F x_t - F x_t-1| / mean|F x_t-1| < threshold`` since the evaluation.

    Source: "SeaCache" (arXiv 2602.18993), with the latent itself under the filter, as in diffusers'
    ``SeaCacheConfig``. ``F`` is the Wiener filter of a signal whose power falls with the frequency
    as ``S = |f|^-p``, seen at signal ``a`` and noise ``b``: ``a S / (a^2 S + b^2)`` along each of
    frames, rows and columns, multiplied, and divided by its mean (Eq. 7). On flow models
    ``a = 1 - sigma`` and ``b = sigma``; on v-prediction (ours) they are cosine and sine of the
    angle, and latents are taken relative to their RMS. ``x_t-1`` is that of the round before,
    reused or not.

    The paper's own scripts filter the modulated input of the first block, which needs the grid of
    its tokens; that form is not offered. Unlike diffusers': one decision rules all branches.

    Args:
        threshold: largest accumulated change; 0 computes everything.
        line: go on along the line over step numbers through the last two residuals, as diffusers,
            or hold the last.
        power: ``p``; 3 for video.
        place: what is kept: the stack's residual, as theirs, or the model's output.
    """

    name: ClassVar[str] = "seacache"
    title: ClassVar[str] = "SeaCache (filtered change of the latent)"
    decides: ClassVar[str] = (
        "the change of the latent behind a filter for what noise leaves visible, early only coarse "
        "and late all of it, accumulated since the last true evaluation, under a budget or a "
        "threshold (SeaCache). It keeps the block stack's residual; not for LTX-2"
    )
    looks: ClassVar[bool] = True
    enters: ClassVar[bool] = False
    threshold: float = field(
        default=0.25,
        metadata={
            "strictest": 0.0,
            "loose": 0.5,
            "min": 0.0,
            "max": 3.0,
            "step": 0.01,
            "help": "Largest accumulated change. Higher reuses more. Published on Wan: 0.2 to "
            "0.35; diffusers begins at 0.25.",
        },
    )
    line: bool = field(
        default=True,
        metadata={
            "help": "Go on along the line through the last two residuals of the stack, as "
            "diffusers does. Off: the last one is held, as in the paper."
        },
    )
    power: float = field(
        default=3.0,
        metadata={
            "min": 0.5,
            "max": 6.0,
            "step": 0.1,
            "help": "How fast the power of a clean latent is taken to fall with the frequency: 3 "
            "for video, 2 for images. Higher looks at coarser changes.",
        },
    )
    place: str = field(default=STACK.tap, metadata=PLACE)

    def __post_init__(self) -> None:
        if self.threshold < 0 or self.power <= 0:
            raise ValueError("threshold must not be negative, and power must be positive")
        if self.place not in (STACK.tap, OUTPUT.tap):
            raise ValueError(f"place must be {STACK.tap} or {OUTPUT.tap}, not {self.place!r}")

    @classmethod
    def presets(cls) -> Mapping[str, Preset]:
        any_run = Guards(1, 1, 10_000)
        points = {
            "SeaCache as in diffusers": (
                cls(),
                TaylorSeer(1),
                Guards(1, 1, 2),
                "diffusers' defaults",
            ),
            "SeaCache Wan 2.1 slow": (cls(0.2, False), Hold(), any_run, "SeaCache, paper"),
            "SeaCache Wan 2.1 fast": (cls(0.35, False), Hold(), any_run, "SeaCache, paper"),
        }
        return {
            name: Preset("wan", policy, rule, guards, f"{note}: {policy.threshold:g}, on latents.")
            for name, (policy, rule, guards, note) in points.items()
        }

    @property
    def tap(self) -> str:
        return self.place

    @property
    def rules(self) -> Mapping[str, ReuseRule]:
        return {STACK.tap: TaylorSeer(1) if self.line else Hold()}

    def rules_in(self, run: RunInfo) -> Mapping[str, ReuseRule]:
        return {tap: rule.bound(None, run.times) for tap, rule in self.rules.items()}

    def signal(self, family: Family) -> str:
        return NOISY_LATENT

    def misfit(self, run: RunInfo) -> Message | None:
        if run.family.name == "ltx2":
            return Message.of("off.sound")
        if run.family.prediction not in ("flow", "v"):
            return Message.of("off.noise_share_unknown")
        if run.channels is None:
            return Message.of("off.tokens")
        return None

    def start(self, run: RunInfo) -> SeaState:
        return SeaState(run)

    def observe(self, step: Step, state: SeaState) -> SeaState:
        if state.seen is None or step.t != state.t:
            self.grown(step, step, state)
        state.total = 0.0
        return state

    def grown(self, step: Step, last: Step, state: SeaState) -> float:
        """Relative change of the filtered latent since the round before."""
        before, t = state.seen, state.t
        state.seen, state.t = self._filtered(step, state.run), step.t
        if before is None or state.seen is None or before.shape != state.seen.shape:
            return math.inf
        change = _relative(before, state.seen)
        if not math.isfinite(change):
            return math.inf
        state.added(change, abs(step.t - t))
        return change

    def _filtered(self, step: Step, run: RunInfo) -> Tensor | None:
        if step.look is None:
            return None
        x, family = step.look.value.float(), run.family
        if family.scale_free:
            size = x.flatten(1).square().mean(dim=1).sqrt().clamp_min(1e-12)
            x = x / size.reshape(-1, *[1] * (x.ndim - 1))
        if family.prediction == "flow":
            noise = min(max(step.sigma, EDGE), 1 - EDGE)
            signal = 1 - noise
        else:
            angle = min(max(step.t, EDGE), 1 - EDGE) * math.pi / 2
            signal, noise = math.cos(angle), math.sin(angle)
        axes = [axis for axis in range(1, x.ndim) if axis != run.channels]
        return sea_filter(x, axes, signal, noise, self.power)


def _relative(before: Tensor, now: Tensor) -> float:
    """``mean|now - before| / mean|before|`` of each clip ``[B, ...]``, averaged. One sync."""
    changed = (now - before).flatten(1).abs().mean(dim=1)
    return float((changed / (before.flatten(1).abs().mean(dim=1) + TINY)).mean())


def sea_filter(x: Tensor, axes: Sequence[int], signal: float, noise: float, power: float) -> Tensor:
    """``x`` ``[B, ...]`` float32 behind the filter along ``axes``; without axes it is ``x``'s own.

    Args:
        x: latents.
        axes: of frames, rows and columns.
        signal, noise: their shares in ``x``.
        power: with which the clean latent's power falls with the frequency.
    """
    if not axes:
        return x.clone()
    spectrum = torch.fft.fftn(x, dim=tuple(axes))
    for axis in axes:
        frequency = torch.fft.fftfreq(x.shape[axis], device=x.device, dtype=torch.float32)
        clean = 1 / (frequency.abs().pow(power) + TINY)
        gain = signal * clean / (signal**2 * clean + noise**2 + TINY)
        shape = [-1 if k == axis else 1 for k in range(x.ndim)]
        spectrum *= (gain / gain.mean()).reshape(shape)
    return torch.fft.ifftn(spectrum, dim=tuple(axes)).real
