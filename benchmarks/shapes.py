"""Video models at the sizes that people run: networks of one block with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from sencache_core import FAMILIES
from sencache_core.tiny.model import cog_rotary


@dataclass(frozen=True)
class Shape:
    """One model at one clip size.

    Attributes:
        title: for people, with the clip's pixels and frames.
        family: key in ``FAMILIES``.
        network: name of the transformer class in diffusers.
        config: keyword arguments of that class, without the number of blocks.
        blocks: number of transformer blocks.
        latents: shape without batch of each modality's latent as ComfyUI samples it.
        grid: tokens of the video latent in (frames, rows, columns).
        text: (tokens, width) of the text embedding.
    """

    title: str
    family: str
    network: str
    config: dict[str, Any] = field(hash=False)
    blocks: int
    latents: tuple[tuple[int, ...], ...]
    grid: tuple[int, int, int]
    text: tuple[int, int]

    @property
    def tokens(self) -> int:
        """Video tokens of one branch."""
        return prod(self.grid)


def _wan(title: str, heads: int, ffn: int, blocks: int, height: int, width: int) -> Shape:
    config = {"num_attention_heads": heads, "attention_head_dim": 128, "ffn_dim": ffn}
    latents, grid = ((16, 21, height, width),), (21, height // 2, width // 2)
    network = "WanTransformer3DModel"
    return Shape(title, "wan", network, config, blocks, latents, grid, (512, 4096))


#: By what ``--model`` takes: transformer/config.json of Wan-AI/Wan2.1-T2V-*-Diffusers and
#: zai-org/CogVideoX-5b, their VAEs 4 x 8 x 8; LTX-2 by the defaults of diffusers' classes (121
#: frames at 24 a second, VAE 8 x 32 x 32, 25 audio latents of 8 x 16 a second).
SHAPES = {
    "wan-1.3b": _wan("Wan 2.1 1.3B 832x480x81", 12, 8960, 30, 60, 104),
    "wan-14b": _wan("Wan 2.1 14B 1280x720x81", 40, 13824, 40, 90, 160),
    "ltx-2": Shape(
        "LTX-2 19B 768x512x121 with audio",
        "ltx2",
        "LTX2VideoTransformer3DModel",
        {},
        48,
        ((128, 16, 16, 24), (8, 126, 16)),
        (16, 16, 24),
        (1024, 3840),
    ),
    "cogvideox-5b": Shape(
        "CogVideoX 5B 720x480x49",
        "cogvideox",
        "CogVideoXTransformer3DModel",
        {"num_attention_heads": 48, "use_rotary_positional_embeddings": True},
        42,
        ((16, 13, 60, 90),),
        (13, 30, 45),
        (226, 4096),
    ),
}


class Network:
    """A model's network with one block of random weights, bfloat16 as ``from_pretrained`` loads it.

    Attributes:
        shape: what it is a network of.
        width: of the residuals of its block stack.
    """

    def __init__(self, shape: Shape, device: torch.device) -> None:
        import diffusers

        torch.manual_seed(0)
        self.shape, self.device = shape, device
        with device:
            module = getattr(diffusers, shape.network)(**shape.config, num_layers=1)
        kept = tuple(module._keep_in_fp32_modules or ())
        for name, parameter in module.named_parameters():
            if not any(part in kept for part in name.split(".")):
                parameter.data = parameter.data.bfloat16()
        self._module: nn.Module = module.eval().requires_grad_(False)
        self._stack = FAMILIES[shape.family].diffusers_places.blocks
        self._block: nn.Module = getattr(module, self._stack)[0]
        self.width = module.config.num_attention_heads * module.config.attention_head_dim

    def call(self, frames: int, blocks: int) -> Callable[[], Any]:
        """A call for one branch on so many latent frames, with one block or none."""
        setattr(self._module, self._stack, nn.ModuleList([self._block] * blocks))
        return partial(self._module, **self._inputs(frames), return_dict=False)

    def _inputs(self, frames: int) -> dict[str, Any]:
        (channels, _, height, width), *others = self.shape.latents
        inputs: dict[str, Any] = {
            "timestep": torch.full((1,), 500.0, device=self.device),
            "encoder_hidden_states": self._noise(*self.shape.text),
        }
        if self.shape.family == "wan":
            return inputs | {"hidden_states": self._noise(channels, frames, height, width)}
        if self.shape.family == "cogvideox":
            grid = frames, *self.shape.grid[1:]
            return inputs | {
                "hidden_states": self._noise(frames, channels, height, width),
                "image_rotary_emb": cog_rotary(*grid, device=self.device),
            }
        audio, length, bins = others[0]
        return inputs | {
            "hidden_states": self._noise(frames * height * width, channels),
            "audio_hidden_states": self._noise(length, audio * bins),
            "audio_encoder_hidden_states": self._noise(*self.shape.text),
            "num_frames": frames,
            "height": height,
            "width": width,
            "audio_num_frames": length,
        }

    def _noise(self, *size: int) -> Tensor:
        return torch.randn(1, *size, device=self.device, dtype=torch.bfloat16)
