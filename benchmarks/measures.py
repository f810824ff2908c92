"""How far a cached clip is from the uncached clip of the same prompt and seed."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sencache_core.app.metrics import PSNR_CAP, ssim

#: Exponents of MS-SSIM's five scales (Wang et al. 2003), fine to coarse.
MSSSIM_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
#: LPIPS backbones in order of preference, with the start of their file names in torch's hub folder.
LPIPS_BACKBONES = {"alex": "alexnet-", "vgg": "vgg16-", "squeeze": "squeezenet1_1-"}


@dataclass(frozen=True)
class Figures:
    """One clip's distance from its reference.

    Attributes:
        psnr: dB over the whole clip, at most 100; without a codec, of the latents, whose peak is
            then the range of the reference.
        ssim, msssim: means over frames; ``None`` without a codec.
        lpips: mean over frames; ``None`` without a codec or without weights on this machine.
        rms: of the difference of the final latents.
    """

    psnr: float
    ssim: float | None
    msssim: float | None
    lpips: float | None
    rms: float


def measure(
    latent: Tensor, reference: Tensor, clip: Tensor | None, reference_clip: Tensor | None
) -> Figures:
    """Figures of a clip.

    Args:
        latent, reference: final latents ``[1, C, F, H, W]``.
        clip, reference_clip: decoded, ``[F, 3, H, W]`` in 0..1, or ``None``.

    Raises:
        ImportError: the ``bench`` extra is not installed.
        ValueError: the frames are smaller than SSIM's window.
    """
    error = rms(latent - reference)
    if clip is None or reference_clip is None:
        peak = float(reference.max() - reference.min())
        return Figures(psnr(latent, reference, peak), None, None, None, error)
    model, _ = lpips_model()
    return Figures(
        psnr(clip, reference_clip),
        float(ssim(reference_clip, clip).mean()),
        ms_ssim(clip, reference_clip),
        None if model is None else _lpips(model, clip, reference_clip),
        error,
    )


def rms(x: Tensor) -> float:
    """Root of the mean square of all entries."""
    return float(x.double().square().mean().sqrt())


def psnr(clip: Tensor, reference: Tensor, peak: float = 1.0) -> float:
    """``10 log10(peak^2 / mse)`` over all entries, in dB, at most 100."""
    mse = float((clip.double() - reference.double()).square().mean())
    if mse <= 0:
        return PSNR_CAP
    value = float(10 * torch.log10(torch.tensor(peak**2 / mse, dtype=torch.float64)))
    return min(value, PSNR_CAP)


def ms_ssim(clip: Tensor, reference: Tensor) -> float:
    """MS-SSIM, mean over the frames.

    Frames of fewer than 177 pixels a side have no room for all five scales at the usual window of
    11; they get as many as fit (four at 128), with the exponents scaled to the same sum.

    Args:
        clip, reference: ``[F, 3, H, W]`` in 0..1.

    Raises:
        ValueError: not even one scale fits.
    """
    from torchmetrics.functional.image import (
        multiscale_structural_similarity_index_measure as compute,
    )

    side = min(clip.shape[-2:])
    fitting = [n for n in range(1, 6) if side // max(1, n - 1) ** 2 > 10]
    if not fitting:
        raise ValueError("MS-SSIM needs frames of at least 11 pixels a side")
    exponents = MSSSIM_EXPONENTS[: fitting[-1]]
    total = sum(exponents) / sum(MSSSIM_EXPONENTS)
    betas = tuple(value / total for value in exponents)
    return float(compute(clip.clamp(0, 1), reference.clamp(0, 1), data_range=1.0, betas=betas))


@functools.cache
def lpips_model() -> tuple[torch.nn.Module | None, str]:
    """LPIPS and the name of its backbone, or ``None`` and why there is none.

    Nothing is downloaded: the backbone's weights must be in torch's hub folder.
    """
    try:
        import lpips
    except ImportError:
        return None, "the lpips package is not installed"
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for name, file in LPIPS_BACKBONES.items():
        if any(folder.glob(f"{file}*.pth")):
            return lpips.LPIPS(net=name, verbose=False).eval().requires_grad_(False), name
    return None, f"no backbone weights (alexnet, vgg16 or squeezenet1_1) in {folder}"


def _lpips(model: torch.nn.Module, clip: Tensor, reference: Tensor) -> float:
    with torch.no_grad():
        return float(model(clip * 2 - 1, reference * 2 - 1).mean())
