"""Tiny random-weight ComfyUI models of every family, loaded by ComfyUI's own detection.

A family that this ComfyUI lacks raises :class:`Missing`, which :func:`load` turns into a skip.
ComfyUI is imported by the functions only: its fixture must have run before.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

WAN = {
    "dim": 128,
    "ffn_dim": 96,
    "num_heads": 1,
    "num_layers": 3,
    "in_dim": 16,
    "out_dim": 16,
}
LTX = {
    "in_channels": 128,
    "num_attention_heads": 32,
    "attention_head_dim": 4,
    "cross_attention_dim": 128,
    "caption_channels": 4096,
    "num_layers": 3,
}
AV = {
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "cross_attention_dim": 64,
    "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 16,
    "audio_cross_attention_dim": 32,
    "caption_channels": 48,
    "num_layers": 3,
    "connector_num_attention_heads": 1,
    "connector_attention_head_dim": 48,
    "connector_num_layers": 1,
}
COG = {
    "num_attention_heads": 1,
    "attention_head_dim": 64,
    "time_embed_dim": 64,
    "text_embed_dim": 32,
    "num_layers": 3,
    "use_rotary_positional_embeddings": True,
}


class Missing(Exception):
    """This ComfyUI has no such model."""


@dataclass(frozen=True)
class Kind:
    """How to build one kind of model.

    Attributes:
        module, cls: where its network lives in ComfyUI.
        expected: class of ``model_base`` that detection must choose.
        options: of the network's constructor.
        extras: ``(model base) -> cond entries`` besides text.
        shape: latent ``[C, T, H, W]``.
        text: width of the text embedding.
        metadata: the ``transformer`` config of the file, for what detection cannot see.
        replaced: a front end too large for a test, by its attribute and a small stand-in.
    """

    module: str
    cls: str
    expected: str
    options: dict
    extras: Callable[[], dict] = dict
    shape: tuple[int, ...] = (16, 3, 8, 8)
    text: int = 4096
    metadata: dict | None = None
    replaced: tuple[str, Callable[[], torch.nn.Module]] | None = None


def noise(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def _clip_vision(seed: int) -> SimpleNamespace:
    return SimpleNamespace(penultimate_hidden_states=noise(1, 5, 1280, seed=seed))


def _image() -> dict:
    mask = torch.ones(1, 1, 3, 8, 8)
    mask[:, :, 0] = 0
    return {
        "concat_latent_image": noise(1, 16, 3, 8, 8, seed=20),
        "concat_mask": mask,
        "clip_vision_output": _clip_vision(21),
    }


def _vace() -> dict:
    return {
        "vace_frames": [noise(1, 32, 3, 8, 8, seed=22)],
        "vace_mask": [torch.ones(1, 64, 3, 8, 8)],
        "vace_strength": [0.8],
    }


def _s2v() -> dict:
    return {
        "audio_embed": noise(1, 25, 1024, 12, seed=23),
        "reference_latents": [noise(1, 16, 1, 8, 8, seed=24)],
        "reference_motion": noise(1, 16, 19, 8, 8, seed=25),
        "control_video": noise(1, 16, 3, 8, 8, seed=26),
    }


class _Audio(torch.nn.Module):
    """HuMo's audio front end: ``[B, T, 8, 5, C] -> [B, T, 16, 1536]``."""

    def forward(self, audio: Tensor) -> Tensor:
        level = audio.flatten(2).mean(dim=-1)[..., None, None]
        return level * noise(16, 1536, seed=40)


class _Motion(torch.nn.Module):
    """Animate's face front end."""

    def get_motion(self, pixels: Tensor) -> Tensor:
        """``[N, 3, H, W] -> [N, 512]``."""
        return pixels.flatten(1).mean(dim=1, keepdim=True) * noise(512, seed=41)


def _humo() -> dict:
    return {
        "audio_embed": noise(1, 3, 8, 5, 4, seed=27),
        "reference_latents": [noise(1, 16, 1, 8, 8, seed=28)],
    }


def _pose() -> dict:
    return {"pose_video_latent": noise(1, 16, 2, 8, 8, seed=29), **_image()}


def _animate() -> dict:
    return {"face_video_pixels": 1 + noise(1, 3, 8, 4, 4, seed=42), **_pose()}


def _scail() -> dict:
    return {
        "pose_video_latent": noise(1, 16, 3, 4, 4, seed=30),
        "reference_latents": [noise(1, 16, 1, 8, 8, seed=31)],
        "clip_vision_output": _clip_vision(32),
    }


def _dancer() -> dict:
    return {
        "audio_embed": noise(1, 24, 35, seed=33),
        "clip_vision_output_ref": _clip_vision(34),
        "fps": 24.0,
        **_image(),
    }


def _wan(cls: str, expected: str, **kwargs: Any) -> Kind:
    options = WAN | kwargs.pop("options", {})
    module = kwargs.pop("module", "comfy.ldm.wan.model")
    return Kind(module, cls, expected, options, **kwargs)


KINDS: dict[str, Kind] = {
    "wan_t2v": _wan("WanModel", "WAN21"),
    "wan_i2v": _wan(
        "WanModel",
        "WAN21",
        options={"model_type": "i2v", "in_dim": 36},
        extras=_image,
    ),
    "wan_5b": _wan(
        "WanModel",
        "WAN22",
        options={"in_dim": 48, "out_dim": 48},
        shape=(48, 3, 8, 8),
    ),
    "wan_vace": _wan(
        "VaceWanModel",
        "WAN21_Vace",
        options={"num_layers": 4, "vace_layers": 2, "vace_in_dim": 96, "model_type": "vace"},
        extras=_vace,
    ),
    "wan_camera": _wan(
        "CameraWanModel",
        "WAN21_Camera",
        options={"model_type": "camera", "in_dim": 32},
        extras=lambda: {"camera_conditions": noise(1, 24, 3, 64, 64, seed=35)} | _image(),
    ),
    "wan_s2v": _wan(
        "WanModel_S2V",
        "WAN22_S2V",
        options={"model_type": "s2v", "num_layers": 5},
        extras=_s2v,
        shape=(16, 3, 8, 8),
    ),
    "wan_humo": _wan(
        "HumoWanModel",
        "WAN21_HuMo",
        options={"model_type": "humo"},
        extras=_humo,
        replaced=("audio_proj", _Audio),
    ),
    "wan_animate": _wan(
        "AnimateWanModel",
        "WAN22_Animate",
        module="comfy.ldm.wan.model_animate",
        options={"model_type": "animate", "in_dim": 36, "num_layers": 10},
        extras=_animate,
        replaced=("motion_encoder", _Motion),
    ),
    "wan_animate2": _wan(
        "WanAnimate2Model",
        "WAN_Animate2",
        module="comfy.ldm.wan.model_animate2",
        options={"model_type": "animate2", "in_dim": 36},
        extras=_pose,
        metadata={"model_type": "animate2"},
    ),
    "wan_scail": _wan(
        "SCAILWanModel",
        "WAN21_SCAIL",
        options={"model_type": "scail", "in_dim": 20},
        extras=_scail,
    ),
    "wan_dancer": _wan(
        "WanDancerModel",
        "WAN22_WanDancer",
        module="comfy.ldm.wan.model_wandancer",
        options={"model_type": "wandancer", "in_dim": 36},
        extras=_dancer,
    ),
    "wan_causal": _wan(
        "CausalWanModel",
        "WAN21_CausalAR",
        module="comfy.ldm.wan.ar_model",
        metadata={"causal_ar": True},
    ),
    "ltxv": Kind(
        "comfy.ldm.lightricks.model",
        "LTXVModel",
        "LTXV",
        LTX,
        shape=(128, 3, 4, 4),
    ),
    "ltxav": Kind(
        "comfy.ldm.lightricks.av_model",
        "LTXAVModel",
        "LTXAV",
        AV,
        shape=(128, 2, 4, 4),
        text=96,
        metadata=AV,
    ),
    "cog_1_0": Kind(
        "comfy.ldm.cogvideo.model",
        "CogVideoXTransformer3DModel",
        "CogVideoX",
        COG,
        shape=(16, 3, 8, 8),
        text=32,
    ),
    "cog_1_5": Kind(
        "comfy.ldm.cogvideo.model",
        "CogVideoXTransformer3DModel",
        "CogVideoX",
        COG | {"in_channels": 32, "patch_size_t": 2, "ofs_embed_dim": 64},
        extras=lambda: {"concat_latent_image": noise(1, 16, 2, 8, 8, seed=36)},
        shape=(16, 2, 8, 8),
        text=32,
    ),
}

#: Keys of replaced front ends that ComfyUI's detection looks for.
DETECTED = {"audio_proj.audio_proj_glob_1.layer.bias"}

#: Kinds that can be cached.
CACHED = [name for name in KINDS if name != "wan_causal"]


def _fill(shapes: dict[str, torch.Size], seed: int) -> dict[str, Tensor]:
    """Random weights that keep activations near unit scale."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        if len(shape) >= 2 and "modulation" not in name and "table" not in name:
            value /= value[0].numel() ** 0.5
        elif "norm" in name and name.endswith("weight"):
            value = 1 + 0.1 * value
        else:
            value *= 0.1
        out[name] = value
    return out


@functools.cache
def _state(name: str, seed: int, layers: int | None) -> dict[str, Tensor]:
    import comfy.ops

    kind = KINDS[name]
    try:
        cls = getattr(importlib.import_module(kind.module), kind.cls)
    except (ImportError, AttributeError):
        raise Missing(kind.cls) from None
    options = kind.options if layers is None else kind.options | {"num_layers": layers}
    network = cls(
        **options, device="cpu", dtype=torch.float32, operations=comfy.ops.disable_weight_init
    )
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    if kind.replaced:
        front = kind.replaced[0] + "."
        shapes = {k: v for k, v in shapes.items() if not k.startswith(front) or k in DETECTED}
    return _fill(shapes, seed)


def build(
    name: str, seed: int = 0, dtype: torch.dtype | None = None, layers: int | None = None
) -> Any:
    """A fresh ``ModelPatcher``, by default of float32 and the kind's own number of layers.

    Raises:
        Missing: this ComfyUI does not know the model.
    """
    import comfy.sd

    kind = KINDS[name]
    kwargs = {}
    if kind.metadata is not None:
        kwargs["metadata"] = {"config": json.dumps({"transformer": kind.metadata})}
    state = {k: v.clone() for k, v in _state(name, seed, layers).items()}
    options = {"dtype": dtype or torch.float32}
    model = comfy.sd.load_diffusion_model_state_dict(state, model_options=options, **kwargs)
    found = type(model.model).__name__ if model is not None else None
    if found != kind.expected:
        raise Missing(f"{name}: it is taken for {found}")
    if kind.replaced:
        attribute, stand_in = kind.replaced
        setattr(model.model.diffusion_model, attribute, stand_in())
    return model


@dataclass
class Case:
    """A model with what it takes to sample from it."""

    name: str
    model: Any
    positive: list
    negative: list
    latent: Any


def text(name: str, seed: int, tokens: int = 5, **more: Any) -> list:
    """Conditioning ``[[embedding, options]]`` for a kind."""
    kind = KINDS[name]
    options: dict[str, Any] = kind.extras() | more
    if name.startswith("ltx"):
        options.setdefault("attention_mask", torch.ones(1, tokens, dtype=torch.long))
    return [[noise(1, tokens, kind.text, seed=seed, scale=0.5), options]]


def latent(name: str, batch: int = 1) -> Any:
    """Empty latent, nested video and audio for LTX-2."""
    shape = (batch, *KINDS[name].shape)
    if name != "ltxav":
        return torch.zeros(shape)
    import comfy.nested_tensor

    return comfy.nested_tensor.NestedTensor((torch.zeros(shape), torch.zeros(batch, 8, 7, 16)))


@functools.cache
def _shared(name: str) -> Any:
    return build(name)


def load(name: str, batch: int = 1, tokens: tuple[int, int] = (5, 5)) -> Case:
    """A case on a model that all tests share, or a skip where ComfyUI lacks it.

    Args:
        name: key in :data:`KINDS`.
        batch: latents.
        tokens: text length of cond and uncond; of different lengths they cannot be batched.
    """
    try:
        model = _shared(name)
    except Missing as missing:
        pytest.skip(f"this ComfyUI lacks {missing}")
    model.unpatch_model(unpatch_weights=False)  # what an earlier test left until the next run
    return Case(
        name,
        model,
        text(name, 1, tokens[0]),
        text(name, 2, tokens[1]),
        latent(name, batch),
    )


def forget() -> None:
    """Drop the shared models."""
    import comfy.model_management

    _shared.cache_clear()
    comfy.model_management.unload_all_models()
