"""What share of a Wan block's time the text keys and values of cross-attention are.

    python benchmarks/text_keys.py [--model wan-1.3b|wan-14b ...] [--tokens N]

The text is the same at every step, so that a cache could make them once a run. Random weights,
float32, one thread, batch 1. All of a block but these two layers costs the same for each video
token, given all keys: a slice of the tokens is timed against all keys of self-attention, and
multiplied. Modulation, RoPE and residual sums are left out, which makes the share too large.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn.functional import gelu, layer_norm, linear, rms_norm, scaled_dot_product_attention

#: Width, heads and inner width of the feed-forward layer (Wan 2.1's configurations).
MODELS = {"wan-1.3b": (1536, 12, 8960), "wan-14b": (5120, 40, 13824)}
#: Video tokens of 81 frames at 832 x 480: 21 x 30 x 52. Text is padded to 512 tokens.
VIDEO, TEXT = 21 * 30 * 52, 512


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Median time of ``call``, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def measure(name: str, tokens: int) -> tuple[float, float]:
    """Seconds of a block, and of its text keys and values alone."""
    width, heads, inner = MODELS[name]
    square, up = torch.randn(width, width) / width**0.5, torch.randn(inner, width) / width**0.5
    down = torch.randn(width, inner) / inner**0.5
    x, text = torch.randn(1, tokens, width), torch.randn(1, TEXT, width)
    split = lambda y: y.unflatten(-1, (heads, -1)).transpose(1, 2)  # noqa: E731
    project = lambda y: rms_norm(linear(y, square), (width,))  # noqa: E731
    own, other = (split(torch.randn(1, count, width)) for count in (VIDEO, TEXT))

    def attend(y: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        return linear(scaled_dot_product_attention(y, to, to).transpose(1, 2).flatten(2), square)

    def rest() -> None:
        """Of the slice: self-attention, the text's queries and attention, feed-forward."""
        y = layer_norm(x, (width,))
        query, _, _ = split(project(y)), project(y), linear(y, square)
        attend(query, own)
        attend(split(project(layer_norm(x, (width,)))), other)
        linear(gelu(linear(layer_norm(x, (width,)), up), approximate="tanh"), down)

    text_keys = seconds(lambda: (project(text), linear(text, square)), 5)
    return seconds(rest, 3) * VIDEO / tokens + text_keys, text_keys


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=list(MODELS), nargs="+", default=list(MODELS))
    parser.add_argument("--tokens", type=int, default=1170, help="video tokens timed (1170)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        for name in arguments.model:
            block, keys = measure(name, arguments.tokens)
            print(f"{name}: {block:.1f} s a block, {keys:.3f} s ({keys / block:.3%}) text keys")


if __name__ == "__main__":
    main()
