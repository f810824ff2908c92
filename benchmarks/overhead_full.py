"""The time of one full evaluation, measured as far as the machine allows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.overhead_shapes import Network


@dataclass(frozen=True)
class Full:
    """A full evaluation: the whole network for both branches of guidance.

    Attributes:
        seconds: of both branches; twice the time of one.
        shell: seconds of what is not a block (embeddings, head), of one branch.
        block: seconds of one block, of one branch.
        blocks_timed: blocks that ran; the rest is multiplied.
        how: in words, how ``seconds`` came about.
    """

    seconds: float
    shell: float
    block: float
    blocks_timed: int
    how: str


def clock_name(device: torch.device) -> str:
    """Which clock :func:`now` reads."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return "CPU time of this process" if alone else "wall clock"


def now(device: torch.device) -> float:
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
    """Seconds of ``call``, see :func:`now`, and what it returned."""
    start = now(device)
    out = call()
    return now(device) - start, out


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
    shape, device = network.shape, network.device
    blocks = min(blocks, shape.blocks)
    network.stack([])
    shell = _median(device, network.call(), patience, repeats)
    network.stack([network.block] * blocks)
    times: dict[int, float] = {}
    frames = 1
    while shape.grid[0] not in times:
        tokens = frames * shape.tokens // shape.grid[0]
        if len(times) >= 3 and _fit(times, shape.tokens)[0] * blocks <= patience:
            frames, tokens = shape.grid[0], shape.tokens
        elif len(times) >= 3 and _fit(times, tokens)[0] * blocks > patience:
            break
        times[tokens] = _block_time(network, frames, blocks, patience, repeats)
        if frames == shape.grid[0]:
            break
        frames = min(2 * frames, shape.grid[0])
    one = times.get(shape.tokens)
    how = f"one of {shape.blocks} blocks timed {blocks}x at {shape.tokens} tokens"
    if one is None:
        one, worst = _fit(times, shape.tokens)
        how = (
            f"one of {shape.blocks} blocks extrapolated to {shape.tokens} tokens by a n + b n^2 "
            f"from {', '.join(map(str, list(times)[-3:]))} (fit within {worst:.1%})"
        )
    elif blocks < shape.blocks:
        how += f", times {shape.blocks}"
    else:
        how = f"all {shape.blocks} blocks timed at {shape.tokens} tokens"
    return Full(2 * (shell + one * shape.blocks), shell, one, blocks, how + "; two branches")


def _block_time(network: Network, frames: int, blocks: int, patience: float, repeats: int) -> float:
    """Median seconds of one block on a clip of ``frames`` latent frames."""
    call, inside = network.call(frames), _Inside(network.block, network.device)
    means, spent = [], 0.0
    while len(means) < repeats and (not means or spent < patience):
        inside.seconds = 0.0
        spent += clocked(network.device, call)[0]
        means.append(inside.seconds / blocks)
    inside.remove()
    return statistics.median(means)


class _Inside:
    """Adds up the time within a module."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.seconds, self._device, self._start = 0.0, device, 0.0
        self._hooks = (
            module.register_forward_pre_hook(self._enter),
            module.register_forward_hook(self._leave),
        )

    def _enter(self, *_: Any) -> None:
        self._start = now(self._device)

    def _leave(self, *_: Any) -> None:
        self.seconds += now(self._device) - self._start

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


def _median(device: torch.device, call: Callable, patience: float, repeats: int) -> float:
    times = [clocked(device, call)[0]]
    while len(times) <= repeats and sum(times) < patience:
        times.append(clocked(device, call)[0])
    return statistics.median(times[1:] or times)  # the first one warms up


def _fit(times: dict[int, float], tokens: int) -> tuple[float, float]:
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
