"""What the core knows of a model: one row a family."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ..types import CROSS, MLP, SELF
from .signals import (
    MODULATED_INPUT,
    TIME_EMBEDDING,
    TIME_PROJECTION,
    FromArgument,
    FromModule,
    FromWithin,
    Signal,
)

#: Smallest time coordinate at which closed-form sensitivities are read (ours): they grow without
#: bound towards 0. The counts of tests/test_paper.py are the same for any value up to 0.2.
T_MIN = 0.03

#: RMS of the velocity of Wan 2.1 1.3B, from the smallest published alpha_t (1.9452 over 2,096,640
#: entries at sigma near 1, sensitivity_wan21.npz): 1.9452 * 1000 / sqrt(2096640).
FLOW_VELOCITY_RMS = 1.343


@dataclass(frozen=True)
class Layer:
    """Where one layer of a block is found.

    Attributes:
        name: of the module in its block whose output is the layer's.
        feeds: of modules that run for its input alone, where it is but a part of the layer.
    """

    name: str
    feeds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Places:
    """Names by which a host's module knows what taps reach.

    Attributes:
        blocks: attribute that holds the block stack, an ``nn.ModuleList``; ``None``: there is none.
        heads: attributes of the modules that read the stack's output, the first one per stream.
        second: argument of a block that holds a second stream, which it returns beside the first;
            empty if there is one only, or both are one argument.
        layers: of a block, by kind: self-attention (over text and video where these share one),
            cross-attention to the text, feed-forward.
        apart: modules of a block that run once a clip, or over few tokens (sound), and so cost next
            to nothing beside those that run over all of the video.
        signals: where what policies may look at is found, by its name.
    """

    blocks: str | None = None
    heads: tuple[str, ...] = ()
    second: str = ""
    layers: Mapping[str, Layer] = field(default_factory=dict)
    apart: tuple[str, ...] = ()
    signals: Mapping[str, Signal] = field(default_factory=dict)

    def count(self, module: object) -> int | None:
        """Blocks of ``module``'s stack, ``None`` if it has none that is known."""
        blocks = getattr(module, self.blocks or "", None)
        return len(blocks) if hasattr(blocks, "__len__") else None


@dataclass(frozen=True)
class Family:
    """Facts of one model family that no policy should have to know.

    Attributes:
        name: key in :data:`FAMILIES`.
        title: name for people.
        prediction: ``"flow"`` (output is the velocity, x = (1 - sigma) x0 + sigma noise), ``"v"``
            (v-prediction, x = cos(phi) x0 + sin(phi) noise, sigma = tan(phi)), or another name,
            of which nothing is derived: its time coordinate is the angle, too.
        comfy_classes: ComfyUI ``model_base`` class names; subclasses inherit the row.
        diffusers_classes: class names of diffusers transformers.
        comfy_places, diffusers_places: what taps reach in either host's module.
        generic: nothing is known of how its outputs behave: no figures of another model fit.
        scale_free: measure latents relative to their own RMS. Samplers feed the v family latents
            of very different scale (ComfyUI's KSampler up to sigma itself), while flow latents
            always have unit scale.
    """

    name: str
    title: str
    prediction: str
    comfy_classes: tuple[str, ...] = ()
    diffusers_classes: tuple[str, ...] = ()
    comfy_places: Places = Places()
    diffusers_places: Places = Places()
    scale_free: bool = False
    generic: bool = False

    def time(self, sigma: float) -> float:
        """Coordinate in 0..1 in which outputs are smooth: sigma, or the angle 2 phi / pi."""
        if self.prediction == "flow":
            return float(sigma)
        return math.atan(sigma) * 2 / math.pi

    def sigma(self, t: float) -> float:
        """Inverse of :meth:`time`. Zero terminal SNR (t = 1) gives a huge but finite sigma."""
        return float(t) if self.prediction == "flow" else math.tan(t * math.pi / 2)

    def prior(self, t: float) -> tuple[float, float, float]:
        """Closed-form ``(alpha_x, alpha_t, speed)`` at ``t`` for a model that knows x0 exactly.

        Derivatives of the prediction by x and by t, each with the other held:
        flow, v = (x - x0) / sigma: alpha_x = 1 / sigma and alpha_t = RMS(v) / sigma;
        v-prediction (Salimans and Ho 2022, appendix D), v = cot(phi) x - x0 / sin(phi) with
        phi = pi t / 2: alpha_x = cot(phi) and alpha_t = (pi / 2) / sin(phi), which is
        1 / sin(phi) per radian. ``speed`` is RMS(dx) per unit of t, pi / 2 for v-prediction on
        data of unit variance. ``tests/test_families.py`` differentiates both.
        """
        t = min(max(t, T_MIN), 1.0)
        if self.prediction == "flow":
            return 1 / t, FLOW_VELOCITY_RMS / t, FLOW_VELOCITY_RMS
        phi = t * math.pi / 2
        return abs(1 / math.tan(phi)), (math.pi / 2) / math.sin(phi), math.pi / 2


_ROWS = (
    Family(
        name="wan",
        title="Wan 2.1 / 2.2",
        prediction="flow",
        comfy_classes=("WAN21",),
        diffusers_classes=(
            "WanTransformer3DModel",
            "WanVACETransformer3DModel",
            "WanAnimateTransformer3DModel",
        ),
        comfy_places=Places(
            "blocks",
            ("head", "head_global"),
            layers={SELF: Layer("self_attn"), CROSS: Layer("cross_attn"), MLP: Layer("ffn")},
            signals={
                TIME_EMBEDDING: FromModule("time_embedding"),
                TIME_PROJECTION: FromArgument("e", 1),
                MODULATED_INPUT: FromWithin("self_attn"),
            },
        ),
        diffusers_places=Places(
            "blocks",
            ("norm_out",),
            layers={SELF: Layer("attn1"), CROSS: Layer("attn2"), MLP: Layer("ffn")},
            signals={
                TIME_EMBEDDING: FromModule("condition_embedder.time_embedder"),
                TIME_PROJECTION: FromArgument("temb", 2),
                MODULATED_INPUT: FromWithin("attn1"),
            },
        ),
    ),
    Family(
        name="ltx",
        title="LTX-Video",
        prediction="flow",
        comfy_classes=("LTXV",),
        diffusers_classes=("LTXVideoTransformer3DModel",),
        comfy_places=Places(
            "transformer_blocks",
            ("norm_out",),
            layers={SELF: Layer("attn1"), CROSS: Layer("attn2"), MLP: Layer("ff")},
            signals={
                TIME_EMBEDDING: FromModule("adaln_single", 1),
                TIME_PROJECTION: FromArgument("timestep", 3),
                MODULATED_INPUT: FromWithin("attn1"),
            },
        ),
        diffusers_places=Places(
            "transformer_blocks",
            ("norm_out",),
            layers={SELF: Layer("attn1"), CROSS: Layer("attn2"), MLP: Layer("ff")},
            signals={
                TIME_EMBEDDING: FromModule("time_embed", 1),
                TIME_PROJECTION: FromArgument("temb", 2),
                MODULATED_INPUT: FromWithin("attn1"),
            },
        ),
    ),
    Family(
        name="ltx2",
        title="LTX-2 audio+video",
        prediction="flow",
        comfy_classes=("LTXAV",),
        diffusers_classes=("LTX2VideoTransformer3DModel",),
        comfy_places=Places(
            "transformer_blocks",
            ("norm_out", "audio_norm_out"),
            layers={SELF: Layer("attn1"), CROSS: Layer("attn2"), MLP: Layer("ff")},
            apart=("audio_attn1", "audio_attn2", "audio_ff"),
            signals={
                TIME_EMBEDDING: FromModule("adaln_single", 1),
                MODULATED_INPUT: FromWithin("attn1"),
            },
        ),
        diffusers_places=Places(
            "transformer_blocks",
            ("norm_out", "audio_norm_out"),
            "audio_hidden_states",
            layers={SELF: Layer("attn1"), CROSS: Layer("attn2"), MLP: Layer("ff")},
            apart=("audio_attn1", "audio_attn2", "audio_ff"),
            signals={
                TIME_EMBEDDING: FromModule("time_embed", 1),
                MODULATED_INPUT: FromWithin("attn1"),
            },
        ),
    ),
    Family(
        name="cogvideox",
        title="CogVideoX",
        prediction="v",
        comfy_classes=("CogVideoX",),
        diffusers_classes=("CogVideoXTransformer3DModel",),
        comfy_places=Places(
            "blocks",
            ("norm_final",),
            "encoder_hidden_states",
            layers={
                SELF: Layer("attn_out", ("q", "k", "v", "norm_q", "norm_k")),
                MLP: Layer("ff_out", ("ff_proj",)),
            },
            apart=("norm1", "norm2"),
            signals={
                TIME_EMBEDDING: FromArgument("temb", 2),
                MODULATED_INPUT: FromWithin("q"),
            },
        ),
        diffusers_places=Places(
            "transformer_blocks",
            ("norm_final",),
            "encoder_hidden_states",
            layers={SELF: Layer("attn1"), MLP: Layer("ff")},
            apart=("norm1", "norm2"),
            signals={
                TIME_EMBEDDING: FromArgument("temb", 2),
                MODULATED_INPUT: FromWithin("attn1"),
            },
        ),
        scale_free=True,
    ),
)

#: Every known family by name. A new one is one more row.
FAMILIES: dict[str, Family] = {row.name: row for row in _ROWS}

#: Any other model: output tap only.
GENERIC = Family(name="generic", title="unknown", prediction="unknown", generic=True)


def family_of(model: object, table: Callable[[Family], tuple[str, ...]]) -> Family | None:
    """Row whose class names (chosen by ``table``) hold the class of ``model`` or of an ancestor.

    The nearest ancestor wins, so that a subclass may have a row of its own.
    """
    for cls in type(model).__mro__:
        for row in FAMILIES.values():
            if cls.__name__ in table(row):
                return row
    return None


def row_of(family: Family | None, prediction: str | None) -> Family:
    """What may be taken for known of a model: its family's row, unless it predicts otherwise.

    Args:
        family: its row; ``None``: unknown.
        prediction: what it predicts, as its host says; ``None``: the host does not say.
    """
    known = family is not None and not family.generic
    if known and prediction in (None, family.prediction):
        return family
    generic = family or GENERIC
    return replace(generic, prediction=prediction or generic.prediction, generic=True)
