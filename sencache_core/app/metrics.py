"""How far two clips are apart, frame by frame. Needs kornia.

PSNR and SSIM measure the distance to one particular sample, not quality: a cached clip that differs
is another sample, not necessarily a worse one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

#: PSNR of identical frames, which is infinite, and of all that comes near: averages stay finite.
PSNR_CAP = 100.0
#: Side of SSIM's Gaussian window in pixels (Wang et al. 2004, section III-C).
SSIM_WINDOW = 11
#: Share of the pixels whose difference is shown without clipping.
_SHOWN = 0.995


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
    # Without eps: it would keep identical black frames from scoring 1. Frame by frame, because the
    # maps of a whole clip take several times its memory.
    pairs = zip(reference.split(1), clip.split(1), strict=True)
    maps = (metrics.ssim(a, b, SSIM_WINDOW, 1.0, 0.0, padding="valid") for a, b in pairs)
    return torch.stack([similarity.mean() for similarity in maps])


def differences(reference: Tensor, clip: Tensor) -> Iterator[Tensor]:
    """How much brighter ``clip`` is: ``[H, W]`` a frame, float32 in -1..1, mean over channels.

    Arguments and errors as for :func:`compare`.
    """
    pairs = zip(*_checked(reference, clip), strict=True)
    return ((b - a).mean(dim=0) for a, b in pairs)


def difference_scale(reference: Tensor, clip: Tensor) -> float:
    """Where a picture of :func:`differences` takes its strongest colour, 0 if there are none.

    One scale for the whole clip, so that frames can be compared: the largest over the frames of
    what 99.5 % of the pixels stay below (ours), so that a few pixels do not make all others pale.
    """
    largest, most = 0.0, 0.0
    for difference in differences(reference, clip):
        sizes = difference.abs().flatten()
        rank = max(1, round(_SHOWN * len(sizes)))
        largest = max(largest, float(sizes.kthvalue(rank).values))
        most = max(most, float(sizes.max()))
    return largest or most


def amplified(reference: Tensor, clip: Tensor, gain: float) -> Tensor:
    """Absolute difference times ``gain``, within 0..1, of the arguments' shape."""
    return clip.sub(reference).abs_().mul_(gain).clamp_(0, 1)


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
