"""Loading and calling the tiny models as diffusers modules."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from .keys import to_diffusers_keys
from .specs import COG_ROPE_SCALE, LTX_FRAME_RATE, LTX_SCALE, SPECS

#: Seconds and pixels from one latent cell of LTX-Video to the next, as ComfyUI assumes.
LTX_ROPE_SCALE = (LTX_SCALE[0] / LTX_FRAME_RATE, *LTX_SCALE[1:])


def weights_path(family: str) -> Path:
    """Path of the bundled fp16 weights, stored under ComfyUI's names."""
    SPECS[family]
    return Path(__file__).parent / "weights" / f"sencache_tiny_{family}.safetensors"


def build(family: str, **sizes: int) -> nn.Module:
    """A freshly initialised diffusers module of the family.

    Args:
        family: "wan", "ltx" or "cogvideox".
        sizes: arguments of its class other than the bundled model's.
    """
    try:
        import diffusers
    except ImportError as error:
        raise ImportError(
            "the tiny models need diffusers and transformers: in the source tree, "
            "pip install -e '.[demo]'"
        ) from error
    spec = SPECS[family]
    return getattr(diffusers, spec.diffusers_class)(**{**spec.config, **sizes})


def load_diffusers(
    family: str, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> nn.Module:
    """The bundled model as a diffusers module.

    Args:
        family: "wan", "ltx" or "cogvideox".
        dtype: parameter dtype; the file holds fp16.
        device: where to put the module.

    Returns:
        The module in eval mode, without gradients.
    """
    module = build(family)
    state_dict = to_diffusers_keys(family, load_file(weights_path(family)))
    module.load_state_dict(state_dict, strict=True)
    if dtype != torch.float32:  # diffusers warns of any cast, even to what is there
        module = module.to(dtype)
    return module.to(device).eval().requires_grad_(False)


def cog_rotary(
    frames: int,
    height: int,
    width: int,
    head_dim: int = 64,
    device=None,
    scale: tuple[float, float, float] = (1.0, COG_ROPE_SCALE, COG_ROPE_SCALE),
):
    """Rotary tables of CogVideoX on a regular grid that starts at 0.

    A quarter of the head's channels encodes time, three eighths each encode rows and columns.

    Args:
        frames: latent frames.
        height: rows of tokens.
        width: columns of tokens.
        head_dim: channels per head.
        device: where to put the tables.
        scale: distance of neighbouring frames, rows and columns; ComfyUI's for CogVideoX 1.0, which
            the bundled model was trained with, unless told otherwise.

    Returns:
        (cos, sin), float32 ``[frames * height * width, head_dim]``.
    """
    sizes = (head_dim // 4, head_dim // 8 * 3, head_dim // 8 * 3)
    counts = zip((frames, height, width), scale, strict=True)
    axes = [torch.arange(n, dtype=torch.float32) * one for n, one in counts]
    positions = torch.meshgrid(*axes, indexing="ij")
    angles = []
    for size, position in zip(sizes, positions):
        frequency = 1.0 / 10000.0 ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
        angles.append(position.flatten()[:, None] * frequency)
    table = torch.cat(angles, dim=1).repeat_interleave(2, dim=1).to(device)
    return table.cos(), table.sin()


def forward(
    family: str,
    module: nn.Module,
    x: torch.Tensor,
    t: float | torch.Tensor,
    context: torch.Tensor,
    rope: tuple | None = None,
) -> torch.Tensor:
    """One raw network call with the same conventions for all families.

    Args:
        family: "wan", "ltx" or "cogvideox".
        module: from :func:`load_diffusers`, or any text-to-video module of the same class.
        x: ``[B, C, F, H, W]`` noisy latent, dtype of the module.
        t: a number or ``[B]``: sigma in 0..1 for the flow families (scaled by 1000 here, as both
            hosts do), integer timestep 0..999 for CogVideoX.
        context: ``[B, tokens, width]`` or ``[tokens, width]`` from ``encode_prompt``.
        rope: ``None``: as for the bundled models. LTX-Video: how far apart latent frames, rows and
            columns are, in seconds and pixels. CogVideoX: the rotary tables (cos, sin).

    Returns:
        The raw output (flow velocity or v), shaped like ``x``.
    """
    batch, channels, frames, height, width = x.shape
    t = torch.as_tensor(t, dtype=torch.float32, device=x.device).reshape(-1).expand(batch)
    if context.ndim == 2:
        context = context.expand(batch, -1, -1)
    context = context.to(device=x.device, dtype=x.dtype)
    if family == "wan":
        return module(
            hidden_states=x, timestep=t * 1000.0, encoder_hidden_states=context, return_dict=False
        )[0]
    if family == "ltx":
        out = module(
            hidden_states=x.flatten(2).transpose(1, 2),
            encoder_hidden_states=context,
            timestep=t * 1000.0,
            encoder_attention_mask=None,
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=rope or LTX_ROPE_SCALE,
            return_dict=False,
        )[0]
        return out.transpose(1, 2).reshape(batch, channels, frames, height, width)
    if family == "cogvideox":
        if rope is None and module.config.use_rotary_positional_embeddings:
            head, patch = module.config.attention_head_dim, module.config.patch_size
            rope = cog_rotary(frames, height // patch, width // patch, head, x.device)
        out = module(
            hidden_states=x.transpose(1, 2),
            encoder_hidden_states=context,
            timestep=t,
            image_rotary_emb=rope,
            return_dict=False,
        )[0]
        return out.transpose(1, 2)
    raise ValueError(f"unknown family {family!r}; known: {', '.join(SPECS)}")
