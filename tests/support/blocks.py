"""A network of blocks that add known amounts, sampled over the blocks tap."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from toys import COND, WAN, schedule

from sencache_core import CacheConfig, Guards, Policy, RunReport
from sencache_core.model.families import Places
from sencache_core.model.taps import tapped
from sencache_core.run.facts import Facts
from sencache_core.run.runner import Call

#: ``adds(number, sigma)``: what a block adds at a noise level.
Adds = Callable[[int, float], float]


class Block(nn.Module):
    """Adds to its input, by its number and the noise level; counts how often it ran."""

    def __init__(self, number: int, adds: Adds) -> None:
        super().__init__()
        self.number, self.adds, self.ran = number, adds, 0

    def forward(self, x: Tensor, sigma: float) -> Tensor:
        self.ran += 1
        return x + self.adds(self.number, sigma)


class Network(nn.Module):
    def __init__(self, count: int, adds: Adds) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(number, adds) for number in range(count))
        self.head = nn.Identity()

    def forward(self, x: Tensor, sigma: float) -> Tensor:
        for block in self.blocks:
            x = block(x, sigma)
        return self.head(x)


def tenths(number: int, sigma: float) -> float:
    """A tenth of the block's number, times the noise level."""
    return number / 10 * sigma


def sampled(
    policy: Policy, guards: Guards, count: int, steps: int, adds: Adds = tenths, start: float = 0.0
) -> tuple[RunReport, list[float], Network]:
    """The report of a run at evenly falling noise over a toy of ``count`` blocks that is always fed
    ``start``, its outputs, and the toy.
    """
    config, sched = CacheConfig(policy, guards=guards, budget=None), schedule(steps, 1.0)
    session = config.start(WAN, sched, facts=Facts(blocks=count))
    network, outputs = Network(count, adds), []
    for sigma in sched.sigmas[:-1]:
        x = torch.full((1, 2, 3), start)
        session.begin((x,), sigma)
        with (
            Call(session, (COND,)) as call,
            tapped(config.tapping, network, Places("blocks", ("head",)), call),
        ):
            outputs.append(float(network(x, sigma).mean()))
    return session.finish(True), outputs, network


def letters(report: RunReport) -> str:
    """``C`` for every round in full, ``h`` for one in part."""
    return "".join("h" if step.decision == "partial" else "C" for step in report.steps)
