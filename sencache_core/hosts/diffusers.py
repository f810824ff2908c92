"""Attach a cache, or a recorder, to the transformer of a diffusers pipeline."""

from __future__ import annotations

import inspect
import math
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..config import CacheConfig
from ..measure.calibration import Calibration
from ..measure.profile import ProfileHeader, Recording
from ..policies import Off
from ..run.runner import Call, EvaluateAt, Runner, runs_first
from ..run.stats import RunReport
from ..sampler.schedule import Schedule
from ..types import OUTPUT, Branch, Decision
from ._diffusers import (
    Clock,
    Container,
    ContextName,
    HookRegistry,
    ModelHook,
    at_timestep,
    clocks_of,
    halves_of,
    header_of,
    noisy_channels,
    same,
)

HOOK_NAME = "sencache"


@dataclass
class _Run:
    """One sampling run of one transformer.

    Attributes:
        runner: caches or measures.
        rounds: evaluation rounds to be expected, ``None`` if unknown.
        timestep, inputs: of the present round; ``inputs`` are owned copies, of a batched pair one
            half.
        decision: of the present round.
        calls: how often each (context name, conditioning) was seen in the present round.
        conditions: distinct text conditionings of the run, in order of appearance.
        containers: output container by branch and ``return_dict``.
    """

    runner: Runner
    rounds: int | None
    timestep: float = math.inf
    inputs: tuple[Tensor, ...] = ()
    decision: Decision | None = None
    calls: Counter = field(default_factory=Counter)
    conditions: list[Tensor | None] = field(default_factory=list)
    containers: dict[Any, Container | None] = field(default_factory=dict)


class _Hook(ModelHook):
    """Stands around one transformer's ``forward``.

    Args:
        clock: its timesteps.
        start: makes a run's runner, given the clock, its schedule (or ``None``), the transformer
            and its noisy inputs.
        opened, publish: called when a run begins, and with the runner of each that has ended.
    """

    _is_stateful = True

    def __init__(self, clock: Clock, start, opened, publish) -> None:
        super().__init__()
        self.clock, self.start, self.opened, self.publish = clock, start, opened, publish
        self.context, self.warned = ContextName(), False
        self.run: _Run | None = None

    def initialize_hook(self, module: nn.Module) -> nn.Module:
        self.signature = inspect.signature(module.forward)
        return module

    def reset_state(self, module: nn.Module) -> nn.Module:
        self.finish()
        return module

    def new_forward(self, module: nn.Module, *args, **kwargs):
        forward = self.fn_ref.original_forward
        if torch.is_grad_enabled() and any(
            tensor.requires_grad
            for tensor in (*module.parameters(), *args, *kwargs.values())
            if isinstance(tensor, Tensor)
        ):
            if not self.warned:
                self.warned = True
                warnings.warn("no caching with gradients on: use torch.no_grad()", stacklevel=3)
            return forward(*args, **kwargs)
        try:
            return self._call(module, forward, self.signature.bind(*args, **kwargs))
        except BaseException:
            self.finish(failed=True)
            raise

    def _call(self, module: nn.Module, forward, call: inspect.BoundArguments):
        arguments = call.arguments
        pair = self._holds_pair(arguments)
        run = self._round(module, arguments, pair)
        branches = self._branches(run, arguments, pair)
        key = (branches, arguments.get("return_dict", True))
        container = run.containers.get(key)
        first = [runs_first(run.decision, branch) for branch in branches]
        if container and run.decision.partial and any(first) and not all(first):
            halves = halves_of(arguments)
            if halves is not None:
                return self._apart(run, forward, branches, halves, container)
        with Call(run.runner, branches, self._elsewhere(forward, arguments)) as visit:
            if container:
                payload = visit.skip(OUTPUT, container.shape)
                if payload is not None:
                    return container.put(payload)
            output = forward(*call.args, **call.kwargs)
            run.containers[key], payload = Container.of(output)
            if payload is None:
                run.runner.report.say(f"Outputs of type {type(output).__name__} cannot be cached.")
                return output
            handed = visit.ran(OUTPUT, payload)
        return output if handed is None else run.containers[key].put(handed)

    def _apart(self, run: _Run, forward, branches, halves, container: Container):
        """A batched pair, that half first which the other may be rebuilt from."""
        rows, *rest = container.shape
        parts: dict[Branch, Tensor] = {}
        pairs = zip(branches, halves, strict=True)
        for branch, arguments in sorted(pairs, key=lambda p: not runs_first(run.decision, p[0])):
            with Call(run.runner, (branch,), self._elsewhere(forward, arguments)) as visit:
                payload = visit.skip(OUTPUT, (rows // 2, *rest))
                if payload is None:
                    payload = Container.of(forward(**arguments))[1]
                    handed = visit.ran(OUTPUT, payload)
                    payload = payload if handed is None else handed
            parts[branch] = payload
        return container.put(torch.cat([parts[branch] for branch in branches]))

    def _elsewhere(self, forward, arguments: dict[str, Any]) -> EvaluateAt:
        """The payload of a call at another noise level."""

        def evaluate_at(sigma: float) -> Tensor:
            return Container.of(forward(**at_timestep(arguments, self.clock.timestep(sigma))))[1]

        return evaluate_at

    def _round(self, module: nn.Module, arguments: dict[str, Any], pair: bool) -> _Run:
        """The run that this call belongs to, with its evaluation round opened if it is new."""
        names = ("hidden_states", "audio_hidden_states")
        inputs = tuple(arguments[n] for n in names if arguments.get(n) is not None)
        if pair:  # both halves show the same latent
            inputs = tuple(x[: len(x) // 2] for x in inputs)
        timestep = float(torch.as_tensor(arguments["timestep"]).max())
        run = self.run
        if run is not None:
            changed = [x.shape for x in inputs] != [x.shape for x in run.inputs]
            same_time = timestep == run.timestep and not changed
            if same_time and all(map(torch.equal, inputs, run.inputs)):
                return run
            full = run.rounds is not None and len(run.runner.report.steps) >= run.rounds
            if changed or full or timestep > run.timestep:
                self.finish()
        if self.run is None:
            self.opened(self)
            schedule = self.clock.schedule(timestep)
            runner = self.start(self.clock, schedule, module, inputs)
            self.run = _Run(runner, len(schedule.rounds) if schedule else None)
        run = self.run
        run.timestep, run.inputs = timestep, tuple(x.clone() for x in inputs)
        run.calls.clear()
        noisy = noisy_channels(self.clock.family, module, inputs[0])
        sigma = self.clock.sigma(timestep)
        run.decision = run.runner.begin((noisy, *inputs[1:]), sigma)
        return run

    def _holds_pair(self, arguments: dict[str, Any]) -> bool:
        """Whether a call holds a guidance pair: pipelines name it so without guidance, too."""
        if self.context.name != "cond_uncond":
            return False
        x = arguments["hidden_states"]
        return len(x) % 2 == 0 and torch.equal(*x.chunk(2))

    def _branches(self, run: _Run, arguments: dict[str, Any], pair: bool) -> tuple[Branch, ...]:
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
        if pair:
            return Branch("uncond", ident), Branch("cond", ident)  # diffusers' order
        return (Branch(role, ident),)

    def finish(self, failed: bool = False) -> None:
        """End the run, if there is one. It counts as completed if all its rounds were seen."""
        run, self.run = self.run, None
        if run is not None:
            all_seen = len(run.runner.report.steps) >= (run.rounds or 0)
            run.runner.finish(all_seen and not failed)
            self.publish(run.runner)


class Attachment:
    """A cache, or a recorder, on one or two transformers. Also a context manager.

    Attributes:
        reports: one a run, newest last. It ends with the pipeline, the next start, or an error.
    """

    def __init__(
        self,
        start: Callable[..., Runner],
        on_report: Callable | None = None,
        done: Callable[[Runner], None] | None = None,
        recordings: Callable[[], list[Recording]] = list,
    ) -> None:
        self.reports: list[RunReport] = []
        self._start, self._on_report, self._done = start, on_report, done
        self._recordings = recordings
        self._hooks: list[tuple[nn.Module, _Hook, bool, Callable]] = []

    @property
    def recordings(self) -> list[Recording]:
        """What was measured so far, one entry a completed sample; empty for a cache."""
        return self._recordings()

    def add(self, module: nn.Module, clock: Clock) -> None:
        registry = HookRegistry.check_if_exists_or_initialize(module)
        if registry.get_hook(HOOK_NAME) is not None:
            raise ValueError("this model has a SenCache attached already; detach it first")
        hook = _Hook(clock, self._start, self._opened, self._publish)
        plain = "forward" not in vars(module)
        registry.register_hook(hook, HOOK_NAME)
        self._hooks.append((module, hook, plain, module.forward))

    def detach(self) -> None:
        """End open runs and leave every model as it was found."""
        while self._hooks:
            module, hook, plain, installed = self._hooks.pop()
            registry, outer = module._diffusers_hook, module.forward
            registry.remove_hook(HOOK_NAME, recurse=False)
            if getattr(module, "_old_forward", None) is installed:
                # accelerate has wrapped the hook since (model offload) and calls it by this name.
                module._old_forward, module.forward = module.forward, outer
            elif plain and not registry.hooks:
                del module.forward
            if not registry.hooks:
                del module._diffusers_hook
            hook.finish()

    def close(self) -> None:
        """End open runs now, instead of at the next start or :meth:`detach`."""
        for _, hook, *_ in self._hooks:
            hook.finish()

    def _opened(self, hook: _Hook) -> None:
        for _, other, *_ in self._hooks:
            if other is not hook:
                other.finish()

    def _publish(self, runner: Runner) -> None:
        self.reports.append(runner.report)
        if self._done is not None:
            self._done(runner)
        if self._on_report is not None:
            self._on_report(runner.report)

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *_) -> None:
        self.detach()


def attach(
    model: Any,
    config: CacheConfig,
    scheduler: Any = None,
    num_steps: int | None = None,
    on_report: Callable[[RunReport], None] | None = None,
) -> Attachment:
    """Cache the calls of a diffusers transformer.

    Attach before ``enable_model_cpu_offload``. To compile, use ``compile_repeated_blocks``.

    Args:
        model: a pipeline, or its transformer. Both transformers of a Wan 2.2 pipeline are cached,
            each as a run of its own.
        config: how to cache.
        scheduler: where a bare transformer's noise levels are read at the start of each run.
        num_steps: instead of ``scheduler``, for flow models: as if noise fell evenly to 0.
        on_report: called with the report of every run that has ended.

    Raises:
        ValueError: unknown transformer class, no schedule, a cache attached already, or a tap other
            than ``"output"``.
        ProfileError: the profile belongs to another family or tap.
    """
    if config.tap_in_use != OUTPUT.tap:
        raise ValueError(
            f"this host caches the output only; set tap='output', not {config.tap_in_use!r}"
        )

    def start(clock: Clock, schedule: Schedule | None, module, inputs) -> Runner:
        header = header_of(module, clock.family, schedule, inputs) if config.profile else None
        if schedule is not None:
            return config.start(clock.family, schedule, header)
        off = replace(config, policy=Off(), budget=None)
        runner = off.start(clock.family, Schedule((1.0, 0.0)), header)
        runner.report.say("Caching is off: the first timestep is not on the scheduler's list.")
        return runner

    clocks = clocks_of(model, scheduler, num_steps)
    if config.profile is not None:
        config.profile.mismatches(ProfileHeader(clocks[0][1].family.name))
    return _attached(Attachment(start, on_report), clocks)


def record(
    model: Any,
    scheduler: Any = None,
    num_steps: int | None = None,
    guidance: float | None = None,
    probes: int = 0,
) -> Attachment:
    """Measure a transformer while it samples; see ``Attachment.recordings``.

    Args and errors as for :func:`attach`. Costs one more evaluation a step.

    Args:
        guidance: scale of classifier-free guidance; ``None``: a pipeline's own, else unknown, and
            what is measured are the conditional outputs instead of the guided ones.
        probes: in how many runs of their own to see how far errors travel: each sample must then be
            sampled ``Calibration(probes).runs_of(rounds)`` times from the same noise.
    """
    if guidance is None:
        guidance = getattr(model, "_guidance_scale", None)
    runs: dict[nn.Module, Calibration] = {}
    owners: dict[int, Calibration] = {}

    def start(clock: Clock, schedule: Schedule | None, module, inputs) -> Runner:
        if schedule is None:
            raise ValueError("the first timestep is not on the scheduler's list")
        calibration = runs.setdefault(module, Calibration(probes))
        runner = calibration.start(clock.family, schedule, guidance=guidance)
        owners[id(runner)] = calibration
        return runner

    def done(runner: Runner) -> None:
        owners.pop(id(runner)).finished(runner)

    def recordings() -> list[Recording]:
        return [recording for calibration in runs.values() for recording in calibration.recordings]

    attachment = Attachment(start, None, done, recordings)
    return _attached(attachment, clocks_of(model, scheduler, num_steps))


def _attached(attachment: Attachment, clocks: list[tuple[nn.Module, Clock]]) -> Attachment:
    try:
        for module, clock in clocks:
            attachment.add(module, clock)
    except BaseException:
        attachment.detach()
        raise
    return attachment
