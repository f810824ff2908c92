"""EasyCache: reuse while the output's change, told from the latent's, stays small."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..forecast.reuse import HoldChange, ReuseRule
from ..types import OUTPUT, Step
from ..words import Message
from .accumulating import Accumulated, Accumulating
from .base import Guards, Preset, RunInfo

PAPER, COMFYUI = "paper", "comfyui"
CHANGE, RULE = "change", "rule"
#: Variances of the filtered rate and of its measurements, and what keeps the gain finite
#: (NaviCache, repository).
NOISE, TINY = 0.05, 1e-8
#: Share of the steps from which on ComfyUI's node reads outputs, at its default.
START = 0.15
#: Longest run of the presets: EasyCache has no limit of its own.
_ANY = 10_000


@dataclass
class EasyState(Accumulated):
    """Run state of :class:`EasyCache`.

    Attributes:
        x: sketches of the latent in the round before.
        at: sketches at the last true evaluation whose output was read.
        output: sketch of that output.
        size: mean absolute value of it, 0-d.
        change: change of the output per change of the latent, 0-d; ``None``: not yet measured.
        spread: variance of the filtered rate.
    """

    x: Sequence[Tensor] = ()
    at: Sequence[Tensor] = ()
    output: Tensor | None = None
    size: Tensor | None = None
    change: Tensor | None = None
    spread: float = 1.0


@dataclass(frozen=True)
class EasyCache(Accumulating):
    """Reuse while ``sum k mean|x_t - x_t-1| / mean|v_c| < threshold`` since the last evaluation.

    Source: Zhou et al., "Less is Enough: Training-Free Video Diffusion Acceleration via
    Runtime-Adaptive Caching" (arXiv 2507.02860); details as in its repository. ``k`` is the
    transformation rate ``mean|v_c - v_b| / mean|x_c - x_b|`` between the last two true evaluations
    ``b`` and ``c``, ``x_t-1`` the latent of the round before, reused or not. What is kept is
    ``v_c - x_c``, to which the latent is added.

    ComfyUI's own EasyCache differs: each round adds the whole way from ``x_c``, so that what was
    passed first counts again and again, and the first output that counts is that at its start.
    NaviCache (arXiv 2606.26795) passes ``k`` through a scalar Kalman filter.

    Unlike the originals: means are taken over a sketch of latents above 65,536 entries (ComfyUI:
    every eighth row and column) and over the leading branch (ComfyUI divides by that of the whole
    batch); no caller's latent is written to.

    Args:
        threshold: largest expected relative change of the output; 0 computes everything.
        origin: whose rule: ``"paper"`` or ``"comfyui"``.
        kalman: filter ``k``.
        payload: what is reused: ``"change"``, as theirs, or the chosen reuse rule's forecast.
    """

    name: ClassVar[str] = "easycache"
    title: ClassVar[str] = "EasyCache (change of the latent)"
    decides: ClassVar[str] = (
        "the change of the latent times the rate at which outputs have changed with it, "
        "accumulated since the last true evaluation, under a budget or a threshold (EasyCache; "
        "ComfyUI's rule and NaviCache's filter as options). It repeats what the model changed"
    )
    tap: ClassVar[str] = OUTPUT.tap
    reads_outputs: ClassVar[bool] = True
    threshold: float = field(
        default=0.05,
        metadata={
            "strictest": 0.0,
            "loose": 0.5,
            "min": 0.0,
            "max": 3.0,
            "step": 0.005,
            "help": "Largest accumulated change. Higher reuses more. The authors': Wan 0.05; "
            "ComfyUI's own node starts at 0.2 of its rule.",
        },
    )
    origin: str = field(
        default=PAPER,
        metadata={
            "choices": (PAPER, COMFYUI),
            "help": "Whose rule. paper: changes add up from step to step. comfyui: as ComfyUI's "
            "own EasyCache, stricter at the same threshold.",
        },
    )
    kalman: bool = field(
        default=False,
        metadata={
            "help": "Smooth the measured rate with a Kalman filter, as NaviCache does: single "
            "measurements count less. Its authors take thresholds of 0.04 to 0.07 on Wan."
        },
    )
    payload: str = field(
        default=CHANGE,
        metadata={
            "choices": (CHANGE, RULE),
            "help": "What is reused. change: the difference of output and latent, as the authors "
            "do. rule: the reuse rule that is chosen elsewhere.",
        },
    )

    def __post_init__(self) -> None:
        if self.threshold < 0:
            raise ValueError(f"threshold must not be negative, as {self.threshold} is")
        self.check_choices()

    @classmethod
    def presets(cls) -> Mapping[str, Preset]:
        ten = Guards(10, 1, _ANY)
        found = {
            "EasyCache Wan": (cls(0.05), ten, "EasyCache, repository, Wan 2.1"),
            "EasyCache as in ComfyUI": (
                cls(0.2, COMFYUI),
                Guards(1, 0, _ANY, start=START, end=0.95),
                "ComfyUI's own node as it stands",
            ),
        }
        for speed, threshold in {"fast": 0.07, "medium": 0.05, "slow": 0.04}.items():
            policy = cls(threshold, kalman=True)
            found[f"NaviCache Wan {speed}"] = policy, ten, "NaviCache, repository, Wan 2.1"
        return {
            name: Preset("wan", policy, HoldChange(), guards, f"{note}: {policy.threshold:g}.")
            for name, (policy, guards, note) in found.items()
        }

    @property
    def rules(self) -> Mapping[str, ReuseRule]:
        return {OUTPUT.tap: HoldChange()} if self.payload == CHANGE else {}

    def misfit(self, run: RunInfo) -> Message | None:
        if self.payload == CHANGE and run.family.prediction not in ("flow", "v"):
            return Message.of("off.change_unknown")
        return None

    def start(self, run: RunInfo) -> EasyState:
        return EasyState(run)

    def grown(self, step: Step, last: Step, state: EasyState) -> float:
        """Expected relative change of the output since the round before, or since ``last``."""
        before, t = state.x if self.origin == PAPER else last.x, state.t
        state.x, state.t = step.x, step.t
        if not _alike(step.x, before):
            return math.inf
        moved = mean_change(before, step.x)
        known = state.change is not None
        grown = state.change * moved / (state.size + TINY) if known else moved
        passed, grown = torch.stack([moved, grown]).tolist()
        if passed == 0:
            return 0.0
        if not known or not math.isfinite(grown):
            return math.inf
        state.added(grown, abs(step.t - t))
        return grown

    def observe(self, step: Step, state: EasyState) -> EasyState:
        state.x, state.t, state.total = step.x, step.t, 0.0
        early = self.origin == COMFYUI and step.share < START
        if step.output is None or early:
            return state
        if _alike(step.x, state.at) and _alike([step.output], [state.output]):
            moved = mean_change(state.at, step.x)
            self._learn(mean_change([state.output], [step.output]) / moved, state)
        state.at, state.output = step.x, step.output
        state.size = step.output.abs().mean()
        return state

    def _learn(self, measured: Tensor, state: EasyState) -> None:
        """Take note of a measured rate."""
        if not self.kalman or state.change is None:
            state.change = measured
            return
        state.spread += NOISE
        gain = state.spread / (state.spread + NOISE + TINY)
        state.change = state.change + gain * (measured - state.change)
        state.spread *= 1 - gain


def _alike(parts: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    shapes = [part.shape for part in parts]
    return bool(shapes) and shapes == [other.shape for other in others if other is not None]


def mean_change(before: Sequence[Tensor], now: Sequence[Tensor]) -> Tensor:
    """``mean|now - before|`` over all entries of all modalities, 0-d, left on the device."""
    total = sum((a - b).abs().sum() for a, b in zip(now, before, strict=True))
    return total / sum(part.numel() for part in now)
