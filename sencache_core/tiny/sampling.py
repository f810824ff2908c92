"""Plain reference samplers for the tiny models (no cache, no ComfyUI, no diffusers pipeline)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import torch
from torch import nn

from .codec import Codec
from .model import forward
from .specs import COG_SCHEDULER, SPECS
from .text import encode_prompt


def flow_sigmas(steps: int, shift: float) -> torch.Tensor:
    """``steps + 1`` sigmas from 1 to 0, s = shift u / (1 + (shift - 1) u) with u equally spaced."""
    u = torch.linspace(1, 0, steps + 1)
    return shift * u / (1 + (shift - 1) * u)


@functools.cache
def cog_alphas() -> torch.Tensor:
    """[1000] cumulative alphas of CogVideoX: scaled linear betas, rescaled to zero terminal SNR."""
    config = COG_SCHEDULER
    count = config["num_train_timesteps"]
    root = torch.linspace(
        config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, count, dtype=torch.float64
    )
    signal = torch.cumprod(1 - root.square(), 0).sqrt()
    signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    return signal.square().float()


def cog_timesteps(steps: int) -> list[int]:
    """``steps`` trailing-spaced integer timesteps, from 999 downwards."""
    count = COG_SCHEDULER["num_train_timesteps"]
    return [round(count - i * count / steps) - 1 for i in range(steps)]


@torch.no_grad()
def sample(
    family: str,
    module: nn.Module,
    prompts: list[str],
    *,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    shift: float | None = None,
    network: Callable[..., torch.Tensor] | None = None,
) -> torch.Tensor:
    """Sample latents: Euler for the flow families, DDIM for CogVideoX.

    Args:
        family: "wan", "ltx" or "cogvideox".
        module: from ``load_diffusers``.
        prompts: one clip each; clip ``i`` starts from noise of seed ``seed + i``.
        seed: seed of the first clip.
        steps: sampling steps; None: the default of ``SPECS``.
        guidance: classifier-free guidance scale; None: the default. 1.0 skips the second pass.
        shift: schedule shift of the flow families; None: the default.
        network: replacement for ``forward(family, module, x, t, context)``.

    Returns:
        float32 latents ``[B, C, F, H, W]``.
    """
    spec, network = SPECS[family], network or forward
    steps = steps or spec.steps
    guidance = spec.guidance if guidance is None else guidance
    parameter = next(module.parameters())
    context = torch.stack([encode_prompt(prompt) for prompt in prompts])
    context = torch.cat([context, torch.zeros_like(context)])
    noise = [
        torch.randn(spec.latent, generator=torch.Generator().manual_seed(seed + i))
        for i in range(len(prompts))
    ]
    x = torch.stack(noise).to(parameter.device)

    def guided(x: torch.Tensor, t: float) -> torch.Tensor:
        inputs = x.to(parameter.dtype)
        if guidance == 1.0:
            return network(family, module, inputs, t, context[: len(prompts)]).float()
        both = network(family, module, torch.cat([inputs, inputs]), t, context).float()
        positive, negative = both.chunk(2)
        return negative + guidance * (positive - negative)

    if spec.prediction == "flow":
        sigmas = flow_sigmas(steps, spec.shift if shift is None else shift).tolist()
        for now, after in itertools.pairwise(sigmas):
            x = x + (after - now) * guided(x, now)
        return x
    alphas, indices = cog_alphas(), cog_timesteps(steps)
    for i, index in enumerate(indices):
        a = alphas[index].item()
        a_next = alphas[indices[i + 1]].item() if i + 1 < steps else 1.0
        v = guided(x, index)
        clean = a**0.5 * x - (1 - a) ** 0.5 * v
        noise_part = (1 - a) ** 0.5 * x + a**0.5 * v
        x = a_next**0.5 * clean + (1 - a_next) ** 0.5 * noise_part
    return x


def decode_video(family: str, latents: torch.Tensor) -> torch.Tensor:
    """Latents ``[B, C, f, h, w]`` in model space -> clips ``[B, F, 3, H, W]`` in 0..1."""
    return Codec.load(family).decode(latents)
