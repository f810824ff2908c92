"""The hook around one transformer's ``forward``: each call is answered, or shown to its run."""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..model.taps import Tap, tapped
from ..run.runner import Ahead, Call, EvaluateAt, runs_first
from ..types import OUTPUT, Branch, sketch
from ._diffusers import (
    Container,
    ContextName,
    ModelHook,
    at_timestep,
    halves_of,
    noisy_channels,
    same,
)
from ._diffusers_runs import Asked, Ended, Run, Runs
from ._diffusers_schedulers import ON_THE_LIST, Clock

#: Shown by torch where a transformer is compiled with ``fullgraph=True``.
_COMPILE = "SenCache decides at every call; compile_repeated_blocks(fullgraph=True) goes with it"


def _beside_graphs(function):
    """Keep a function's frame out of compiled graphs, not those of what it calls."""
    known = "reason" in inspect.signature(torch.compiler.disable).parameters
    reason = {"reason": _COMPILE} if known else {}
    return torch.compiler.disable(function, recursive=False, **reason)


@dataclass
class _Pending:
    """A model call that the runner knows of.

    Attributes:
        answer: what it gets without the model, ``None``: run it.
    """

    run: Run
    visit: Call
    key: Hashable
    answer: Any = None


class Hook(ModelHook):
    """Stands around one transformer's ``forward``.

    Compiled models see its frames, too: what is decided here stays out of their graphs, and the
    transformer's own frames are compiled as ever.

    Args:
        runs: the open ones of this transformer.
        opened: called when one begins.
        ended: runs that have ended.
        tap: where outputs are kept.
    """

    _is_stateful = True

    def __init__(self, runs: Runs, opened: Callable[[Hook], None], ended: Ended, tap: Tap) -> None:
        super().__init__()
        self.runs, self.opened, self.ended, self.tap = runs, opened, ended, tap
        self.context = ContextName()
        self.warned: set[str] = set()
        self._here = threading.local()
        self._inside = threading.Lock()

    @property
    def clock(self) -> Clock:
        return self.runs.clock

    def initialize_hook(self, module: nn.Module) -> nn.Module:
        # A wrapper around the instance's forward may hide what the class's own takes.
        own = partial(type(module).forward, module)
        self.signatures = [inspect.signature(forward) for forward in (module.forward, own)]
        return module

    def reset_state(self, module: nn.Module) -> nn.Module:
        self.runs.end_last()
        self.ended.tell()
        return module

    @_beside_graphs
    def new_forward(self, module: nn.Module, *args, **kwargs):
        forward = self.fn_ref.original_forward
        try:
            pending = self._before(module, forward, args, kwargs)
            if pending is None:
                return forward(*args, **kwargs)
            if pending.answer is not None:
                return pending.answer
            if self.tap.inside:
                return self._tapped(module, forward, args, kwargs, pending)
            if pending.visit.awaits:
                return self._looked(module, forward, args, kwargs, pending)
            return self._after(pending, forward(*args, **kwargs))
        except BaseException:
            self._failed()
            raise

    @torch.compiler.disable
    def _before(self, module: nn.Module, forward, args, kwargs) -> _Pending | None:
        """Make a call known to its run; ``None``: it is none of ours."""
        self._here.run = None
        if torch.is_grad_enabled() and any(
            tensor.requires_grad
            for tensor in (*module.parameters(), *args, *kwargs.values())
            if isinstance(tensor, Tensor)
        ):
            return self._warn("no caching with gradients on: use torch.no_grad()")
        call = self._bound(args, kwargs)
        if call is None:
            return self._warn("a call without latents or a timestep was computed in full")
        arguments = call.arguments
        pair = self._holds_pair(arguments)
        run = self._round(module, arguments, pair)
        branches = self._branches(run, arguments, pair)
        again = self._elsewhere(forward, arguments) if run.runner.measures else None
        visit = Call(run.runner, branches, again, self.tap.inside)
        pending = _Pending(run, visit, (branches, arguments.get("return_dict", True)))
        container = run.containers.get(pending.key)
        if container is None:
            return pending
        first = [runs_first(run.decision, branch) for branch in branches]
        if run.decision.partial and any(first) and not all(first):
            halves = halves_of(arguments)
            if halves is not None:
                shape = container.shape[0] // 2, *container.shape[1:]
                parts = [*zip(branches, halves, strict=True)]
                pending.answer = container.put(self._apart(module, run, forward, parts, shape))
                return pending
        if (self.tap.inside and self.tap.whole) or visit.awaits:
            return pending
        payload = visit.skip(OUTPUT, container.shape)
        if payload is not None:
            with visit:
                pending.answer = container.put(payload)
        return pending

    @torch.compiler.disable
    def _after(self, pending: _Pending, output: Any) -> Any:
        """Show the runner what the model answered; what to hand on."""
        run = pending.run
        with pending.visit as visit:
            container, payload = Container.of(output)
            run.containers[pending.key] = container
            if payload is None:
                run.runner.report.say("no_output", type=type(output).__name__)
                return output
            handed = visit.ran(OUTPUT, payload)
        return output if handed is None else container.put(handed)

    @torch.compiler.disable
    def _looked(self, module: nn.Module, forward, args, kwargs, pending: _Pending) -> Any:
        """Run the model as far as the round is decided, and on where its output is not known."""
        places, container = self.clock.row.diffusers_places, pending.run.containers.get(pending.key)
        ahead = Ahead(pending.visit, container and container.shape)
        with self._inside, tapped(self.tap, module, places, ahead):
            output = forward(*args, **kwargs)
        if ahead.answer is None:
            return self._after(pending, output)
        with pending.visit:
            return container.put(ahead.answer)

    @torch.compiler.disable
    def _tapped(self, module: nn.Module, forward, args, kwargs, pending: _Pending) -> Any:
        """Run the model; inside it, the places of the tap are answered or watched."""
        places = self.clock.row.diffusers_places
        # For the length of a call the tap is on the module, which other threads call as well.
        with self._inside, pending.visit as visit, tapped(self.tap, module, places, visit):
            output = forward(*args, **kwargs)
            container, payload = Container.of(output)
            if not self.tap.whole and payload is not None:
                handed = visit.ran(OUTPUT, payload)
                output = output if handed is None else container.put(handed)
        pending.run.containers[pending.key] = container
        if not pending.visit.seen:
            pending.run.runner.report.say("no_stack", tap=self.tap.name)
        return output

    @torch.compiler.disable
    def _failed(self) -> None:
        if self._here.run is not None:
            self.runs.end(self._here.run, failed=True)
            self.ended.tell()

    def _bound(self, args, kwargs) -> inspect.BoundArguments | None:
        """A call's arguments by name; ``None`` if it does not show what sample it is for."""
        for signature in self.signatures:
            try:
                call = signature.bind(*args, **kwargs)
            except TypeError:
                continue
            asked = call.arguments
            noisy, time = asked.get("hidden_states"), asked.get("timestep")
            if isinstance(noisy, Tensor) and noisy.ndim and isinstance(time, Tensor | float | int):
                return call
        return None

    def _warn(self, message: str) -> None:
        if message not in self.warned:
            self.warned.add(message)
            warnings.warn(message, stacklevel=5)

    def _apart(self, module: nn.Module, run: Run, forward, parts, shape) -> Tensor:
        """The payload of a batched pair, that half first which the other may be rebuilt from."""
        places, payloads = self.clock.row.diffusers_places, {}
        for branch, arguments in sorted(parts, key=lambda p: not runs_first(run.decision, p[0])):
            again = self._elsewhere(forward, arguments) if run.runner.measures else None
            with Call(run.runner, (branch,), again, self.tap.inside) as visit:
                if not self.tap.whole and (payload := visit.skip(OUTPUT, shape)) is not None:
                    pass
                elif self.tap.inside:
                    with self._inside, tapped(self.tap, module, places, visit):
                        payload = Container.of(forward(**arguments))[1]
                        if not self.tap.whole:
                            handed = visit.ran(OUTPUT, payload)
                            payload = payload if handed is None else handed
                elif (payload := visit.skip(OUTPUT, shape)) is None:
                    payload = Container.of(forward(**arguments))[1]
                    handed = visit.ran(OUTPUT, payload)
                    payload = payload if handed is None else handed
            payloads[branch] = payload
        return torch.cat([payloads[branch] for branch, _ in parts])

    def _elsewhere(self, forward, arguments: dict[str, Any]) -> EvaluateAt:
        """The payload of a call at another noise level."""

        def evaluate_at(sigma: float) -> Tensor:
            return Container.of(forward(**at_timestep(arguments, self.clock.timestep(sigma))))[1]

        return evaluate_at

    def _round(self, module: nn.Module, arguments: dict[str, Any], pair: bool) -> Run:
        """The run that this call belongs to, with its evaluation round opened if it is new."""
        names = ("hidden_states", "audio_hidden_states")
        inputs = tuple(arguments[n] for n in names if arguments.get(n) is not None)
        if pair:  # both halves show the same latent
            inputs = tuple(x[: len(x) // 2] for x in inputs)
        noisy = (noisy_channels(self.clock.family, module, inputs[0]), *inputs[1:])
        time = torch.as_tensor(arguments["timestep"])
        slack = torch.finfo(time.dtype).eps if time.is_floating_point() else 0.0
        asked = Asked(
            inputs,
            tuple(map(sketch, noisy)),
            float(time.max()),
            max(slack, ON_THE_LIST),
            self.context.name,
            arguments.get("encoder_hidden_states"),
        )
        run, new = self.runs.of(asked, module, lambda: self.opened(self))
        self._here.run = run
        self.ended.tell()
        if new:
            sigma = self.clock.sigma(self.runs.time_of(run))
            run.decision = run.runner.begin(noisy, sigma)
        return run

    def _holds_pair(self, arguments: dict[str, Any]) -> bool:
        """Whether a call holds a guidance pair: pipelines name it so without guidance, too, and
        those that name nothing show it by the same latent twice.
        """
        if self.context.name not in (None, "cond_uncond"):
            return False
        x = arguments["hidden_states"]
        return len(x) % 2 == 0 and torch.equal(*x.chunk(2))

    def _branches(self, run: Run, arguments: dict[str, Any], pair: bool) -> tuple[Branch, ...]:
        """Keys of this call's chunks: the pipeline's name for it, its conditioning and its turn.

        Unnamed guidance calls differ by conditioning; calls that share it (perturbed attention,
        skipped layers) by their order among calls with equal t and x.
        """
        text = arguments.get("encoder_hidden_states")
        known = (i for i, other in enumerate(run.conditions) if same(text, other))
        if (index := next(known, None)) is None:
            index = len(run.conditions)
            run.conditions.append(text)
        name = self.context.name
        turn = run.calls[name, index]
        run.calls[name, index] += 1
        role = {None: "cond" if index == 0 else "call", "cond_uncond": "cond"}.get(name, name)
        ident = name, index, turn
        if pair:  # in diffusers' order, which is not known to hold where nothing is named
            return Branch("uncond" if name else "call", ident), Branch("cond", ident)
        return (Branch(role, ident),)
