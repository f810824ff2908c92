"""Deterministic prompt encoder of the tiny demo models: no weights, no tokenizer files.

A prompt is split into lower-case words, stop words are dropped and each remaining word becomes a
fixed Gaussian vector seeded by SHA-256 of the word. The vectors are nearly orthogonal, so the
models can tell the words apart; word order carries no information.
"""

from __future__ import annotations

import functools
import hashlib
import re

import numpy as np
import torch

TOKENS = 8
"""Number of tokens of every encoded prompt."""

DIM = 4096
"""Default width: the text width of T5-XXL, which the three DiT families expect."""

WORD_STD = 0.1
"""Standard deviation of a word vector's entries (the order of magnitude of T5 features)."""

STOP_WORDS = frozenset(
    [
        *("a", "an", "and", "at", "background", "by", "going", "in", "is", "it", "its", "moving"),
        *("of", "on", "over", "shape", "the", "to", "with"),
    ]
)


def content_words(prompt: str) -> list[str]:
    """Lower-case words of ``prompt`` without stop words, in order, at most ``TOKENS`` of them."""
    words = re.findall(r"[^\W_]+", prompt.lower())
    return [word for word in words if word not in STOP_WORDS][:TOKENS]


@functools.lru_cache(maxsize=4096)
def _word_vector(word: str, dim: int) -> torch.Tensor:
    seed = int.from_bytes(hashlib.sha256(word.encode("utf-8")).digest()[:4], "little")
    # RandomState is the one NumPy generator whose stream is frozen across versions.
    values = np.random.RandomState(seed).standard_normal(dim)
    return torch.from_numpy((values * WORD_STD).astype(np.float32))


def encode_prompt(text: str, dim: int = DIM) -> torch.Tensor:
    """Encode a prompt.

    Args:
        text: any text; the models know the words listed in ``data.py``. Other words get a vector
            too (the models ignore them more or less). The empty prompt encodes to zeros, so it
            equals ComfyUI's ConditioningZeroOut.
        dim: width of a token.

    Returns:
        float32 tensor ``[TOKENS, dim]``, zero rows after the last word.
    """
    out = torch.zeros(TOKENS, dim)
    for row, word in enumerate(content_words(text)):
        out[row] = _word_vector(word, dim)
    return out
