"""Small denoisers and samplers with known behaviour, shared by the tests."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sencache_core import FAMILIES, Branch, CacheConfig, Recorder, RunReport, Schedule, flow_sigmas
from sencache_core.hosts import loop
from sencache_core.measure.prior import prior_moments
from sencache_core.model.families import Places
from sencache_core.policies import Prior, RunInfo
from sencache_core.run.facts import Facts
from sencache_core.types import OUTPUT, Key

COND, UNCOND = Branch("cond"), Branch("uncond")
WAN = FAMILIES["wan"]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def half_up(evaluations: float) -> int:
    """What a share of a run's evaluations comes to, half a one rounded up."""
    return int(evaluations + 0.5 + 1e-9)


class Counted:
    """Wraps a model ``f(x, sigma, condition)``; ``calls`` counts how often it ran."""

    def __init__(self, function: Callable[[Tensor, float, float], Tensor]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, x: Tensor, sigma: float, condition: float) -> Tensor:
        self.calls += 1
        return self.function(x, sigma, condition)


def predict(runner, branches, shape) -> Tensor | None:
    """Ask for the output of one model call, as a host does."""
    y = runner.predict([Key(branch, OUTPUT) for branch in branches], shape)
    if y is not None:
        runner.called(branches, 0.0)
    return y


def observe(runner, branches, y: Tensor | None, evaluate_at=None) -> Tensor | None:
    """Show the output of a model call that has run; ``None``: it could not be had."""
    handed = None
    if y is not None:
        handed = runner.observe([Key(branch, OUTPUT) for branch in branches], y, evaluate_at)
    runner.called(branches, 1.0)
    return handed


def curved() -> Counted:
    """A flow denoiser whose trajectories bend, as trained ones do."""

    def velocity(x: Tensor, sigma: float, condition: float) -> Tensor:
        clean = torch.tanh(x * 2 + condition) * (1 - 0.5 * sigma)
        return (x - clean) / max(sigma, 0.05)

    return Counted(velocity)


class Stacked(nn.Module):
    """A denoiser in four blocks, of which the outer ones add half of its output each.

    Halves add up without rounding: the output is bit for bit that of ``function``.
    """

    DEPTH = 4

    def __init__(self, function: Callable[[Tensor, float, float], Tensor]) -> None:
        super().__init__()
        shares = [0.5, *[0.0] * (self.DEPTH - 2), 0.5]
        self.blocks = nn.ModuleList(_Share(function, share) for share in shares)

    def forward(self, x: Tensor, sigma: float, condition: float) -> Tensor:
        h = torch.zeros_like(x)
        for block in self.blocks:
            h = block(h, x, sigma, condition)
        return h


class _Share(nn.Module):
    def __init__(self, function: Callable[[Tensor, float, float], Tensor], share: float) -> None:
        super().__init__()
        self.function, self.share, self.ran = function, share, 0

    def forward(self, h: Tensor, x: Tensor, sigma: float, condition: float) -> Tensor:
        self.ran += 1
        return h + self.share * self.function(x, sigma, condition)


def straight(velocity_rms: float) -> Counted:
    """A constant velocity of the given RMS: ``x = x0 + sigma v`` for every sigma."""

    def velocity(x: Tensor, sigma: float, condition: float) -> Tensor:
        v = noise(*x.shape, seed=7)
        return v * (velocity_rms / v.square().mean().sqrt())

    return Counted(velocity)


def schedule(steps: int = 20, shift: float = 5.0, sampler: str = "euler") -> Schedule:
    return Schedule(flow_sigmas(steps, shift), sampler)


def run_info(sched: Schedule | None = None, blocks: int | None = None) -> RunInfo:
    return RunInfo(WAN, sched or schedule(), Prior(WAN), prior_moments("wan"), blocks=blocks)


def report(steps: int = 20) -> RunReport:
    return RunReport("wan", "sencache", "linear", "output", steps)


def recorder(sched: Schedule) -> Recorder:
    return Recorder(run_info(sched), report(sched.num_steps))


def toy_signal(name: str, x: Tensor, sigma: float, condition: float) -> Tensor:
    """What a policy sees of a toy: a time embedding ``[B, 8]``, or the latent's own entries."""
    if "time" not in name:
        return x.flatten(1) + condition
    angles = torch.arange(1, 9) * sigma
    return (angles.sin() + angles.cos()).expand(len(x), 8)


def cached_run(
    config: CacheConfig,
    sched: Schedule,
    model: Callable | None = None,
    x: Tensor | None = None,
    guidance: float = 1.0,
) -> tuple[Tensor, RunReport]:
    """Sample with a new session; cond and uncond if there is guidance.

    Where the tap is one of blocks, the model is sampled in blocks, see :class:`Stacked`.
    """
    conditions = {"cond": 0.4} if guidance == 1.0 else {"cond": 0.4, "uncond": 0.0}
    inside = config.tap_in_use == "blocks"
    session = config.start(WAN, sched, facts=Facts(blocks=Stacked.DEPTH if inside else None))
    x = noise(1, 2, 3, 4) if x is None else x
    model = model or curved()
    if inside:
        model = loop.Tapped(Stacked(model), Places("blocks"), config.tapping)
    drive = heun if sched.sampler == "heun" else loop.sample
    out = drive(model, x, sched, conditions, guidance, session, look=toy_signal)
    return out, session.report


def plain_run(sched: Schedule, model: Callable | None = None, guidance: float = 1.0) -> Tensor:
    conditions = {"cond": 0.4} if guidance == 1.0 else {"cond": 0.4, "uncond": 0.0}
    drive = heun if sched.sampler == "heun" else loop.sample
    return drive(model or curved(), noise(1, 2, 3, 4), sched, conditions, guidance)


def heun(model, x, sched, conditions, guidance=1.0, runner=None, look=None) -> Tensor:
    """Heun's sampler over a runner: every sigma but the first and the last is visited twice."""

    def velocity(x: Tensor, sigma: float) -> Tensor:
        if runner is not None:
            runner.begin((x,), sigma)
        outputs = {
            role: loop._call(model, x, sigma, Branch(role), condition, runner, look)
            for role, condition in conditions.items()
        }
        if "uncond" not in outputs:
            return outputs["cond"]
        return outputs["uncond"] + guidance * (outputs["cond"] - outputs["uncond"])

    for sigma, following in zip(sched.sigmas[:-1], sched.sigmas[1:], strict=True):
        first = velocity(x, sigma)
        ahead = x + (following - sigma) * first
        if following > 0:
            ahead = x + (following - sigma) * (first + velocity(ahead, following)) / 2
        x = ahead
    if runner is not None:
        runner.finish(True)
    return x
