"""The benchmark of text keys does the multiplications of a real block of Wan."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import text_keys


def multiplications(call, repeats=0) -> int:
    """In place of the clock."""
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("tokens", [16, 64])
def test_a_block_is_a_block(monkeypatch, tokens):
    diffusers = pytest.importorskip("diffusers.models.transformers.transformer_wan")
    width, heads, inner, video, text = 48, 4, 96, 64, 8
    monkeypatch.setattr(text_keys, "MODELS", {"small": (width, heads, inner)})
    monkeypatch.setattr(text_keys, "VIDEO", video)
    monkeypatch.setattr(text_keys, "TEXT", text)
    monkeypatch.setattr(text_keys, "seconds", multiplications)
    block, keys = text_keys.measure("small", tokens)
    assert keys == 2 * text * width * width
    real = diffusers.WanTransformerBlock(width, inner, heads, "rms_norm_across_heads", True)
    inputs = torch.randn(1, video, width), torch.randn(1, text, width), torch.randn(1, 6, width)
    with torch.no_grad():
        assert block == multiplications(lambda: real(*inputs, None))
