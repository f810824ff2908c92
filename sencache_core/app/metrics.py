"""How far two clips are apart, frame by frame. Needs kornia.

PSNR and SSIM measure the distance to one particular sample, not quality: a cached clip that differs
is another sample, not necessarily a worse one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: PSNR of identical frames, which is infinite, and of all that comes near: averages stay finite.
PSNR_CAP = 100.0
#: Side of SSIM's Gaussian window in pixels (Wang et al. 2004, section III-C).
SSIM_WINDOW = 11


@dataclass(frozen=True)
class Comparison:
    """Figures of a clip against its reference.

    Attributes:
        psnr: dB per frame, at most :data:`PSNR_CAP`.
        ssim: per frame, at most 1.
    """

    psnr: tuple[float, ...]
    ssim: tuple[float, ...]

    @property
    def psnr_mean(self) -> float:
        """Mean of the frames' dB, which weighs a bad frame less than the dB of a mean error."""
        return sum(self.psnr) / len(self.psnr)

    @property
    def psnr_worst(self) -> float:
        return min(self.psnr)

    @property
    def ssim_mean(self) -> float:
        return sum(self.ssim) / len(self.ssim)

    @property
    def ssim_worst(self) -> float:
        return min(self.ssim)


def compare(reference: Tensor, clip: Tensor) -> Comparison:
    """PSNR and SSIM of two clips.

    Args:
        reference: ``[F, 3, H, W]`` in 0..1.
        clip: the same shape.

    Raises:
        ImportError: kornia is missing.
        ValueError: the shapes differ or are no clip's.
    """
    figures = psnr(reference, clip), ssim(reference, clip)
    return Comparison(*(tuple(figure.tolist()) for figure in figures))


def psnr(reference: Tensor, clip: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each frame in dB, ``[F]`` float32, capped at 100.

    Arguments and errors as for :func:`compare`.
    """
    metrics = _kornia_metrics()
    pairs = zip(*_checked(reference, clip), strict=True)
    values = torch.stack([metrics.psnr(a, b, 1.0) for a, b in pairs])
    return values.clamp(max=PSNR_CAP)


def ssim(reference: Tensor, clip: Tensor) -> Tensor:
    """Structural similarity of each frame, ``[F]`` float32: mean over pixels and channels.

    Pixels whose window would reach over the border are left out, as in the original and in
    scikit-image. Arguments and errors as for :func:`compare`; frames need 11 pixels a side.
    """
    metrics = _kornia_metrics()
    reference, clip = _checked(reference, clip)
    if min(reference.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs frames of at least {SSIM_WINDOW} pixels a side")
    # Without eps: it would keep identical black frames from scoring 1.
    similarity = metrics.ssim(reference, clip, SSIM_WINDOW, 1.0, 0.0, padding="valid")
    return similarity.mean(dim=(1, 2, 3))


def from_images(images: Tensor) -> Tensor:
    """ComfyUI images ``[F, H, W, 3 or 4]`` as a clip ``[F, 3, H, W]``; alpha is dropped."""
    return images[..., :3].movedim(-1, 1)


def _checked(reference: Tensor, clip: Tensor) -> tuple[Tensor, Tensor]:
    if reference.shape != clip.shape:
        raise ValueError(
            f"the clips differ in shape: {tuple(reference.shape)} and {tuple(clip.shape)}"
        )
    if reference.ndim != 4 or not len(reference):
        raise ValueError(f"expected frames [F, 3, H, W], not {tuple(reference.shape)}")
    return reference.float(), clip.float()


def _kornia_metrics():
    try:
        import kornia.metrics
    except ImportError as error:
        raise ImportError("PSNR and SSIM need kornia: pip install kornia") from error
    return kornia.metrics
