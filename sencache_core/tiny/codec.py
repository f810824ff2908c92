"""Linear latent codec: principal components of space-time patches.

The video is cut into patches of ``temporal`` x ``spatial`` x ``spatial`` pixels, as a video VAE
does it: latent frame 0 holds pixel frame 0 alone (repeated to fill the patch), each later latent
frame holds the next ``temporal`` pixel frames. A latent channel is the coefficient of one principal
component, scaled so that the latent has unit variance as a whole; the scale of a channel is the
square root of its standard deviation, a compromise between whitening and the pixel metric that
lets small models spend their capacity on what is visible.

For LTX-Video a patch is 16 pixels wide instead of the nominal 32 of its VAE, which keeps the codec
file small: a latent of 8 x 8 cells is a picture of 128 x 128 pixels.

Latents of this codec are in *model space*. In ComfyUI a sampler returns
``latent_format.process_out(latent)``; a node that decodes must call ``process_in`` first.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .specs import SPECS


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


def from_patches(patches: torch.Tensor, temporal: int, spatial: int) -> torch.Tensor:
    """Inverse of :func:`to_patches`; frame 0 is the mean of the first patch's copies."""
    f, h, w, _ = patches.shape
    cells = patches.reshape(f, h, w, temporal, 3, spatial, spatial).permute(0, 3, 4, 1, 5, 2, 6)
    video = cells.reshape(f * temporal, 3, h * spatial, w * spatial)
    return torch.cat([video[:temporal].mean(0, keepdim=True), video[temporal:]])


class Codec:
    """Linear map between clips and latents.

    Attributes:
        basis: ``[channels, patch values]`` orthonormal rows.
        mean: ``[patch values]`` mean patch.
        scale: ``[channels]`` latent = coefficient / scale.
        temporal: frames per patch.
        spatial: pixels per patch and side.
    """

    def __init__(
        self,
        basis: torch.Tensor,
        mean: torch.Tensor,
        scale: torch.Tensor,
        temporal: int,
        spatial: int,
    ) -> None:
        self.basis, self.mean, self.scale = basis.float(), mean.float(), scale.float()
        self.temporal, self.spatial = temporal, spatial

    @classmethod
    @functools.lru_cache(maxsize=8)
    def load(cls, family: str) -> Codec:
        """The bundled codec of a family."""
        tensors = load_file(codec_path(family))
        spec = SPECS[family]
        return cls(tensors["basis"], tensors["mean"], tensors["scale"], spec.temporal, spec.spatial)

    @classmethod
    def fit(cls, patches: torch.Tensor, channels: int, temporal: int, spatial: int) -> Codec:
        """Principal components of ``patches`` ``[n, patch values]``."""
        mean = patches.mean(0)
        centred = patches - mean
        _, singular, vectors = torch.svd_lowrank(centred, q=channels + 16, niter=4)
        std = singular[:channels] / len(patches) ** 0.5
        scale = std.sqrt()
        scale = scale * (std / scale).square().mean().sqrt()
        return cls(vectors[:, :channels].T.contiguous(), mean, scale, temporal, spatial)

    def save(self, path: Path) -> None:
        """Write as fp16 safetensors."""
        save_file(
            {name: getattr(self, name).half().contiguous() for name in ("basis", "mean", "scale")},
            path,
        )

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
        coefficients = latent.detach().float().cpu().permute(1, 2, 3, 0) * self.scale
        patches = coefficients @ self.basis + self.mean
        return from_patches(patches, self.temporal, self.spatial).clamp(0, 1)
