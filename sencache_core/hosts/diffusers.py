"""Attach a cache, or a recorder, to the transformer of a diffusers pipeline."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ..config import CacheConfig
from ..measure.blocks import BlockWatch
from ..measure.calibration import Calibration
from ..measure.learnt_store import LearntStore, default_folder
from ..measure.profile import ProfileHeader, Recording
from ..model.fingerprint import fingerprint
from ..model.taps import TAPS, Tap
from ..policies import Off
from ..run.facts import Facts, Part
from ..run.runner import Runner
from ..run.stats import RunReport
from ..sampler.schedule import Schedule
from ..types import OUTPUT
from ..words import Message
from ._diffusers import (
    HookRegistry,
    channel_dim,
    clocks_of,
    guidance_of,
    header_of,
    nonlinear_guidance,
)
from ._diffusers_caches import refuse_other_caches
from ._diffusers_hook import Hook
from ._diffusers_runs import MOST_OPEN, Ended, Runs
from ._diffusers_schedulers import Clock
from ._diffusers_stages import Stages

HOOK_NAME = "sencache"


class Attachment:
    """A cache, or a recorder, on one or two transformers. Also a context manager.

    Attributes:
        reports: one a run, newest last. A run ends with its pipeline, with the next start in the
            same thread, or with an error.
    """

    def __init__(
        self,
        start: Callable[..., Runner],
        on_report: Callable | None = None,
        done: Callable[[Runner], None] | None = None,
        recordings: Callable[[], list[Recording]] = list,
        limit: int = MOST_OPEN,
        tap: Tap = TAPS[OUTPUT.tap],
        enters: bool = False,
    ) -> None:
        self.reports: list[RunReport] = []
        self._start, self._on_report, self._done = start, on_report, done
        self._recordings, self._limit, self._tap = recordings, limit, tap
        self._enters = enters  # whether something inside the model is looked at or answered
        self._ended = Ended(self._note, self._tell)
        self._hooks: list[tuple[nn.Module, Hook, bool, Callable]] = []

    @property
    def recordings(self) -> list[Recording]:
        """What was measured so far, one entry a completed sample; empty for a cache."""
        return self._recordings()

    def add(self, module: nn.Module, clock: Clock) -> None:
        if HOOK_NAME in getattr(getattr(module, "_diffusers_hook", None), "hooks", ()):
            raise ValueError("this model has a SenCache attached already; detach it first")
        self._refuse(module)
        registry = HookRegistry.check_if_exists_or_initialize(module)
        runs = Runs(clock, partial(self._begin, clock), self._ended, self._limit)
        hook = Hook(runs, self._opened, self._ended, self._tap)
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
            hook.runs.end_all()
        self._ended.tell()

    def close(self) -> None:
        """End open runs now, instead of at the next start or :meth:`detach`."""
        for _, hook, *_ in self._hooks:
            hook.runs.end_all()
        self._ended.tell()

    def _begin(self, clock: Clock, schedule: Schedule | None, module: nn.Module, inputs) -> Runner:
        self._refuse(module)  # what has come since
        return self._start(clock, schedule, module, inputs)

    def _refuse(self, module: nn.Module) -> None:
        """Raise a ``ValueError`` for what cannot go together with this cache on ``module``."""
        refuse_other_caches(module, HOOK_NAME)
        if self._enters and module._compiled_call_impl is not None:
            who, instead = "this policy", "another policy"
            if self._tap.inside:
                who, instead = f"the {self._tap.name} tap", "the output tap"
            raise ValueError(
                f"{who} works inside the transformer, which is compiled as a whole: use "
                f"compile_repeated_blocks() instead of compile(), or {instead}"
            )

    def _opened(self, hook: Hook) -> None:
        """A run begins: another transformer's that are complete have ended."""
        for _, other, *_ in self._hooks:
            if other is not hook:
                other.runs.tidy()

    def _note(self, runner: Runner) -> None:
        self.reports.append(runner.report)
        if self._done is not None:
            self._done(runner)

    def _tell(self, runner: Runner) -> None:
        """Hand on a run's report. An error of the user's own must not cost the sample."""
        if self._on_report is None:
            return
        try:
            self._on_report(runner.report)
        except Exception as error:
            message = Message.of("callback_failed", error=f"{type(error).__name__}: {error}")
            runner.report.say(message)
            warnings.warn(str(message), stacklevel=2)

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
    learn: bool | str | Path = True,
    guidance: float | None = None,
) -> Attachment:
    """Cache the calls of a diffusers transformer.

    Attach before ``enable_model_cpu_offload``. Compiled transformers work with the output tap,
    those whose blocks are compiled (``compile_repeated_blocks``) with any.

    Args:
        model: a pipeline, or its transformer. Both transformers of a Wan 2.2 pipeline are cached,
            each as a run of its own, with one budget.
        config: how to cache.
        scheduler: where a bare transformer's noise levels are read at the start of each run.
        num_steps: instead of ``scheduler``, for flow models: as if noise fell evenly to 0.
        on_report: called with the report of every run that has ended.
        learn: whether later runs forecast by what completed ones tell of their model, or the folder
            where that is kept, else :func:`..measure.learnt_store.default_folder`. Kilobytes, never
            tensors. Where the configuration names a folder, that is taken.
        guidance: scale of classifier-free guidance, for policies that go by it and for what is
            learnt; ``None``: a pipeline's own.

    Raises:
        ValueError: unknown transformer class, no schedule, a cache on it already (of any kind), or
            a tap inside a transformer that is compiled as a whole.
        ProfileError: the profile belongs to another family or tap.
    """

    folder = default_folder() if learn is True else learn or None
    if config.learn is None and folder is not None:
        config = replace(config, learn=LearntStore(Path(folder)))

    def start(clock: Clock, schedule: Schedule | None, module, inputs) -> Runner:
        header = None
        own = guidance_of(model, module) if guidance is None else guidance
        if config.profile is not None or config.learn is not None:
            header = header_of(module, clock.row, schedule, inputs, config.tapping.figures)
            header = replace(header, guidance=own)
        linear, channels = nonlinear_guidance(model) is None, channel_dim(clock.family)
        blocks = clock.row.diffusers_places.count(module)
        facts = Facts(
            clock.family.prediction, linear, channels=channels, blocks=blocks, guidance=own
        )
        if schedule is not None:
            rest, below = None, clock.rest()
            for other in [other for other, _ in clocks if other is not module and below]:
                known = "" if header is None else fingerprint(other)
                scale = guidance_of(model, other) if guidance is None else guidance
                rest = Part(below, known, scale)
            facts = replace(facts, stage=stages.of(schedule, rest))
            runner = config.start(clock.row, schedule, header, facts)
            stages.begun(runner, schedule, facts.stage)
            return runner
        off = replace(config, policy=Off(), budget=None)
        return off.start(clock.row, Schedule((1.0, 0.0)), header, facts)

    stages = Stages()
    clocks = clocks_of(model, scheduler, num_steps)
    if config.profile is not None:
        config.profile.mismatches(ProfileHeader(clocks[0][1].row.name, tap=config.tapping.figures))
    tap, enters = config.tapping, config.enters_model
    attachment = Attachment(start, on_report, stages.ended, tap=tap, enters=enters)
    return _attached(attachment, clocks)


def record(
    model: Any,
    scheduler: Any = None,
    num_steps: int | None = None,
    guidance: float | None = None,
    probes: int = 0,
    layers: bool = False,
) -> Attachment:
    """Measure a transformer while it samples; see ``Attachment.recordings``.

    Args and errors as for :func:`attach`. Costs one more evaluation a step.

    Args:
        guidance: scale of classifier-free guidance; ``None``: a pipeline's own, else unknown, and
            what is measured are the conditional outputs instead of the guided ones.
        probes: in how many runs of their own to see how far errors travel: each sample must then be
            sampled ``Calibration(probes).runs_of(rounds)`` times from the same noise.
        layers: measure how every layer changes, too, for policies that decide about layers. A
            transformer that is compiled as a whole cannot be entered for it.
    """
    if guidance is None:
        guidance = getattr(model, "_guidance_scale", None)
    runs: dict[nn.Module, Calibration] = {}
    owners: dict[int, Calibration] = {}

    def start(clock: Clock, schedule: Schedule | None, module, inputs) -> Runner:
        if schedule is None:
            raise ValueError("the first timestep is not on the scheduler's list")
        calibration = runs.setdefault(module, Calibration(probes))
        looks = module._compiled_call_impl is None
        runner = calibration.start(clock.row, schedule, guidance=guidance, looks=looks)
        owners[id(runner)] = calibration
        return runner

    def done(runner: Runner) -> None:
        owners.pop(id(runner)).finished(runner)

    def recordings() -> list[Recording]:
        return [recording for calibration in runs.values() for recording in calibration.recordings]

    tap = TAPS["layers"] if layers else TAPS[OUTPUT.tap]
    attachment = Attachment(start, None, done, recordings, limit=1, tap=tap, enters=layers)
    return _attached(attachment, clocks_of(model, scheduler, num_steps))


def watch_blocks(
    model: Any,
    done: Callable[[BlockWatch], None],
    scheduler: Any = None,
    num_steps: int | None = None,
) -> Attachment:
    """Measure which blocks may be reused while a transformer samples, at hardly more than its time.

    Args and errors as for :func:`attach`.

    Args:
        done: called with what has watched each run that was sampled to its end.
    """

    def start(clock: Clock, schedule: Schedule | None, module, inputs) -> Runner:
        if schedule is None:
            raise ValueError("the first timestep is not on the scheduler's list")
        return BlockWatch(clock.row, schedule)

    def ended(watch: BlockWatch) -> None:
        if watch.report.completed:
            done(watch)

    attachment = Attachment(start, None, ended, limit=1, tap=TAPS["blocks"], enters=True)
    return _attached(attachment, clocks_of(model, scheduler, num_steps))


def _attached(attachment: Attachment, clocks: list[tuple[nn.Module, Clock]]) -> Attachment:
    try:
        for module, clock in clocks:
            attachment.add(module, clock)
    except BaseException:
        attachment.detach()
        raise
    return attachment
