"""What skipping a step costs, as a share of what it saves.

    python benchmarks/overhead.py [--model wan-1.3b ...] [--json FILE] [--device cpu|cuda] ...

For the real shapes of four video models, with random weights, two branches of guidance at batch 1:

* a full evaluation: the diffusers network in bfloat16, of which one block stands for all. Where it
  would take too long, its time is extrapolated, as the JSON's ``full_how`` then says (at Wan 1.3B a
  block extrapolated from 12,480 tokens came out 10 % above the one timed at 32,760);
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
import sys
import time
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.shapes import SHAPES, Network, Shape
from sencache_core import FAMILIES, CacheConfig, Schedule, flow_sigmas
from sencache_core.run.runner import Call
from sencache_core.types import OUTPUT, STACK, Branch

BRANCHES = (Branch("cond", 0), Branch("uncond", 1))
#: Steps of the run that is timed, and timings of which the median is taken.
STEPS, REPEATS = 20, 3


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


def full_evaluation(network: Network, patience: float) -> tuple[float, float, str]:
    """Seconds of a full evaluation of both branches, of its embeddings and head, and how the first
    of them came about, in words.

    One block of the right width stands for all of them. Where its time at the real number of tokens
    would exceed ``patience`` seconds, it is read off ``a n + b n^2``, fitted to clips of fewer
    latent frames.
    """
    shape, whole = network.shape, network.shape.grid[0]
    times: dict[int, float] = {}
    for frames in sorted({whole, *(2**k for k in range(whole.bit_length()))}):
        tokens = frames * shape.tokens // whole
        if len(times) >= 3 and fit(times, tokens)[0] > patience:
            break
        times[tokens] = _seconds(network, frames, 1) - _seconds(network, frames, 0)
    if shape.tokens in times:
        block, how = times[shape.tokens], f"one block timed at {shape.tokens} tokens"
    else:
        block, worst = fit(times, shape.tokens)
        seen = ", ".join(map(str, list(times)[-3:]))
        how = (
            f"one block extrapolated to {shape.tokens} tokens by a n + b n^2 from {seen} (fit "
            f"within {worst:.1%})"
        )
    shell = len(BRANCHES) * _seconds(network, whole, 0)
    seconds = shell + len(BRANCHES) * shape.blocks * block
    return seconds, shell, how + f", times {shape.blocks}; two branches"


def _seconds(network: Network, frames: int, blocks: int) -> float:
    """Of one call; the median, after a call to warm up."""
    call = network.call(frames, blocks)
    return median([clocked(network.device, call)[0] for _ in range(REPEATS + 1)][1:])


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


def drive(
    shape: Shape, device: torch.device, config: CacheConfig, width: int = 0
) -> tuple[list[float], list[float], int]:
    """One sampling run without a model, asked branch by branch as a host asks.

    Only sizes matter for time. Latents and outputs move smoothly, so that the budget is spent as on
    a real sample.

    Args:
        shape: sizes of the latents, which are float32.
        device: where they lie.
        config: what the session is started with; its tap says what is kept.
        width: of the residuals at the stack tap.

    Returns:
        Seconds of each reused step; seconds that each evaluated one takes longer; the bytes held.
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
    reused, evaluated, session = [], [], config.start(family, schedule)
    gc.disable()
    try:
        for t, sigma in zip(times, schedule.sigmas):
            x = tuple(a * t + b * (1 - t) for a, b in ends)
            y = outputs[0] - outputs[1] * t
            level = torch.full((1,), sigma, device=device)
            seconds, _ = clocked(device, lambda x=x, s=level: session.begin(x, s))
            for branch in BRANCHES:
                with Call(session, (branch,)) as call:
                    more, made = clocked(device, lambda c=call, y=y: c.skip(site, y.shape))
                    if made is None:
                        more += clocked(device, lambda c=call, y=y: c.ran(site, y))[0]
                seconds += more
            (evaluated if made is None else reused).append(seconds)
    finally:
        gc.enable()
    return reused, evaluated, session.finish(True).history_bytes


def rows_of(name: str, network: Network, patience: float) -> list[dict]:
    """All rows of one model: seconds, shares of a full evaluation, bytes, latents of float32."""
    shape, device = network.shape, network.device
    latent = 4 * sum(prod(size) for size in shape.latents)
    full, shell, how = full_evaluation(network, patience)
    rows = []
    for tap in (OUTPUT.tap, STACK.tap):
        config = CacheConfig(tap=tap)
        drive(shape, device, config, network.width)  # warms up
        reused, evaluated, held = drive(shape, device, config, network.width)
        seconds = median(reused) + (shell if tap == STACK.tap else 0.0)
        rows.append(
            {
                "model": name,
                "tap": tap,
                "reused_seconds": seconds,
                "reused_share": seconds / full,
                "evaluated_seconds": median(evaluated),
                "bytes_per_branch": held / len(BRANCHES),
                "latents_per_branch": held / len(BRANCHES) / latent,
                "full_seconds": full,
                "full_how": how,
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
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"{args.threads} CPU thread"
    print(f"torch {torch.__version__}, {name}", flush=True)
    rows: list[dict] = []
    for key in args.model:
        with torch.inference_mode():
            own = rows_of(key, Network(SHAPES[key], torch.device(args.device)), args.patience)
        print(f"\n{SHAPES[key].title}: full evaluation {own[0]['full_seconds']:.2f} s")
        print(f"  {own[0]['full_how']}", *map(line, own), sep="\n", flush=True)
        rows += [row | {"device": name, "torch": torch.__version__} for row in own]
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return rows


if __name__ == "__main__":
    main()
