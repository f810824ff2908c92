"""What caching itself costs: our session on either tap, and ComfyUI's EasyCache."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.overhead_full import clocked
from benchmarks.overhead_shapes import Network, Shape
from sencache_core import CacheConfig, Schedule, flow_sigmas
from sencache_core.model.taps import StackCall
from sencache_core.run.session import Session
from sencache_core.types import Branch

Branches = tuple[Branch, ...]
BRANCHES: Branches = (Branch("cond", 0), Branch("uncond", 1))
#: Steps of the run that is timed; fewer at the stack tap, whose steps take seconds on a CPU.
STEPS, STACK_STEPS = 50, 12


@dataclass
class Costs:
    """Seconds by round, both branches together, and bytes.

    Attributes:
        method: what was measured.
        decision: seconds of each decision; empty if the method does not separate it.
        reused: seconds of each reused step, decision included.
        evaluated: seconds that each evaluated step takes longer, decision included.
        held: largest number of bytes held between two rounds, all branches together.
        note: what else is to be known of the row.
    """

    method: str
    decision: list[float] = field(default_factory=list)
    reused: list[float] = field(default_factory=list)
    evaluated: list[float] = field(default_factory=list)
    held: int = 0
    note: str = ""

    def median(self, name: str) -> float | None:
        values = getattr(self, name)
        return statistics.median(values) if values else None


def held_bytes(owner: Any) -> int:
    """Bytes of all tensor storages that ``owner`` keeps alive through its own attributes.

    Follows containers and instances, not modules, classes or functions. A view counts with the
    whole storage that it keeps; a storage counts once.
    """
    storages: dict[int, int] = {}
    seen: set[int] = set()
    todo = [owner]
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, type | nn.Module):
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, dict):
            todo += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            todo += value
        elif hasattr(value, "__dict__"):
            todo += vars(value).values()
    return sum(storages.values())


class Trajectory:
    """Synthetic latents and outputs of the real shape along one run.

    Values do not matter for time, only sizes do; both move smoothly so that the default budget is
    spent as on a real sample.

    Attributes:
        family: the model's row.
        schedule: noise levels.
        times: the family's time coordinate at each step.
    """

    def __init__(self, shape: Shape, device: torch.device, steps: int = STEPS) -> None:
        self.device = device
        self.family = family = shape.row
        self.times = [min(t, 0.999) for t in flow_sigmas(steps, shift=5.0)[:-1]]
        self.schedule = Schedule((*map(family.sigma, self.times), 0.0), "euler")
        sizes = [(1, *latent) for latent in shape.latents]
        generator = torch.Generator(device).manual_seed(0)
        self._ends = [
            [torch.randn(size, device=device, generator=generator) for size in sizes]
            for _ in range(2)
        ]

    def x(self, step: int) -> tuple[Tensor, ...]:
        """Noisy latents, new tensors, float32."""
        t = self.times[step]
        return tuple(a * t + b * (1 - t) for a, b in zip(*self._ends, strict=True))

    def packed(self, step: int) -> Tensor:
        """A model output in the form that ComfyUI hands on, several modalities as ``[1, 1, n]``."""
        y = [a - b * t for a, b in zip(*self._ends, strict=True) for t in (self.times[step],)]
        return y[0] if len(y) == 1 else torch.cat([part.reshape(1, 1, -1) for part in y], dim=-1)


def output_tap(
    shape: Shape, device: torch.device, config: CacheConfig, together: bool = False
) -> Costs:
    """Our session at the output tap, fed as a host feeds it: float32 latents, sigma a tensor.

    Args:
        shape: the model's shape.
        device: where the latents lie.
        config: what the session is started with.
        together: both branches in one call, as ComfyUI makes it where memory allows.
    """

    def answer(session: Session, branches: Branches, y: Tensor) -> tuple[bool, float]:
        seconds, forecast = clocked(device, lambda: session.predict(branches, y.shape))
        if forecast is None:
            seconds += clocked(device, lambda: session.observe(branches, y, _none))[0]
        return forecast is not None, seconds

    method = "output tap, one call" if together else "output tap"
    return _drive(method, Trajectory(shape, device), config, answer, together)


def stack_tap(network: Network, config: CacheConfig) -> Costs:
    """Our session at the stack tap, inside the real network, whose blocks alone are left out."""
    device = network.device
    trajectory = Trajectory(network.shape, network.device, STACK_STEPS)
    call = network.call()

    def answer(session: Session, branches: Branches, _: Tensor) -> tuple[bool, float]:
        tapped = StackCall(network.shape.row, lambda shape: session.predict(branches, shape))
        stand_in = _StandIn(tapped, device)
        network.stack([stand_in])
        whole = clocked(device, call)[0]
        if tapped.reused:
            return True, whole
        seconds = clocked(device, lambda: session.observe(branches, tapped.payload, _none))[0]
        return False, seconds + stand_in.seconds

    costs = _drive("stack tap", trajectory, config, answer)
    costs.note = "a reused step runs embeddings and head"
    return costs


def easycache(shape: Shape, device: torch.device) -> Costs:
    """ComfyUI's own EasyCache around a network that answers at once.

    Fed as ComfyUI does: both branches in one call, in the network's bfloat16.

    Raises:
        Unavailable: there is no ComfyUI. The message says why.
    """
    from benchmarks.comfy_host import load

    load()
    from comfy_extras import nodes_easycache as peer

    trajectory = Trajectory(shape, device)
    holder = peer.EasyCacheHolder(0.2, 0.15, 0.95, 8, False, output_channels=shape.latents[0][0])
    holder.start_t, holder.end_t = float("inf"), -1.0
    uuids = [branch.role for branch in BRANCHES]
    options: dict[str, Any] = {"easycache": holder, "uuids": uuids}
    costs = Costs("EasyCache (ComfyUI)", note="keeps bfloat16; decision and reuse are one")
    for step, t in enumerate(trajectory.times):
        options["sigmas"] = torch.full((2,), t, device=device)
        x, out = (
            [part.repeat(2, *[1] * (part.ndim - 1)).bfloat16() for part in parts]
            for parts in (trajectory.x(step), trajectory.x(step // 2))
        )
        if len(x) == 1:
            x, out = x[0], out[0]
        # Every second step from the tenth on is reused; the threshold is the only switch.
        holder.reuse_threshold = 1e9 if step >= 10 and step % 2 else 0.0
        ran = []

        def network(*args: Any, out: Any = out, ran: list = ran) -> Any:
            ran.append(True)
            return out

        def call(x: Any = x, t: Tensor = options["sigmas"], network: Callable = network) -> Any:
            def forward(*_: Any) -> Any:
                return peer.easycache_forward_wrapper(network, x, t, None, options)

            model_options = {"transformer_options": options}
            return peer.easycache_calc_cond_batch_wrapper(forward, model_options)

        seconds, _ = clocked(device, call)
        (costs.evaluated if ran else costs.reused).append(seconds)
        costs.held = max(costs.held, held_bytes(holder))
    return costs


def _drive(
    method: str,
    trajectory: Trajectory,
    config: CacheConfig,
    answer: Callable[[Session, Branches, Tensor], tuple[bool, float]],
    together: bool = False,
) -> Costs:
    """One sampling run without a model.

    Args:
        method: name of the row.
        trajectory: what the session is fed.
        config: what it is started with.
        answer: asks and tells the session for one call, given a true output; returns whether it
            was forecast, and the seconds.
        together: one call for both branches.
    """
    device = trajectory.device
    session = config.start(trajectory.family, trajectory.schedule)
    costs = Costs(method)
    calls = [BRANCHES] if together else [(branch,) for branch in BRANCHES]
    gc.disable()
    try:
        for step, sigma in enumerate(trajectory.schedule.sigmas[:-1]):
            x, y = trajectory.x(step), trajectory.packed(step)
            y = torch.cat([y] * len(calls[0]))
            level = torch.full((1,), sigma, device=device)
            decision, _ = clocked(device, lambda x=x, s=level: session.begin(x, s))
            costs.decision.append(decision)
            answers = [answer(session, branches, y) for branches in calls]
            kind = costs.reused if all(reused for reused, _ in answers) else costs.evaluated
            kind.append(decision + sum(seconds for _, seconds in answers))
            costs.held = max(costs.held, held_bytes(session))
    finally:
        gc.enable()
        session.finish(True)
    return costs


class _StandIn(nn.Module):
    """Takes the place of the block stack: only what the tap itself does there is done."""

    def __init__(self, call: StackCall, device: torch.device) -> None:
        super().__init__()
        self._call, self._device, self.seconds = call, device, 0.0

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        both = "audio_hidden_states" in kwargs
        streams = (hidden_states, kwargs["audio_hidden_states"]) if both else (hidden_states,)
        self.seconds, reused = clocked(self._device, lambda: self._call.enter(streams))
        if not reused:
            streams = tuple(s.flip(1) for s in streams)  # what a stack would have made of it
        seconds, streams = clocked(self._device, lambda: self._call.leave(streams))
        self.seconds += seconds
        if both:
            return streams
        text = kwargs.get("encoder_hidden_states")
        return streams[0] if text is None else (streams[0], text)


def _none(sigma: float) -> Tensor:
    raise RuntimeError("a cache never asks for another noise level")
