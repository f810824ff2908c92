"""Uncached clips, noted call by call, and the same calls with some blocks replaced."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.case import Case

#: What a block added to each of its streams.
Deltas = tuple[Tensor, ...]


@dataclass(frozen=True)
class Run:
    """An uncached clip.

    Attributes:
        calls: for each step the keyword arguments of each call of the transformer.
        outputs: ``[steps, 2, entries]`` float32, conditional and unconditional.
    """

    calls: tuple[tuple[dict[str, Any], ...], ...]
    outputs: Tensor


def record(case: Case, prompt: str, seed: int) -> Run:
    """Sample a clip and note what the transformer was asked and what it answered."""
    seen: list[tuple[dict[str, Any], Tensor]] = []

    def note(module: nn.Module, args: tuple, kwargs: dict[str, Any], out: tuple[Tensor]) -> None:
        assert not args, "a positional argument would be lost"
        seen.append((kwargs, out[0]))

    hook = case.model.module.register_forward_hook(note, with_kwargs=True)
    try:
        case.sample(prompt, seed)
    finally:
        hook.remove()
    each = len(seen) // case.regime.steps
    steps = [seen[k : k + each] for k in range(0, len(seen), each)]
    return Run(
        tuple(tuple(kwargs for kwargs, _ in step) for step in steps),
        torch.stack([branches([out for _, out in step]) for step in steps]),
    )


def branches(outs: Sequence[Tensor]) -> Tensor:
    """``[2, entries]``, conditional first, of two calls or of one with [negative, positive]."""
    positive, negative = outs if len(outs) == 2 else reversed(outs[0].chunk(2))
    return torch.stack([positive.flatten(), negative.flatten()])


def times(case: Case) -> np.ndarray:
    """``[steps + 1]`` float64: sigma, or the angle of v-prediction in shares of a right angle.

    The error of an output, times the step in this coordinate, is the error of the latent.
    """
    scheduler = case.host.scheduler
    if case.model.spec.prediction == "flow":
        return scheduler.sigmas.double().numpy()
    alpha = scheduler.alphas_cumprod[scheduler.timesteps].double()
    angles = torch.atan2((1 - alpha).sqrt(), alpha.sqrt()) * 2 / math.pi
    return np.append(angles.numpy(), 0.0)


@contextmanager
def replaced(block: nn.Module, forward: Callable) -> Iterator[None]:
    """A block with another ``forward``, until the end of the context."""
    block.forward = forward
    try:
        yield
    finally:
        del block.forward


@torch.no_grad()
def replay(
    case: Case, calls: Sequence[dict], fresh: range, kept: Sequence[Sequence[Deltas]] = ()
) -> tuple[Tensor, list[list[Deltas]]]:
    """Ask the transformer again, with some blocks replaced by what they added before.

    Args:
        case: whose model is asked.
        calls: of one step.
        fresh: the blocks that run.
        kept: for each call what every block shall add where it does not run.

    Returns:
        ``[2, entries]`` outputs, conditional first; for each call what every block added.
    """
    added: list[Deltas] = []

    def wrapped(i: int, forward: Callable) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            # The hidden state comes first, then the text, which CogVideoX's blocks change, too.
            names = ("hidden_states", "encoder_hidden_states")
            streams = [*args, *(kwargs[name] for name in names if name in kwargs)]
            if i in fresh:
                out = forward(*args, **kwargs)
                outs = out if isinstance(out, tuple) else (out,)
                added.append(tuple(o - s for o, s in zip(outs, streams)))
                return out
            added.append(kept[len(outputs)][i])
            outs = tuple(s + delta for s, delta in zip(streams, added[-1]))
            return outs if len(outs) > 1 else outs[0]

        return run

    blocks, outputs = case.model.blocks, []
    with ExitStack() as stack:
        for i, block in enumerate(blocks):
            stack.enter_context(replaced(block, wrapped(i, block.forward)))
        for kwargs in calls:
            outputs.append(case.model.module(**kwargs)[0])
    n = len(blocks)
    return branches(outputs), [added[i : i + n] for i in range(0, len(added), n)]
