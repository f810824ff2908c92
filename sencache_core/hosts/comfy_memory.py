"""What a cache will keep in memory, reckoned before a run from shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import comfy.model_management
from torch import nn

from ..config import CacheConfig
from ..forecast.reuse import ReuseRule
from ..model.families import GENERIC
from ..model.taps import Tap
from ..run.stats import RunReport
from ..types import OUTPUT
from .comfy_run import model_family

#: Token-sized bf16 residual over fp32 latent at Wan 14B, the largest of the known models: 32,760
#: tokens of 5120 values (320 MiB) over 16 x 21 x 60 x 104 (8 MiB). For networks that do not tell
#: their width.
STACK_RATIO = 40
#: Branches that keep outputs of their own, and outputs that are reckoned with where no rule says.
BRANCHES, OUTPUTS = 2, 3
#: From here on a report says what is kept, unasked (ours).
MUCH = 2**30


@dataclass(frozen=True)
class Kept:
    """What a run keeps of its outputs.

    Attributes:
        tap: where.
        rules: by tap: how many outputs a forecast reads; empty: as many as any may read.
        seen: token-sized tensors of the leading branch that are kept of looks into the model.
        reuses: whether anything is reused at all.
    """

    tap: Tap
    rules: Mapping[str, ReuseRule] = field(default_factory=dict)
    seen: int = 0
    reuses: bool = False

    @classmethod
    def of(cls, config: CacheConfig) -> Kept:
        policy = config.policy
        rules = {config.tap_in_use: config.rule, **policy.rules}
        looks = 2 * (policy.looks and policy.enters)  # at the last evaluation, and now
        return cls(config.tapping, rules, policy.seen or looks, policy.reuses)

    def read(self, tap: str) -> int:
        """Outputs that a forecast at a tap reads."""
        return self.rules[tap].history if tap in self.rules else OUTPUTS


def expected_bytes(kept: Kept, model: Any, shapes: Sequence[Sequence[int]]) -> int:
    """Memory that true outputs will take in a run, in bytes; about, and rather too much.

    Args:
        kept: what is kept.
        model: ComfyUI's ``BaseModel``, whose blocks are counted.
        shapes: of the latent of each modality, ``[B, C, ...]``.
    """
    latent, tap = 4 * sum(prod(shape) for shape in shapes), kept.tap
    if not tap.inside and not kept.seen:
        return BRANCHES * max(OUTPUTS, kept.read(OUTPUT.tap)) * latent
    network, places = model.diffusion_model, (model_family(model) or GENERIC).comfy_places
    blocks = getattr(network, places.blocks or "", None)
    count = len(blocks) if isinstance(blocks, nn.ModuleList) else 0
    one = (_residual(network, blocks, shapes) if count else 0) or STACK_RATIO * latent
    seen = one * kept.seen
    if not tap.inside:
        return seen + BRANCHES * max(OUTPUTS, kept.read(OUTPUT.tap)) * latent
    inside = BRANCHES * kept.read(tap.name) * tap.places(count) * one
    return seen + inside + (0 if tap.whole else BRANCHES * latent)


def _residual(network: Any, blocks: nn.ModuleList, shapes: Sequence[Sequence[int]]) -> int:
    """Bytes of one token-sized tensor; 0: not known of this network, or this latent."""
    layers = (m for m in blocks[0].modules() if isinstance(m, nn.Linear))
    widths = Counter(layer.in_features for layer in layers)
    grids = [shape[2:] for shape in shapes if len(shape) == 5]
    if not widths or not grids:
        return 0
    patch = getattr(network, "patch_size", 1)
    patch = tuple(patch) if isinstance(patch, Sequence) else (1, patch, patch)
    tokens = sum(prod(-(-size // step) for size, step in zip(grid, patch[-3:])) for grid in grids)
    batch, itemsize = shapes[0][0], max(next(network.parameters()).element_size(), 2)
    return batch * tokens * widths.most_common(1)[0][0] * itemsize


def report_memory(
    report: RunReport, kept: Kept, patcher: Any, shapes: Sequence[Sequence[int]]
) -> None:
    """Tell before a run what it will keep, if that is much, and that it may not fit."""
    if not kept.reuses:
        return
    held, tap = expected_bytes(kept, patcher.model, shapes), kept.tap
    room = room_of(patcher)
    if held < min(MUCH, room):
        return
    if held < room:
        report.say("memory.much", held=_gib(held))
        return
    key = "memory.too_much_at_tap" if tap.whole else "memory.too_much_inside"
    report.say(key, held=_gib(held), room=_gib(room))


def room_of(patcher: Any) -> int:
    """Bytes that are free on the model's device, or that its weights can make free."""
    free = comfy.model_management.get_free_memory(patcher.load_device)
    return free + getattr(patcher, "loaded_size", int)()


def _gib(count: int) -> float:
    return round(count / 2**30, 1 if count >= 2**29 else 3)
