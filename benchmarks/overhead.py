"""What skipping a step costs, as a share of what it saves.

    python benchmarks/overhead.py [--model wan-1.3b ...] [--json FILE] [--device cpu|cuda] ...

For the real shapes of four video models, with random weights, two branches of guidance at batch 1:

* a full evaluation: the diffusers network in bfloat16, of which one block stands for all. Where it
  would take too long, its time is extrapolated; the JSON's ``full_how`` says how it came about
  (at Wan 1.3B a block extrapolated from 12,480 tokens came out 10 % above the one timed at 32,760);
* the output tap, our default: decision and forecast of the real ``Session`` on float32 latents;
* the stack tap: the same on residuals of the block stack, in bfloat16; a reused step there also
  runs the embeddings and the head.

What the host does around the network at every step is left out. On a CPU with one thread matrix
products are slow, on a GPU the launches of small operations: one says little about the other.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[1]))

from sencache_core import FAMILIES, CacheConfig, Schedule, flow_sigmas
from sencache_core.run.runner import Call
from sencache_core.tiny.model import cog_rotary
from sencache_core.types import OUTPUT, STACK, Branch

BRANCHES = (Branch("cond", 0), Branch("uncond", 1))
#: Steps of the run that is timed, and timings of which the median is taken.
STEPS, REPEATS = 20, 3


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
        module: the diffusers transformer.
        block: its block.
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
        self.module: nn.Module = module.eval().requires_grad_(False)
        self._stack = FAMILIES[shape.family].diffusers_places.blocks
        self.block: nn.Module = getattr(module, self._stack)[0]
        self.width = module.config.num_attention_heads * module.config.attention_head_dim

    def shell_seconds(self) -> float:
        """Of a call for one branch without any block; the median, after a call to warm up."""
        setattr(self.module, self._stack, nn.ModuleList())
        call = self._call(self.shape.grid[0])
        call()
        return statistics.median(clocked(self.device, call)[0] for _ in range(REPEATS))

    def block_seconds(self, frames: int) -> float:
        """Of the block in a call for one branch on so many latent frames; the median."""
        setattr(self.module, self._stack, nn.ModuleList([self.block]))
        call, forward, seconds = self._call(frames), self.block.forward, []

        def timed(*args: Any, **kwargs: Any) -> Any:
            own, out = clocked(self.device, lambda: forward(*args, **kwargs))
            seconds.append(own)
            return out

        self.block.forward = timed
        try:
            for _ in range(REPEATS):
                call()
        finally:
            del self.block.forward
        return statistics.median(seconds)

    def _call(self, frames: int) -> Callable[[], Any]:
        kwargs = self._inputs(frames)
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


def clocked(device: torch.device, call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of ``call``, and what it returned.

    With one thread on a CPU these are the process's own seconds, which other processes on a shared
    machine do not lengthen by taking turns.
    """
    own = device.type == "cpu" and torch.get_num_threads() == 1

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.process_time() if own else time.perf_counter()

    start = now()
    out = call()
    return now() - start, out


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


def full_evaluation(network: Network, patience: float) -> Full:
    """Time a full evaluation.

    One block of the right width stands for all of them. Where its time at the real number of tokens
    would exceed ``patience`` seconds, it is read off ``a n + b n^2``, fitted to clips of fewer
    latent frames.
    """
    shape, whole = network.shape, network.shape.grid[0]
    shell, times, frames = network.shell_seconds(), {}, 1
    while frames <= whole:
        tokens = frames * shape.tokens // whole
        if len(times) >= 3 and fit(times, tokens)[0] > patience:
            break
        times[tokens] = network.block_seconds(frames)
        frames = min(2 * frames, whole) if frames < whole else whole + 1
    if shape.tokens in times:
        one, how = times[shape.tokens], f"one block timed at {shape.tokens} tokens"
    else:
        one, worst = fit(times, shape.tokens)
        how = (
            f"one block extrapolated to {shape.tokens} tokens by a n + b n^2 from "
            f"{', '.join(map(str, list(times)[-3:]))} (fit within {worst:.1%})"
        )
    how += f", times {shape.blocks}; two branches"
    return Full(2 * (shell + one * shape.blocks), shell, one, how)


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


@dataclass
class Costs:
    """Seconds by step, both branches together, and bytes.

    Attributes:
        reused: seconds of each reused step, its decision included.
        evaluated: seconds that each evaluated step takes longer, its decision included.
        held: largest number of bytes held between two rounds, all branches together.
    """

    reused: list[float] = field(default_factory=list)
    evaluated: list[float] = field(default_factory=list)
    held: int = 0


def held_bytes(owner: Any) -> int:
    """Bytes of all tensor storages that ``owner`` keeps alive through its own attributes.

    Follows containers and instances, not modules, classes or functions. A view counts with the
    whole storage that it keeps; a storage counts once.
    """
    storages: dict[int, int] = {}
    seen: set[int] = set()
    todo = [owner]
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, type | nn.Module):
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, dict):
            todo += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            todo += value
        elif hasattr(value, "__dict__"):
            todo += vars(value).values()
    return sum(storages.values())


def drive(shape: Shape, device: torch.device, config: CacheConfig, width: int = 0) -> Costs:
    """One sampling run without a model, asked branch by branch as a host asks.

    Only sizes matter for time. Latents and outputs move smoothly, so that the budget is spent as on
    a real sample.

    Args:
        shape: sizes of the latents, which are float32.
        device: where they lie.
        config: what the session is started with; its tap says what is kept.
        width: of the residuals at the stack tap.
    """
    family = FAMILIES[shape.family]
    times = [min(t, 0.999) for t in flow_sigmas(STEPS, shift=5.0)[:-1]]
    schedule = Schedule((*map(family.sigma, times), 0.0), "euler")
    generator = torch.Generator(device).manual_seed(0)

    def noise(*size: int) -> Tensor:
        return torch.randn((1, *size), device=device, generator=generator)

    ends = [(noise(*size), noise(*size)) for size in shape.latents]
    if config.tap == STACK.tap:
        site, outputs = STACK, [noise(shape.tokens, width).bfloat16() for _ in range(2)]
    else:  # as ComfyUI hands several modalities on
        packed = (torch.cat([part.reshape(1, 1, -1) for part in end], -1) for end in zip(*ends))
        site, outputs = OUTPUT, list(packed)
    costs, session = Costs(), config.start(family, schedule)
    gc.disable()
    try:
        for t, sigma in zip(times, schedule.sigmas):
            x = tuple(a * t + b * (1 - t) for a, b in ends)
            y = outputs[0] - outputs[1] * t
            level = torch.full((1,), sigma, device=device)
            seconds, _ = clocked(device, lambda x=x, s=level: session.begin(x, s))
            skipped = []
            for branch in BRANCHES:
                with Call(session, (branch,)) as call:
                    more, made = clocked(device, lambda c=call, y=y: c.skip(site, y.shape))
                    skipped.append(made is not None)
                    if made is None:
                        again, _ = clocked(device, lambda c=call, y=y: c.ran(site, y))
                        more += again
                    seconds += more
            (costs.reused if all(skipped) else costs.evaluated).append(seconds)
            costs.held = max(costs.held, held_bytes(session))
    finally:
        gc.enable()
        session.finish(True)
    return costs


def rows_of(name: str, full: Full, network: Network) -> list[dict]:
    """All rows of one model: seconds, shares of a full evaluation, bytes, latents of float32."""
    shape, device = network.shape, network.device
    latent = 4 * sum(prod(size) for size in shape.latents)
    rows = []
    for tap, shell in ((OUTPUT.tap, 0.0), (STACK.tap, len(BRANCHES) * full.shell)):
        config = CacheConfig(tap=tap)
        drive(shape, device, config, network.width)  # warms up
        costs = drive(shape, device, config, network.width)
        held = costs.held / len(BRANCHES)
        reused = statistics.median(costs.reused) + shell
        rows.append(
            {
                "model": name,
                "tap": tap,
                "reused_seconds": reused,
                "reused_share": reused / full.seconds,
                "evaluated_seconds": statistics.median(costs.evaluated),
                "bytes_per_branch": held,
                "latents_per_branch": held / latent,
                "full_seconds": full.seconds,
                "full_how": full.how,
            }
        )
    return rows


def line(row: dict) -> str:
    """A row as text."""
    reused, evaluated = (1e3 * row[f"{kind}_seconds"] for kind in ("reused", "evaluated"))
    return (
        f"  {row['tap']} tap: a reused step takes {reused:.2f} ms, "
        f"{100 * row['reused_share']:.2g} % of a full evaluation, an evaluated one "
        f"{evaluated:.2f} ms more; {row['latents_per_branch']:.2f} latents are kept per branch"
    )


def main(argv: Sequence[str] | None = None) -> list[dict]:
    """Measure, print, write; returns the JSON's rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a list of objects here")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, of both sides")
    parser.add_argument(
        "--patience", type=float, default=180.0, help="longest time of a block in seconds"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"{args.threads} CPU thread"
    print(f"torch {torch.__version__}, {name}", flush=True)
    rows: list[dict] = []
    with torch.inference_mode():
        for key in args.model:
            network = Network(SHAPES[key], device)
            full = full_evaluation(network, args.patience)
            print(f"\n{SHAPES[key].title}: full evaluation {full.seconds:.2f} s\n  {full.how}")
            own = rows_of(key, full, network)
            print("\n".join(map(line, own)), flush=True)
            rows += [row | {"device": name, "torch": torch.__version__} for row in own]
            del network
            if args.json:
                args.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return rows


if __name__ == "__main__":
    main()
