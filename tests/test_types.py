import math

import pytest
import torch
from toys import noise

from sencache_core.types import (
    ALL,
    FORCED,
    NONE,
    SKETCH_SIZE,
    Decision,
    Reason,
    Step,
    displacement,
    rms,
    sketch,
)


def test_rms_is_the_largest_over_the_batch():
    value = torch.stack([torch.full((2, 3), 1.0), torch.full((2, 3), -4.0)])
    assert rms(value).item() == pytest.approx(4.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rms_of_low_precision_is_summed_in_float32(dtype):
    value = torch.full((1, 70_000), 300.0, dtype=dtype)  # squares overflow fp16
    assert rms(value).dtype == torch.float32
    assert rms(value).item() == pytest.approx(300.0)


def test_sketch_copies_and_keeps_small_latents_whole():
    x = noise(2, 4, 5, 6)
    copy = sketch(x)
    assert copy.shape == (2, 120)
    x.zero_()
    assert copy.abs().sum() > 0


@pytest.mark.parametrize("numel", [SKETCH_SIZE, 2 * SKETCH_SIZE, 5 * SKETCH_SIZE + 3])
def test_sketch_of_large_latents_is_bounded_and_true(numel):
    x = noise(1, numel) * 3
    kept = sketch(x)
    assert SKETCH_SIZE / 2 <= kept.shape[1] <= 1.5 * SKETCH_SIZE
    assert rms(kept).item() == pytest.approx(rms(x).item(), rel=0.02)


def test_sketch_accepts_strided_input():
    x = noise(2, 6, 4).transpose(1, 2)
    assert not x.is_contiguous()
    assert torch.equal(sketch(x), x.reshape(2, -1))


def test_displacement_takes_the_worse_modality():
    video, audio = noise(1, 50), noise(1, 9)
    moved = displacement((video + 0.1, audio + 0.7), (video, audio))
    assert float(moved) == pytest.approx(0.7, rel=1e-5)


def test_displacement_of_different_modality_counts_is_an_error():
    with pytest.raises(ValueError, match="zip"):
        displacement((noise(1, 5),), (noise(1, 5), noise(1, 5)))


def test_share_counts_steps_not_noise():
    step = Step(x=(), moved=math.nan, sigma=0.9, t=0.9, index=5, num_steps=20, ordinal=7)
    assert step.share == 0.25


def test_reasons_are_distinct_words():
    assert len({reason.value for reason in Reason}) == len(Reason)
    assert Reason.WITHIN not in FORCED
    assert Reason.SCHEDULED_COMPUTE not in FORCED


def test_values_are_frozen():
    with pytest.raises(AttributeError):
        Decision(ALL, Reason.FIRST).compute = NONE
