"""The real shapes of four video models, and their networks with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sencache_core import FAMILIES
from sencache_core.model.families import Family
from sencache_core.tiny.model import cog_rotary


@dataclass(frozen=True)
class Shape:
    """One model at one clip size, batch 1.

    Attributes:
        name: what ``--model`` takes.
        title: for people, with the clip's pixels and frames.
        family: key in ``FAMILIES``.
        network: name of the transformer class in diffusers.
        config: keyword arguments of that class, without the number of blocks.
        blocks: number of transformer blocks.
        latents: shape without batch of each modality's latent as ComfyUI samples it.
        grid: tokens of the video latent in (frames, rows, columns).
        text: (tokens, width) of the text embedding.
        source: where these figures are from.
    """

    name: str
    title: str
    family: str
    network: str
    config: dict[str, Any] = field(hash=False)
    blocks: int
    latents: tuple[tuple[int, ...], ...]
    grid: tuple[int, int, int]
    text: tuple[int, int]
    source: str

    @property
    def tokens(self) -> int:
        """Video tokens of one branch."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def row(self) -> Family:
        return FAMILIES[self.family]


_WAN = {"attention_head_dim": 128, "text_dim": 4096}

SHAPES = {
    shape.name: shape
    for shape in (
        Shape(
            name="wan-1.3b",
            title="Wan 2.1 1.3B 832x480x81",
            family="wan",
            network="WanTransformer3DModel",
            config=_WAN | {"num_attention_heads": 12, "ffn_dim": 8960},
            blocks=30,
            latents=((16, 21, 60, 104),),
            grid=(21, 30, 52),
            text=(512, 4096),
            source="transformer/config.json of Wan-AI/Wan2.1-T2V-1.3B-Diffusers; VAE 4 x 8 x 8",
        ),
        Shape(
            name="wan-14b",
            title="Wan 2.1 14B 1280x720x81",
            family="wan",
            network="WanTransformer3DModel",
            config=_WAN | {"num_attention_heads": 40, "ffn_dim": 13824},
            blocks=40,
            latents=((16, 21, 90, 160),),
            grid=(21, 45, 80),
            text=(512, 4096),
            source="transformer/config.json of Wan-AI/Wan2.1-T2V-14B-Diffusers; VAE 4 x 8 x 8",
        ),
        Shape(
            name="ltx-2",
            title="LTX-2 19B 768x512x121 with audio",
            family="ltx2",
            network="LTX2VideoTransformer3DModel",
            config={},
            blocks=48,
            latents=((128, 16, 16, 24), (8, 126, 16)),
            grid=(16, 16, 24),
            text=(1024, 3840),
            source="defaults of diffusers' LTX2VideoTransformer3DModel and LTX2Pipeline: "
            "121 frames at 24 a second, VAE 8 x 32 x 32, 25 audio latents of 8 x 16 a second",
        ),
        Shape(
            name="cogvideox-5b",
            title="CogVideoX 5B 720x480x49",
            family="cogvideox",
            network="CogVideoXTransformer3DModel",
            config={"num_attention_heads": 48, "use_rotary_positional_embeddings": True},
            blocks=42,
            latents=((16, 13, 60, 90),),
            grid=(13, 30, 45),
            text=(226, 4096),
            source="transformer/config.json of zai-org/CogVideoX-5b; VAE 4 x 8 x 8",
        ),
    )
}


class Network:
    """A model's network with one block of random weights, bfloat16 as ``from_pretrained`` loads it.

    Attributes:
        shape: what it is a network of.
        module: the diffusers transformer.
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
        self.module: nn.Module = module.eval().requires_grad_(False)
        self._name = shape.row.diffusers_blocks
        self.block: nn.Module = self._blocks[0]

    @property
    def _blocks(self) -> nn.ModuleList:
        return getattr(self.module, self._name)

    def stack(self, blocks: list[nn.Module]) -> None:
        """Replace the block stack. The same module may stand in it many times."""
        setattr(self.module, self._name, nn.ModuleList(blocks))

    def call(self, frames: int | None = None) -> Callable[[], Any]:
        """A call of the network for one branch, ready to be timed.

        Args:
            frames: latent frames of the video; ``None``: those of the real shape.
        """
        kwargs = _INPUTS[self.shape.family](self, frames or self.shape.grid[0])
        return lambda: self.module(**kwargs, return_dict=False)

    def noise(self, *size: int) -> Tensor:
        return torch.randn(1, *size, device=self.device, dtype=torch.bfloat16)


def _wan(network: Network, frames: int) -> dict[str, Any]:
    channels, _, height, width = network.shape.latents[0]
    return {
        "hidden_states": network.noise(channels, frames, height, width),
        "timestep": torch.full((1,), 500.0, device=network.device),
        "encoder_hidden_states": network.noise(*network.shape.text),
    }


def _ltx2(network: Network, frames: int) -> dict[str, Any]:
    (channels, _, height, width), (audio, length, bins) = network.shape.latents
    return {
        "hidden_states": network.noise(frames * height * width, channels),
        "audio_hidden_states": network.noise(length, audio * bins),
        "encoder_hidden_states": network.noise(*network.shape.text),
        "audio_encoder_hidden_states": network.noise(*network.shape.text),
        "timestep": torch.full((1,), 500.0, device=network.device),
        "num_frames": frames,
        "height": height,
        "width": width,
        "audio_num_frames": length,
    }


def _cogvideox(network: Network, frames: int) -> dict[str, Any]:
    channels, _, height, width = network.shape.latents[0]
    grid = network.shape.grid
    return {
        "hidden_states": network.noise(frames, channels, height, width),
        "timestep": torch.full((1,), 500, device=network.device),
        "encoder_hidden_states": network.noise(*network.shape.text),
        "image_rotary_emb": cog_rotary(frames, *grid[1:], device=network.device),
    }


_INPUTS = {"wan": _wan, "ltx2": _ltx2, "cogvideox": _cogvideox}
