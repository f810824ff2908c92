"""What skipping a step costs, as a share of what it saves.

    python benchmarks/overhead.py [--model wan-1.3b ...] [--json FILE] [--device cpu|cuda] ...

For the real shapes of four video models, with random weights, two branches of guidance at batch 1:

* a full evaluation: the diffusers network in bfloat16. One block stands for all of them; what was
  multiplied or extrapolated is printed and lies in the JSON's ``full_how``. (At Wan 1.3B, a block
  extrapolated from 12,480 tokens came out 10 % above the one timed at 32,760.)
* the output tap, our default: decision and forecast of the real ``Session`` on float32 latents,
  asked branch by branch, and for both in one call;
* the stack tap: the same session on block-stack residuals, inside the real network without blocks;
* EasyCache of the ComfyUI that is found: its own wrapper around a network that answers at once.

Not included, on either side: what the host does around the network at every step anyway. ComfyUI's
host code of the output tap also turns ``denoised`` back into the raw output at evaluated steps, and
the diffusers one compares its inputs with the last ones: a few passes over one latent.
On a CPU with one thread matrix products are slow, on a GPU the launches of small operations are:
shares measured on one say little about the other.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

# To the end of the path: the pack's `nodes` folder must not hide ComfyUI's nodes.py.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.comfy_peers import Unavailable, load
from benchmarks.overhead_full import SHAPES, Full, Network, Shape, clock_name, clocked, measure
from sencache_core import CacheConfig, Schedule, flow_sigmas
from sencache_core.model.taps import TAPS
from sencache_core.run.runner import Call
from sencache_core.types import OUTPUT, Branch, Site

BRANCHES = (Branch("cond", 0), Branch("uncond", 1))
#: Steps of the run that is timed; fewer at the stack tap, whose steps take seconds on a CPU.
STEPS, STACK_STEPS = 50, 12


@dataclass
class Costs:
    """Seconds by round, both branches together, and bytes.

    Attributes:
        decision: seconds of each decision; empty if the method does not separate it.
        reused: seconds of each reused step, decision included.
        evaluated: seconds that each evaluated step takes longer, decision included.
        held: largest number of bytes held between two rounds, all branches together.
    """

    decision: list[float] = field(default_factory=list)
    reused: list[float] = field(default_factory=list)
    evaluated: list[float] = field(default_factory=list)
    held: int = 0


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

    Only sizes matter for time; both move smoothly, so that the budget is spent as on a real sample.

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

    def answer(call: Call, y: Tensor) -> tuple[bool, float]:
        visit = _Timed(call, device)
        skipped = visit.skip(OUTPUT, y.shape) is not None
        if not skipped:
            visit.ran(OUTPUT, y)
        return skipped, visit.seconds

    return _drive(Trajectory(shape, device), config, answer, together)


def stack_tap(network: Network, config: CacheConfig) -> Costs:
    """Our session at the stack tap, inside the real network, whose blocks alone are left out."""
    device, run, places = network.device, network.call(), network.shape.row.diffusers_places
    network.stack([_Instead(places.second)])

    def answer(call: Call, _: Tensor) -> tuple[bool, float]:
        visit = _Timed(call, device)
        with TAPS["stack"].on(network.module, places, visit):
            whole = clocked(device, run)[0]
        return visit.skipped, whole if visit.skipped else visit.seconds

    return _drive(Trajectory(network.shape, device, STACK_STEPS), config, answer)


def easycache(shape: Shape, device: torch.device) -> Costs:
    """ComfyUI's own EasyCache around a network that answers at once.

    Fed as ComfyUI does: both branches in one call, in the network's bfloat16.

    Raises:
        Unavailable: there is no ComfyUI. The message says why.
    """
    load()
    from comfy_extras import nodes_easycache as peer

    trajectory, costs = Trajectory(shape, device), Costs()
    holder = peer.EasyCacheHolder(0.2, 0.15, 0.95, 8, False, output_channels=shape.latents[0][0])
    holder.start_t, holder.end_t = float("inf"), -1.0
    uuids = [branch.role for branch in BRANCHES]
    options: dict[str, Any] = {"easycache": holder, "uuids": uuids}
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
    trajectory: Trajectory,
    config: CacheConfig,
    answer: Callable[[Call, Tensor], tuple[bool, float]],
    together: bool = False,
) -> Costs:
    """One sampling run without a model.

    Args:
        trajectory: what the session is fed.
        config: what it is started with.
        answer: answers one model call, given a true output; returns whether it was forecast, and
            the seconds.
        together: one call for both branches.
    """
    device, costs = trajectory.device, Costs()
    session = config.start(trajectory.family, trajectory.schedule)
    calls = [BRANCHES] if together else [(branch,) for branch in BRANCHES]
    gc.disable()
    try:
        for step, sigma in enumerate(trajectory.schedule.sigmas[:-1]):
            x, y = trajectory.x(step), trajectory.packed(step)
            y = torch.cat([y] * len(calls[0]))
            level = torch.full((1,), sigma, device=device)
            decision, _ = clocked(device, lambda x=x, s=level: session.begin(x, s))
            costs.decision.append(decision)
            answers = []
            for branches in calls:
                with Call(session, branches) as call:
                    answers.append(answer(call, y))
            kind = costs.reused if all(reused for reused, _ in answers) else costs.evaluated
            kind.append(decision + sum(seconds for _, seconds in answers))
            costs.held = max(costs.held, held_bytes(session))
    finally:
        gc.enable()
        session.finish(True)
    return costs


class _Timed:
    """Passes a tap's questions on, and adds up the seconds that the answers take."""

    def __init__(self, call: Call, device: torch.device) -> None:
        self._call, self._device = call, device
        self.seconds, self.skipped = 0.0, False

    def skip(self, site: Site, shape: Sequence[int], share: float = 1.0) -> Tensor | None:
        seconds, y = clocked(self._device, lambda: self._call.skip(site, shape, share))
        self.seconds += seconds
        self.skipped = y is not None
        return y

    def ran(self, site: Site, y: Tensor) -> Tensor | None:
        seconds, handed = clocked(self._device, lambda: self._call.ran(site, y))
        self.seconds += seconds
        return handed


class _Instead(nn.Module):
    """Takes the place of the block stack, and no time."""

    def __init__(self, second: str) -> None:
        super().__init__()
        self._second = second

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        out = hidden_states.flip(1)
        return (out, kwargs[self._second]) if self._second else out


def rows_of(shape: Shape, full: Full, network: Network, config: CacheConfig) -> list[dict]:
    """All rows of one model: seconds, shares of a full evaluation, bytes, latents (of float32).

    Args:
        shape: the model.
        full: its full evaluation.
        network: where the stack tap runs.
        config: what the sessions are started with.
    """
    device, stack = network.device, replace(config, tap="stack")
    methods: dict[str, Callable[[], Costs]] = {
        "output tap": lambda: output_tap(shape, device, config),
        "output tap, one call": lambda: output_tap(shape, device, config, True),
        "stack tap": lambda: stack_tap(network, stack),
        "EasyCache (ComfyUI)": lambda: easycache(shape, device),
    }
    rows = []
    for name, run in methods.items():
        row = {"model": shape.name, "method": name}
        try:
            run()  # warms up
            rows.append(row | _figures(shape, full, run()))
        except Unavailable as error:
            rows.append(row | {"error": str(error)})
    return rows


def _figures(shape: Shape, full: Full, costs: Costs) -> dict[str, Any]:
    latent = 4 * sum(prod(size) for size in shape.latents)
    held = costs.held / len(BRANCHES)
    row: dict[str, Any] = {}
    for name in ("decision", "reused", "evaluated"):
        seconds = median(getattr(costs, name)) if getattr(costs, name) else None
        row[f"{name}_seconds"] = seconds
        row[f"{name}_share"] = None if seconds is None else seconds / full.seconds
    return row | {
        "rounds_reused": len(costs.reused),
        "rounds_evaluated": len(costs.evaluated),
        "bytes_per_branch": round(held),
        "latents_per_branch": held / latent,
        "latent_bytes": latent,
        "full_seconds": full.seconds,
        "full_how": full.how,
        "block_seconds": full.block,
        "embeddings_and_head_seconds": full.shell,
        "tokens": shape.tokens,
        "source": shape.source,
        "error": None,
    }


def table(rows: Sequence[dict]) -> str:
    """Rows of one model as text."""
    heads = ("reused step", "decision", "evaluated: more")
    lines = [f"  {'method':20} {' '.join(f'{head:>20}' for head in heads)} {'per branch':>22}"]
    for row in rows:
        if row["error"]:
            lines.append(f"  {row['method']:20} skipped: {row['error']}")
            continue
        cells = []
        for name in ("reused", "decision", "evaluated"):
            seconds, share = row[f"{name}_seconds"], row[f"{name}_share"]
            cell = "-" if seconds is None else f"{seconds * 1e3:.2f} ms {100 * share:7.2g} %"
            cells.append(f"{cell:>20}")
        held = f"{row['bytes_per_branch'] / 2**20:.1f} MiB = {row['latents_per_branch']:.2f} lat."
        lines.append(f"  {row['method']:20} {' '.join(cells)} {held:>22}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("--model", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    out.add_argument("--json", type=Path, metavar="FILE", help="write a list of objects here")
    out.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    out.add_argument(
        "--blocks", type=int, help="blocks to run (default: 1 on a CPU, all of them on a GPU)"
    )
    out.add_argument("--repeats", type=int, default=3, help="runs of which the median is taken")
    out.add_argument("--threads", type=int, default=1, help="CPU threads, of both sides")
    out.add_argument(
        "--patience",
        type=float,
        default=180.0,
        help="longest run in seconds that is timed; beyond it a block is extrapolated",
    )
    return out


def main(argv: Sequence[str] | None = None) -> list[dict]:
    """Measure, print, write; returns the JSON's rows."""
    args = parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    device, config = torch.device(args.device), CacheConfig()
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"{args.threads} CPU thread"
    setup = {"device": name, "clock": clock_name(device), "torch": torch.__version__}
    setup |= {"policy": config.policy.name, "rule": config.rule.name, "budget": config.budget}
    print(f"torch {torch.__version__}, {name}, {setup['clock']}", flush=True)
    rows: list[dict] = []
    with torch.inference_mode():
        for key in args.model:
            shape = SHAPES[key]
            network = Network(shape, device)
            blocks = args.blocks or (1 if args.device == "cpu" else shape.blocks)
            full = measure(network, blocks, args.patience, args.repeats)
            own = rows_of(shape, full, network, config)
            print(f"\n{shape.title}: full evaluation {full.seconds:.2f} s\n  {full.how}")
            print(table(own), flush=True)
            rows += [row | setup for row in own]
            del network
            if args.json:
                args.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return rows


if __name__ == "__main__":
    main()
