"""The overhead benchmark: what it counts, what it extrapolates, what it writes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import overhead
from benchmarks.overhead import drive, fit, full_evaluation
from benchmarks.shapes import SHAPES
from sencache_core import CacheConfig, Linear, Quadratic

pytest.importorskip("diffusers", reason="the networks are those of diffusers")

#: The same networks, a few tokens and channels large.
SMALL = {
    "wan-1.3b": replace(
        SHAPES["wan-1.3b"],
        config={
            "num_attention_heads": 1,
            "attention_head_dim": 32,
            "ffn_dim": 64,
            "text_dim": 16,
        },
        latents=((16, 3, 8, 8),),
        grid=(3, 4, 4),
        text=(5, 16),
    ),
    "ltx-2": replace(
        SHAPES["ltx-2"],
        config={
            "num_attention_heads": 2,
            "attention_head_dim": 32,
            "cross_attention_dim": 64,
            "audio_num_attention_heads": 2,
            "audio_attention_head_dim": 16,
            "audio_cross_attention_dim": 32,
            "caption_channels": 16,
        },
        latents=((128, 3, 4, 4), (8, 5, 16)),
        grid=(3, 4, 4),
        text=(5, 16),
    ),
    "cogvideox-5b": replace(
        SHAPES["cogvideox-5b"],
        config={
            "num_attention_heads": 1,
            "text_embed_dim": 16,
            "max_text_seq_length": 5,
            "use_rotary_positional_embeddings": True,
        },
        latents=((16, 3, 8, 8),),
        grid=(3, 4, 4),
        text=(5, 16),
    ),
}


def test_shapes_are_consistent():
    for shape in SHAPES.values():
        _, frames, height, width = shape.latents[0]
        patch = height // shape.grid[1]
        assert (frames, height, width) == (
            shape.grid[0],
            shape.grid[1] * patch,
            shape.grid[2] * patch,
        )
    assert SHAPES["wan-1.3b"].tokens == 32_760
    assert SHAPES["wan-14b"].tokens == 75_600


def test_fit_finds_the_curve():
    times = {n: 3e-4 * n + 5e-8 * n * n for n in (100, 1000, 2000, 4000)}
    seconds, worst = fit(times, 50_000)
    assert seconds == pytest.approx(3e-4 * 50_000 + 5e-8 * 50_000**2)
    assert worst < 1e-6


def test_fit_never_bends_down():
    seconds, _ = fit({1000: 1.0, 2000: 1.9, 4000: 3.5}, 100_000)
    assert seconds > 3.5


def at_wan(config: CacheConfig):
    with torch.inference_mode():
        return drive(SHAPES["wan-1.3b"], torch.device("cpu"), config)


def test_steps_and_bytes_are_the_session_s():
    reused, evaluated, held = at_wan(CacheConfig())
    assert len(reused) == len(evaluated) == overhead.STEPS / 2
    assert held / 2 <= 3 * 4 * 16 * 21 * 60 * 104  # three latents a branch
    linear, quadratic = (at_wan(CacheConfig(rule=rule))[2] for rule in (Linear(), Quadratic()))
    assert linear < quadratic


@pytest.mark.parametrize("name", sorted(SMALL))
def test_rows_are_written(name, monkeypatch, tmp_path):
    monkeypatch.setitem(SHAPES, name, SMALL[name])
    threads = torch.get_num_threads()
    try:
        rows = overhead.main(["--model", name, "--json", str(tmp_path / "rows.json")])
    finally:
        torch.set_num_threads(threads)
    assert json.loads((tmp_path / "rows.json").read_text()) == rows
    output, stack = rows
    assert (output["tap"], stack["tap"]) == ("output", "stack")
    for row in rows:
        assert row["reused_share"] == row["reused_seconds"] / row["full_seconds"]
        assert row["bytes_per_branch"] > 0
        assert "one block timed" in row["full_how"]


def test_long_blocks_are_extrapolated_and_said_so():
    shape = replace(SMALL["wan-1.3b"], latents=((16, 64, 8, 8),), grid=(64, 4, 4))
    network = overhead.Network(shape, torch.device("cpu"))
    with torch.inference_mode():
        seconds, shell, how = full_evaluation(network, patience=1e-9)
    assert "extrapolated to 1024 tokens" in how
    assert seconds > shell > 0
