"""Linear latent codec: principal components of space-time patches, decoded by overlapping kernels.

The video is cut into patches of ``temporal`` x ``spatial`` x ``spatial`` pixels, as a video VAE
does it: latent frame 0 holds pixel frame 0 alone (repeated to fill the patch), each later latent
frame holds the next ``temporal`` pixel frames. A latent channel is the coefficient of one principal
component, scaled so that the latent has unit variance as a whole; the scale of a channel is the
square root of its standard deviation, a compromise between whitening and the pixel metric that
lets small models spend their capacity on what is visible.

Decoding does not put the patches back side by side, which shows their edges: every pixel is a
linear function of the cells around it, and on both sides of a patch's edge they are the same cells.
The function is the least-squares one for latents with noise on top, for a model's latents are a
little wrong everywhere.

For LTX-Video a patch is 16 pixels wide instead of the nominal 32 of its VAE, which keeps the codec
file small: a latent of 8 x 8 cells is a picture of 128 x 128 pixels. Its kernels draw at half the
resolution, and the frames are enlarged bilinearly. Matrices are stored as int8, one scale a row.

Latents of this codec are in *model space*. In ComfyUI a sampler returns
``latent_format.process_out(latent)``; a node that decodes must call ``process_in`` first.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from .specs import SPECS

FIT_NOISE = 0.5
"""Largest standard deviation of the noise on the latents that the kernels are fitted to."""


def codec_path(family: str) -> Path:
    """Path of the bundled codec file."""
    return Path(__file__).parent / "codecs" / f"sencache_tiny_{family}_codec.safetensors"


def to_patches(video: torch.Tensor, temporal: int, spatial: int) -> torch.Tensor:
    """[F, 3, H, W] -> [f, h, w, temporal * 3 * spatial * spatial]."""
    first = video[:1].expand(temporal, -1, -1, -1)
    video = torch.cat([first, video[1:]])
    frames, channels, height, width = video.shape
    if frames % temporal or height % spatial or width % spatial:
        raise ValueError(
            f"the clip must have 1 + n * {temporal} frames and sides divisible by {spatial}"
        )
    cells = video.reshape(
        frames // temporal, temporal, channels, height // spatial, spatial, -1, spatial
    )
    return cells.permute(0, 3, 5, 1, 2, 4, 6).flatten(3)


def neighbourhoods(latent: torch.Tensor, side: int) -> list[torch.Tensor]:
    """What the four quadrants of every cell are drawn from.

    Args:
        latent: ``[C, f, h, w]``.
        side: even number of cells; a quadrant looks at the ``side`` x ``side`` cells around the
            corner that it touches.

    Returns:
        For the top left, top right, bottom left and bottom right quadrant
        ``[f * h * w, C * side * side + 1]``, whose last column is 1.
    """
    height, width = latent.shape[2:]
    padded = F.pad(latent.transpose(0, 1), [side // 2] * 4, mode="replicate")
    out = []
    for top in (0, 1):
        for left in (0, 1):
            part = padded[..., top : top + height + side - 1, left : left + width + side - 1]
            rows = F.unfold(part, side).transpose(1, 2).flatten(0, 1)
            out.append(F.pad(rows, (0, 1), value=1.0))
    return out


def quadrants(video: torch.Tensor, temporal: int, spatial: int) -> list[torch.Tensor]:
    """Pixels of the four quadrants of every cell, each ``[f * h * w, values]``."""
    f, h, w, _ = (cells := to_patches(video, temporal, spatial)).shape
    half = spatial // 2
    cells = cells.view(f * h * w, temporal * 3, 2, half, 2, half)
    return [cells[:, :, row, :, column].flatten(1) for row in (0, 1) for column in (0, 1)]


def from_quadrants(
    parts: list[torch.Tensor], shape: tuple[int, int, int], temporal: int
) -> torch.Tensor:
    """Inverse of :func:`quadrants`; frame 0 is the mean of the first patch's copies.

    Args:
        parts: the four quadrants.
        shape: (latent frames, rows, columns).
        temporal: frames per latent frame.

    Returns:
        ``[F, 3, H, W]``.
    """
    f, h, w = shape
    half = math.isqrt(parts[0].shape[1] // (3 * temporal))
    cells = torch.stack(parts).view(2, 2, f, h, w, temporal, 3, half, half)
    video = cells.permute(2, 5, 6, 3, 0, 7, 4, 1, 8).reshape(
        f * temporal, 3, h * 2 * half, w * 2 * half
    )
    return torch.cat([video[:temporal].mean(0, keepdim=True), video[temporal:]])


def _pack(name: str, matrix: torch.Tensor) -> dict[str, torch.Tensor]:
    """int8 entries and one fp32 scale per row."""
    scale = matrix.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
    return {name: (matrix / scale).round().to(torch.int8), f"{name}_scale": scale}


class Codec:
    """Linear maps between clips and latents.

    Attributes:
        basis: ``[channels, patch values]`` orthonormal rows.
        mean: ``[patch values]`` mean patch.
        scale: ``[channels]`` latent = coefficient / scale.
        kernels: ``[4, neighbourhood values, quadrant values]``, see :func:`neighbourhoods`.
        temporal: frames per patch.
        spatial: pixels per patch and side.
    """

    def __init__(
        self,
        basis: torch.Tensor,
        mean: torch.Tensor,
        scale: torch.Tensor,
        kernels: torch.Tensor,
        temporal: int,
        spatial: int,
    ) -> None:
        self.basis, self.mean, self.scale = basis.float(), mean.float(), scale.float()
        self.kernels = kernels.float()
        self.temporal, self.spatial = temporal, spatial

    @classmethod
    @functools.lru_cache(maxsize=8)
    def load(cls, family: str) -> Codec:
        """The bundled codec of a family."""
        tensors = load_file(codec_path(family))
        basis, kernels = (tensors[k] * tensors[f"{k}_scale"] for k in ("basis", "kernels"))
        spec = SPECS[family]
        return cls(basis, tensors["mean"], tensors["scale"], kernels, spec.temporal, spec.spatial)

    @classmethod
    def fit(cls, clips: list[torch.Tensor], family: str, values: int = 40_000) -> Codec:
        """Components and kernels for clips ``[F, 3, H, W]``; uses PyTorch's global generator.

        Args:
            clips: at least 200.
            family: its spec says how large patches and latents are.
            values: pixels per clip and frame that the components are fitted to.
        """
        spec = SPECS[family]
        rows = []
        for clip in clips:
            patches = to_patches(clip, spec.temporal, spec.spatial).flatten(0, 2)
            rows.append(patches[torch.randperm(len(patches))[: values // spec.spatial**2]])
        rows, channels = torch.cat(rows), spec.latent[0]
        mean = rows.mean(0)
        _, singular, vectors = torch.svd_lowrank(rows - mean, q=channels + 16, niter=4)
        std = singular[:channels] / len(rows) ** 0.5
        scale = std.sqrt()
        scale = scale * (std / scale).square().mean().sqrt()
        basis = vectors[:, :channels].T.contiguous()
        codec = cls(basis, mean, scale, torch.zeros(4, 1, 1), spec.temporal, spec.spatial)
        codec.fit_kernels(clips)
        return codec

    def fit_kernels(self, clips: list[torch.Tensor]) -> None:
        """Least squares from noised latents of ``clips`` to their pixels."""
        # What fits into two megabytes: wide kernels for few channels, coarse ones for many.
        side, shrink = (4, 1) if len(self.basis) <= 16 else (2, 2)
        gram, cross = [0] * 4, [0] * 4
        for clip in clips:
            latent = self.encode(clip)
            latent = latent + FIT_NOISE * torch.rand(()) * torch.randn(latent.shape)
            target = F.avg_pool2d(clip, shrink)
            parts = quadrants(target, self.temporal, self.spatial // shrink)
            for i, (x, y) in enumerate(zip(neighbourhoods(latent, side), parts)):
                gram[i] = gram[i] + x.T @ x
                cross[i] = cross[i] + x.T @ y
        self.kernels = torch.stack(
            [
                torch.linalg.solve(a + 1e-6 * a.trace() / len(a) * torch.eye(len(a)), b)
                for a, b in zip(gram, cross)
            ]
        )

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        tensors = _pack("basis", self.basis) | _pack("kernels", self.kernels)
        save_file(tensors | {"mean": self.mean.half(), "scale": self.scale.half()}, path)
        path.chmod(0o644)

    def encode(self, video: torch.Tensor) -> torch.Tensor:
        """``[F, 3, H, W]`` or ``[B, F, 3, H, W]`` in 0..1 -> ``[(B,) C, f, h, w]`` float32."""
        if video.ndim == 5:
            return torch.stack([self.encode(clip) for clip in video])
        patches = to_patches(video.float(), self.temporal, self.spatial)
        latent = (patches - self.mean) @ self.basis.T / self.scale
        return latent.permute(3, 0, 1, 2).contiguous()

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """``[(B,) C, f, h, w]`` -> ``[(B,) F, 3, H, W]`` in 0..1, float32 on the CPU."""
        if latent.ndim == 5:
            return torch.stack([self.decode(one) for one in latent])
        latent = latent.detach().float().cpu()
        side = math.isqrt(self.kernels.shape[1] // len(latent))
        parts = [x @ k for x, k in zip(neighbourhoods(latent, side), self.kernels)]
        video = from_quadrants(parts, latent.shape[1:], self.temporal)
        size = [cells * self.spatial for cells in latent.shape[2:]]
        if video.shape[2:] != tuple(size):
            video = F.interpolate(video, size=size, mode="bilinear")
        return video.clamp(0, 1)
