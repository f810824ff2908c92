"""Networks of real shapes with random weights, and the time of one full evaluation of theirs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
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


def _wan_shape(name: str, title: str, heads: int, ffn: int, blocks: int, sides: tuple) -> Shape:
    return Shape(
        name=name,
        title=title,
        family="wan",
        network="WanTransformer3DModel",
        config={
            "attention_head_dim": 128,
            "text_dim": 4096,
            "num_attention_heads": heads,
            "ffn_dim": ffn,
        },
        blocks=blocks,
        latents=((16, 21, *sides),),
        grid=(21, sides[0] // 2, sides[1] // 2),
        text=(512, 4096),
        source=f"transformer/config.json of Wan-AI/Wan2.1-T2V-{name[4:].upper()}-Diffusers; "
        "VAE 4 x 8 x 8",
    )


_ALL = (
    _wan_shape("wan-1.3b", "Wan 2.1 1.3B 832x480x81", 12, 8960, 30, (60, 104)),
    _wan_shape("wan-14b", "Wan 2.1 14B 1280x720x81", 40, 13824, 40, (90, 160)),
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
SHAPES = {shape.name: shape for shape in _ALL}


class Network:
    """A model's network with one block of random weights, bfloat16 as ``from_pretrained`` loads it.

    Attributes:
        shape: what it is a network of.
        module: the diffusers transformer.
        block: its block.
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
        self._name = shape.row.diffusers_places.blocks
        self.block: nn.Module = getattr(module, self._name)[0]

    def stack(self, blocks: list[nn.Module]) -> None:
        """Replace the block stack. The same module may stand in it many times."""
        setattr(self.module, self._name, nn.ModuleList(blocks))

    def call(self, frames: int | None = None) -> Callable[[], Any]:
        """A call of the network for one branch, ready to be timed.

        Args:
            frames: latent frames of the video; ``None``: those of the real shape.
        """
        kwargs = self._inputs(frames or self.shape.grid[0])
        return lambda: self.module(**kwargs, return_dict=False)

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


def clock_name(device: torch.device) -> str:
    """Which clock :func:`clocked` reads."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return "CPU time of this process" if alone else "wall clock"


def _now(device: torch.device) -> float:
    """Seconds on a clock of unknown start, once the device has done what it was given.

    With one thread on a CPU this is the process's own CPU time, which other processes on a shared
    machine do not lengthen by taking turns.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def clocked(device: torch.device, call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of ``call``, and what it returned."""
    start = _now(device)
    out = call()
    return _now(device) - start, out


@dataclass(frozen=True)
class Full:
    """A full evaluation: the whole network for both branches of guidance.

    Attributes:
        seconds: of both branches; twice the time of one.
        shell: seconds of what is not a block (embeddings, head), of one branch.
        block: seconds of one block, of one branch.
        how: in words, how ``seconds`` came about.
    """

    seconds: float
    shell: float
    block: float
    how: str


def measure(network: Network, blocks: int, patience: float, repeats: int) -> Full:
    """Time a full evaluation.

    One block of the right width stands for all of them. Where its time at the real number of
    tokens would exceed ``patience``, it is read off ``a n + b n^2``, fitted to clips of fewer
    latent frames.

    Args:
        network: the model.
        blocks: blocks to run, at most the model's own number.
        patience: longest time in seconds for one run of ``blocks``.
        repeats: runs of each, of which the median is taken; fewer once ``patience`` is used up.
    """
    shape = network.shape
    blocks, whole = min(blocks, shape.blocks), shape.grid[0]

    def repeated(call: Callable[[], float]) -> float:
        times = [call()]
        while len(times) < repeats and sum(times) < patience:
            times.append(call())
        return statistics.median(times)

    network.stack([])
    call = network.call()
    call()  # warms up
    shell = repeated(lambda: clocked(network.device, call)[0])
    network.stack([network.block] * blocks)
    times: dict[int, float] = {}
    frames = 1
    while True:
        tokens = frames * shape.tokens // whole
        if len(times) >= 3 and fit(times, shape.tokens)[0] * blocks <= patience:
            frames, tokens = whole, shape.tokens
        elif len(times) >= 3 and fit(times, tokens)[0] * blocks > patience:
            break
        run = _block_timer(network, frames, blocks)
        times[tokens] = repeated(run)
        if frames == whole:
            break
        frames = min(2 * frames, whole)
    one = times.get(shape.tokens)
    if one is None:
        one, worst = fit(times, shape.tokens)
        how = (
            f"one of {shape.blocks} blocks extrapolated to {shape.tokens} tokens by a n + b n^2 "
            f"from {', '.join(map(str, list(times)[-3:]))} (fit within {worst:.1%})"
        )
    elif blocks < shape.blocks:
        how = f"one of {shape.blocks} blocks timed {blocks}x at {shape.tokens} tokens"
        how += f", times {shape.blocks}"
    else:
        how = f"all {shape.blocks} blocks timed at {shape.tokens} tokens"
    return Full(2 * (shell + one * shape.blocks), shell, one, how + "; two branches")


def _block_timer(network: Network, frames: int, blocks: int) -> Callable[[], float]:
    """Runs the network on so many latent frames; returns the mean seconds of one block."""
    call, block, forward = network.call(frames), network.block, network.block.forward

    def run() -> float:
        inside = [0.0]

        def timed(*args: Any, **kwargs: Any) -> Any:
            seconds, out = clocked(network.device, lambda: forward(*args, **kwargs))
            inside[0] += seconds
            return out

        block.forward = timed
        try:
            call()
        finally:
            del block.forward
        return inside[0] / blocks

    return run


def fit(times: dict[int, float], tokens: int) -> tuple[float, float]:
    """Seconds at ``tokens`` by ``a n + b n^2``, and the fit's largest relative error.

    Fitted to the three largest clips, relative errors minimised. Neither part may be negative:
    noise at small n must not bend the curve down at the end.
    """
    n, t = (np.array(values, float) for values in zip(*list(times.items())[-3:]))
    both = np.stack([n / t, n * n / t], axis=1)
    best = np.linalg.lstsq(both, np.ones_like(t), rcond=None)[0]
    if best.min() < 0:
        single = [np.linalg.lstsq(both[:, [k]], np.ones_like(t), rcond=None) for k in (0, 1)]
        keep = int(single[1][1].sum() < single[0][1].sum())
        best = np.zeros(2)
        best[keep] = single[keep][0][0]
    worst = float(abs(both @ best - 1).max())
    return float(best @ np.array([tokens, float(tokens) ** 2])), worst
