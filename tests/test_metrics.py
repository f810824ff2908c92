"""PSNR and SSIM against the textbook and against scikit-image."""

from __future__ import annotations

import sys

import pytest
import torch

from sencache_core.app import metrics

pytest.importorskip("kornia")


def clip(seed: int = 0, frames: int = 3, side: int = 24) -> torch.Tensor:
    return torch.rand(frames, 3, side, side + 4, generator=torch.Generator().manual_seed(seed))


def test_psnr_of_a_known_error():
    reference = torch.full((2, 3, 16, 16), 0.5)
    changed = reference.clone()
    changed[0] += 0.1
    changed[1] += 0.01
    torch.testing.assert_close(
        metrics.psnr(reference, changed), torch.tensor([20.0, 40.0]), rtol=1e-4, atol=0
    )


def test_identical_clips_are_capped_not_infinite():
    figures = metrics.compare(clip(), clip())
    assert figures.psnr == (metrics.PSNR_CAP,) * 3
    assert figures.ssim == pytest.approx((1.0,) * 3)
    black = torch.zeros(1, 3, 16, 16)
    assert metrics.compare(black, black).ssim_mean == pytest.approx(1.0)


def test_mean_and_worst():
    reference = torch.full((2, 3, 16, 16), 0.5)
    changed = reference.clone()
    changed[0] += 0.1
    figures = metrics.compare(reference, changed)
    assert figures.psnr_worst == pytest.approx(20.0, rel=1e-4)
    assert figures.psnr_mean == pytest.approx((20.0 + metrics.PSNR_CAP) / 2, rel=1e-4)
    assert figures.ssim_worst < figures.ssim_mean < 1


def test_agrees_with_scikit_image():
    skimage = pytest.importorskip("skimage.metrics")
    reference = clip()
    noisy = (reference + 0.2 * clip(seed=1)).clamp(0, 1)
    figures = metrics.compare(reference, noisy)
    for k, (a, b) in enumerate(zip(reference.numpy(), noisy.numpy(), strict=True)):
        assert figures.psnr[k] == pytest.approx(
            skimage.peak_signal_noise_ratio(a, b, data_range=1.0), rel=1e-4
        )
        expected = skimage.structural_similarity(
            a, b, data_range=1.0, channel_axis=0, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )  # fmt: skip
        assert figures.ssim[k] == pytest.approx(expected, abs=1e-4)


def test_images_as_comfyui_has_them():
    images = clip().movedim(1, -1)
    with_alpha = torch.cat([images, torch.rand(*images.shape[:-1], 1)], -1)
    assert torch.equal(metrics.from_images(with_alpha), clip())


@pytest.mark.parametrize("other", [clip(frames=2), clip(side=20)])
def test_different_shapes_are_refused(other):
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.compare(clip(), other)


def test_what_is_no_clip_is_refused():
    with pytest.raises(ValueError, match="expected frames"):
        metrics.compare(clip()[0], clip()[0])
    with pytest.raises(ValueError, match="at least 11 pixels"):
        metrics.compare(clip()[..., :4], clip()[..., :4])


def test_missing_kornia_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia.metrics", None)
    with pytest.raises(ImportError, match="pip install kornia"):
        metrics.compare(clip(), clip())


def test_differences_are_signed_and_have_one_scale():
    reference = torch.full((2, 3, 20, 20), 0.5)
    changed = reference.clone()
    changed[0, :, 0] += 0.2
    changed[1, :, 0] -= 0.1
    first, second = metrics.differences(reference, changed)
    assert first[0].tolist() == pytest.approx([0.2] * 20) and not first[1:].any()
    assert second[0].tolist() == pytest.approx([-0.1] * 20)
    assert metrics.difference_scale(reference, changed) == pytest.approx(0.2)
    assert metrics.difference_scale(reference, reference) == 0


def test_a_few_pixels_do_not_set_the_scale_unless_there_are_no_others():
    reference = torch.full((1, 3, 40, 40), 0.5)
    changed = reference + 0.01
    changed[..., 0, 0] = 1.0
    assert metrics.difference_scale(reference, changed) == pytest.approx(0.01, rel=1e-3)
    alone = reference.clone()
    alone[..., 0, 0] = 1.0
    assert metrics.difference_scale(reference, alone) == pytest.approx(0.5)


def test_amplified_differences_leave_the_clips_as_they_are():
    a, b = clip(), clip(seed=1)
    kept = a.clone(), b.clone()
    shown = metrics.amplified(a, b, 4.0)
    torch.testing.assert_close(shown, ((a - b).abs() * 4).clamp(0, 1))
    assert torch.equal(a, kept[0]) and torch.equal(b, kept[1])
