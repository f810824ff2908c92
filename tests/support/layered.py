"""A small network of blocks with attention and feed-forward, and runs of it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from toys import COND, UNCOND, WAN, schedule

from sencache_core import CacheConfig, Profile, ProfileHeader, Recorder
from sencache_core.forecast.layers import LayerCurve, LayerCurves
from sencache_core.model.families import Layer, Places
from sencache_core.model.taps import TAPS, tapped
from sencache_core.run.runner import Call
from sencache_core.types import CROSS, MLP, OUTPUT, SELF, Site

PLACES = Places(
    "blocks",
    ("head",),
    layers={SELF: Layer("attn"), CROSS: Layer("cross"), MLP: Layer("mlp")},
)
#: Weights of one layer of each kind, and of the rest of a block; 3 tokens of 4 channels.
WEIGHTS = {SELF: 8, CROSS: 16, MLP: 24}
REST = 8
PAIRS = 2 * 3 * 4


class Part(nn.Module):
    """Depends on its input, and on the noise level in its own way; counts how often it ran."""

    def __init__(self, number: int, kind: str) -> None:
        super().__init__()
        self.number, self.kind, self.sigma, self.ran = number, kind, 0.0, 0
        self.weight = nn.Parameter(torch.zeros(WEIGHTS[kind]))

    def forward(self, x: Tensor) -> Tensor:
        self.ran += 1
        speed = {SELF: 2.0, CROSS: 0.5, MLP: 4.0}[self.kind] * (1 + self.number)
        return torch.tanh(x + 1.5) * (1 + speed * self.sigma**2)


class Block(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.attn, self.cross = Part(number, SELF), Part(number, CROSS)
        self.mlp, self.rest = Part(number, MLP), nn.Parameter(torch.zeros(REST))

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.05 * self.attn(x)
        x = x + 0.05 * self.cross(x)
        return x + 0.05 * self.mlp(x)


class Network(nn.Module):
    def __init__(self, count: int = 3) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(map(Block, range(count))), nn.Identity()

    def at(self, sigma: float) -> Network:
        for part in self.modules():
            if isinstance(part, Part):
                part.sigma = sigma
        return self

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def latent(sigma: float) -> Tensor:
    return torch.linspace(-1, 1, 12).reshape(1, 3, 4) * sigma


@torch.no_grad()
def measured(steps: int = 20, count: int = 3, shift: float = 1.0) -> LayerCurves:
    """How the layers of the toy change along an uncached run."""
    sched, network = schedule(steps, shift), Network(count)
    recorder = Recorder.start(WAN, sched)
    for sigma in sched.sigmas[:-1]:
        x = latent(sigma)
        recorder.begin((x,), sigma)
        with Call(recorder, (COND,), lambda other, x=x: network.at(other)(x), True) as call:
            with tapped(TAPS["layers"], network.at(sigma), PLACES, call):
                out = network(x)
            call.ran(OUTPUT, out)
    recorder.finish(True)
    return recorder.recording().layers


def profile_of(curves: LayerCurves | None) -> Profile:
    flat = np.ones(2)
    return Profile(
        ProfileHeader("wan"),
        np.array([0.0, 1.0]),
        {"alpha_x": flat, "alpha_t": flat},
        layers=curves,
    )


@torch.no_grad()
def sampled(
    config: CacheConfig,
    steps: int = 20,
    count: int = 3,
    guided: bool = False,
    other: Network | None = None,
):
    """Report of a run whose latents are given, conditional outputs, and the network; ``other``
    answers for the unconditional branch.
    """
    sched, network, outputs = schedule(steps, 1.0), Network(count), []
    own = {COND: network, UNCOND: other or network}
    session = config.start(WAN, sched)
    for sigma in sched.sigmas[:-1]:
        x = latent(sigma)
        session.begin((x,), sigma)
        for branch in (COND, UNCOND)[: 1 + guided]:
            asked = own[branch].at(sigma)
            with Call(session, (branch,)) as call:
                out = call.skip(OUTPUT, x.shape)
                if out is None:
                    with tapped(config.tapping, asked, PLACES, call):
                        out = asked(x + (0.0 if branch is COND else 0.3))
                    call.ran(OUTPUT, out)
            if branch is COND:
                outputs.append(out)
    return session.finish(True), outputs, network


def ran(network: Network, kind: str) -> list[int]:
    """How often the layers of a kind ran, by block."""
    return [p.ran for p in network.modules() if isinstance(p, Part) and p.kind == kind]


#: The one layer of :func:`curves_of`.
SITE = Site("layers", 0, 1, MLP)


def curves_of(outputs: list[torch.Tensor]) -> LayerCurves:
    """Of one layer that gave ``outputs``, in the order of sampling, at times 1, 3/4, 1/2...

    By their definitions, not by the code that measures.
    """
    rows, count = [y.flatten().double() for y in outputs[::-1]], len(outputs)
    change, inner = np.zeros((1, count - 1, count)), np.zeros((1, count - 1, count))
    for n in range(count):
        for lag in range(1, count - n):
            change[0, lag - 1, n] = (rows[n + lag] - rows[n]).abs().sum() / rows[n].abs().sum()
            inner[0, lag - 1, n] = (rows[n + lag] * rows[n]).mean()
    square = np.array([[float(y.square().mean()) for y in rows]])
    mean = np.array([[float(y.mean()) for y in rows]])
    times = np.array([1 - (count - 1 - n) / 4 for n in range(count)])
    return LayerCurves(times, {MLP: LayerCurve(change, inner, square, mean)})
