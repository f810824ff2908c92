"""ComfyUI: wrappers on a cloned ModelPatcher, nothing on the model itself.

A run's state is born in OUTER_SAMPLE and dropped there; PREDICT_NOISE is the clock and opens a
round; APPLY_MODEL answers each model call. Both the caching and the measuring runner go through
the same wrappers. Works on ComfyUI 0.3.64 and later.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import torch
from torch import Tensor

from ..config import CacheConfig
from ..families import GENERIC, Family, family_of
from ..fingerprint import fingerprint
from ..policies import Prior, RunInfo
from ..profile import ProfileHeader, Recording
from ..recorder import Recorder
from ..schedule import Schedule, as_floats
from ..session import Runner
from ..stats import RunReport
from ..taps import StackCall, stack_tap
from ..types import Branch

KEY = "sencache"
_CALL = "sencache_call"
_WRAPPERS = comfy.patcher_extension.WrappersMP

Publish = Callable[[RunReport], None]

#: Other caches by the wrapper key or option they leave on a model. Two caches on one model each
#: take the other's forecast for the truth.
_OTHER_CACHES = {"easycache": "EasyCache", "lazycache": "LazyCache"}

#: Options that every call carries; any other name marks a special pass (skip-layer guidance,
#: LTX-2 modality guidance...) whose outputs must not be mixed with the plain one's.
_PLAIN_OPTIONS = frozenset(
    (
        *("wrappers", "callbacks", "patches", "patches_replace", "optimized_attention_override"),
        *("sigmas", "sample_sigmas", "cond_or_uncond", "uuids", "context_window"),
        *("block_index", "block_type", "total_blocks", "grid_sizes", "rope_options"),
        *("prefetch_dynamic_vbars", "multigpu_thread_device", KEY, _CALL),
    )
)

#: Below this noise level dividing by sigma would amplify rounding: the output is not recorded.
_SMALLEST_SIGMA = 1e-3

#: Token-sized residual over fp32 latent, the largest of the models in facts of section 0.3 of
#: the methods survey (Wan 14B): 320 MiB over 8 MiB.
_STACK_RATIO = 40


class UnsupportedModel(ValueError):
    """This model, or this combination of patches, cannot be cached. The message says why."""


@dataclass(frozen=True)
class ModelFacts:
    """What the pack knows of a loaded model.

    Attributes:
        family: its row, ``None`` if unknown.
        fingerprint: of its weights.
    """

    family: Family | None
    fingerprint: str


def describe(model: Any) -> ModelFacts:
    """Family and fingerprint of a ``ModelPatcher``."""
    family = family_of(model.model, lambda row: row.comfy_classes)
    return ModelFacts(family, fingerprint(model.model.diffusion_model))


def attach(
    model: Any,
    config: CacheConfig,
    publish: Publish | None = None,
    live: Publish | None = None,
) -> Any:
    """A clone of ``model`` that caches. ``model`` itself stays as it was.

    Args:
        model: ``ModelPatcher``. An earlier SenCache on it is replaced, never nested.
        config: how to cache.
        publish: called with the report at the end of every run, completed or not.
        live: called with the report so far after every evaluation round.

    Raises:
        UnsupportedModel: the model is causal, or another cache sits on it already.
    """

    def start(guider: Any, schedule: Schedule, header: ProfileHeader) -> Runner:
        family = family_of(guider.model_patcher.model, lambda row: row.comfy_classes)
        return config.start(family, schedule, header if config.profile else None)

    fingerprinted = config.profile is not None
    return _patched(model, _Host(start, config.tap, fingerprinted, publish, live))


def record(
    model: Any,
    done: Callable[[Recording, ProfileHeader], None],
    live: Publish | None = None,
    tap: str = "output",
) -> Any:
    """A clone of ``model`` that measures instead of caching, at about twice the time of a run.

    Args:
        model: ``ModelPatcher``; see :func:`attach`.
        done: called with what was measured at the end of every completed run.
        live: called with the report so far after every evaluation round.
        tap: where to measure, see ``CacheConfig.tap``.

    Raises:
        UnsupportedModel: as for :func:`attach`.
    """
    runs: dict[int, ProfileHeader] = {}

    def start(guider: Any, schedule: Schedule, header: ProfileHeader) -> Runner:
        family = family_of(guider.model_patcher.model, lambda row: row.comfy_classes) or GENERIC
        report = RunReport(family.name, "calibration", "none", tap, schedule.num_steps)
        recorder = Recorder(RunInfo(family, schedule, Prior(family)), report)
        runs[id(report)] = header
        return recorder

    def publish(report: RunReport, runner: Recorder) -> None:
        header = runs.pop(id(report))
        if report.completed:
            done(runner.recording(), header)

    return _patched(model, _Host(start, tap, True, publish, live, wants_runner=True))


@dataclass(frozen=True)
class _Host:
    """The wrappers' shared configuration. Holds no run state."""

    start: Callable[[Any, Schedule, ProfileHeader], Runner]
    tap: str
    fingerprinted: bool
    publish: Callable[..., None] | None
    live: Publish | None
    wants_runner: bool = False

    def outer_sample(self, executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        guider = executor.class_obj
        options = guider.model_options["transformer_options"]
        _refuse_other_caches(options, options.get("wrappers", {}))
        schedule = Schedule(as_floats(sigmas), _sampler_name(sampler))
        header = self._header(guider, schedule, noise)
        shapes = kwargs.get("latent_shapes") or [noise.shape]
        run = _Run(self.start(guider, schedule, header), self.tap, _roles(guider), shapes)
        options[KEY] = run
        completed = False
        try:
            out = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
            completed = True
            return out
        finally:
            options.pop(KEY, None)
            report = run.runner.finish(completed)
            if self.publish is not None:
                extra = (run.runner,) if self.wants_runner else ()
                self.publish(report, *extra)

    def _header(self, guider, schedule: Schedule, noise: Tensor) -> ProfileHeader:
        model = guider.model_patcher.model
        family = family_of(model, lambda row: row.comfy_classes) or GENERIC
        return ProfileHeader(
            family=family.name,
            fingerprint=fingerprint(model.diffusion_model) if self.fingerprinted else "",
            sampler=schedule.sampler,
            sigmas=schedule.sigmas,
            guidance=float(getattr(guider, "cfg", 0.0)),
            shape=tuple(noise.shape),
            dtype=str(noise.dtype).removeprefix("torch."),
            tap=self.tap,
        )

    def prepare_sampling(self, executor, model, noise_shape, *args, **kwargs):
        """Ask for as much more memory as the history will hold: two branches, three outputs."""
        shape = list(noise_shape)
        needed = model.memory_required([shape[0] * 2, *shape[1:]])
        held = 2 * 3 * 4 * torch.Size(int(n) for n in shape).numel()
        if self.tap == "stack":
            held *= _STACK_RATIO
        if needed > 0:
            shape[-1] *= 1 + held / needed
        return executor(model, shape, *args, **kwargs)

    def predict_noise(self, executor, x, timestep, model_options=None, *args, **kwargs):
        run = executor.class_obj.model_options["transformer_options"].get(KEY)
        if run is None:
            return executor(x, timestep, model_options, *args, **kwargs)
        run.begin(x, timestep)
        out = executor(x, timestep, model_options, *args, **kwargs)
        if self.live is not None:
            self.live(run.runner.report)
        return out

    def apply_model(
        self,
        executor,
        x,
        t,
        c_concat=None,
        c_crossattn=None,
        control=None,
        transformer_options=None,
        **kwargs,
    ):
        options = transformer_options or {}
        run = options.get(KEY)

        def model(sigma: Tensor, more: Mapping[str, Any] | None = None) -> Tensor:
            own = options if more is None else {**options, **more}
            return executor(x, sigma, c_concat, c_crossattn, control, own, **kwargs)

        if run is None or _training():
            return model(t)
        marks = (control is not None, tuple(sorted(kwargs)))
        branches = run.branches(executor.class_obj, options, x.shape, marks)
        serve = run.serve_stack if run.tap == "stack" else run.serve_output
        return serve(executor.class_obj, model, x, t, options, branches)


@dataclass
class _Run:
    """One sampling run. Lives in ``transformer_options`` from OUTER_SAMPLE's start to its end."""

    runner: Runner
    tap: str
    roles: Mapping[Hashable, str]
    shapes: list
    seen: Counter = field(default_factory=Counter)
    # Multi-GPU setups call the model from several threads at once.
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, x: Tensor, sigma: Tensor) -> None:
        self.seen.clear()
        self.runner.begin(self._modalities(x), sigma)

    def _modalities(self, x: Tensor) -> list[Tensor]:
        """Video and audio of a packed LTX-2 latent ``[B, 1, N]``; any other latent as it is."""
        sizes = [torch.Size(shape[1:]).numel() for shape in self.shapes]
        if len(sizes) == 1 or sum(sizes) != x.shape[-1]:
            return [x]
        return list(x.split(sizes, dim=-1))

    def branches(
        self, base_model: Any, options: Mapping[str, Any], shape: torch.Size, marks: Hashable
    ) -> list[Branch]:
        """One key per chunk of a call.

        A cond's uuid alone does not tell: area conds lend theirs to the uncond twin, context
        windows repeat it over other frames, and guidance passes over the very same input. So the
        key also holds model, cond index, chunk shape, window, what marks the pass, and how many
        equal chunks came before it in this round.
        """
        uuids, indices = options["uuids"], options["cond_or_uncond"]
        window = options.get("context_window")
        frames = window and (
            tuple(window.index_list),
            getattr(window, "causal_anchor_index", None),
        )
        chunk = (shape[0] // len(uuids), *shape[1:])
        fixed = (id(base_model), chunk, frames, marks, _pass_marks(options), _hooks(base_model))
        keys = []
        with self.lock:
            for uuid, index in zip(uuids, indices, strict=True):
                ident = (uuid, index, *fixed)
                self.seen[ident] += 1
                role = self.roles.get(uuid, str(index))
                keys.append(Branch(role, (*ident, self.seen[ident])))
        return keys

    def serve_output(self, base_model, model, x, t, options, branches) -> Tensor:
        """Answer one call from the output tap: the raw output (v), never the denoised latent."""
        sampling = base_model.model_sampling
        with self.lock:
            v = self.runner.predict(branches, x.shape)
        if v is not None:
            return sampling.calculate_denoised(t, v.to(x), x)
        denoised = model(t)

        def evaluate_at(sigma: float) -> Tensor:
            other = torch.full_like(t, sigma)
            own = torch.full_like(options["sigmas"], sigma)
            return _raw(sampling, other, x, model(other, {"sigmas": own}))

        v = _raw(sampling, t, x, denoised) if self._sigma() >= _SMALLEST_SIGMA else None
        with self.lock:
            self.runner.observe(branches, v, evaluate_at)
        return denoised

    def serve_stack(self, base_model, model, x, t, options, branches) -> Tensor:
        """Run the model; inside it, the block stack's residual is predicted or observed."""

        def predict(shape: torch.Size) -> Tensor | None:
            with self.lock:
                return self.runner.predict(branches, shape)

        family = family_of(base_model, lambda row: row.comfy_classes) or GENERIC
        call = StackCall(family, predict)
        denoised = model(t, {_CALL: call})
        if call.reused:
            return denoised

        def evaluate_at(sigma: float) -> Tensor:
            probe = StackCall(family, lambda shape: None)
            own = torch.full_like(options["sigmas"], sigma)
            model(torch.full_like(t, sigma), {_CALL: probe, "sigmas": own})
            return probe.payload

        if call.payload is None:
            self.runner.report.say(
                "The stack tap finds no block stack in this model: every evaluation is computed. "
                "Choose the output tap."
            )
        with self.lock:
            self.runner.observe(branches, call.payload, evaluate_at)
        return denoised

    def _sigma(self) -> float:
        return self.runner.report.steps[-1].sigma


def _diffusion_model(executor, *args, **kwargs):
    """Tap the block stack of the module that is being called; present for the stack tap only."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, dict) and isinstance(value.get(_CALL), StackCall):
            with stack_tap(executor.class_obj, value[_CALL]):
                return executor(*args, **kwargs)
    return executor(*args, **kwargs)


def _raw(sampling: Any, sigma: Tensor, x: Tensor, denoised: Tensor) -> Tensor:
    """The model's own output from the denoised latent, which is an affine function of it.

    Works for every prediction type and stays outside the compiled region.
    """
    thin = torch.zeros([x.shape[0]] + [1] * (x.ndim - 1), dtype=x.dtype, device=x.device)
    offset = sampling.calculate_denoised(sigma, thin, x)
    slope = sampling.calculate_denoised(sigma, thin + 1, thin)
    slope = slope - sampling.calculate_denoised(sigma, thin, thin)
    return (denoised - offset) / slope


def _patched(model: Any, host: _Host) -> Any:
    if type(model.model).__name__ == "WAN21_CausalAR":
        raise UnsupportedModel(
            "SenCache cannot cache causal Wan models: their key/value cache is filled by the very "
            "calls that would be skipped. Remove the SenCache node."
        )
    clone = model.clone()
    for kind in (
        _WRAPPERS.OUTER_SAMPLE,
        _WRAPPERS.PREPARE_SAMPLING,
        _WRAPPERS.PREDICT_NOISE,
        _WRAPPERS.APPLY_MODEL,
        _WRAPPERS.DIFFUSION_MODEL,
    ):
        clone.remove_wrappers_with_key(kind, KEY)
    _refuse_other_caches(clone.model_options["transformer_options"], clone.wrappers)
    clone.add_wrapper_with_key(_WRAPPERS.OUTER_SAMPLE, KEY, host.outer_sample)
    clone.add_wrapper_with_key(_WRAPPERS.PREPARE_SAMPLING, KEY, host.prepare_sampling)
    clone.add_wrapper_with_key(_WRAPPERS.PREDICT_NOISE, KEY, host.predict_noise)
    clone.add_wrapper_with_key(_WRAPPERS.APPLY_MODEL, KEY, host.apply_model)
    if host.tap == "stack":
        clone.add_wrapper_with_key(_WRAPPERS.DIFFUSION_MODEL, KEY, _diffusion_model)
    return clone


def _refuse_other_caches(options: Mapping[str, Any], wrappers: Mapping[str, Any]) -> None:
    present = set(options) | {key for by_key in wrappers.values() for key in by_key}
    for key, name in _OTHER_CACHES.items():
        if key in present:
            raise UnsupportedModel(
                f"{name} is already on this model. Two caches would take each other's forecasts "
                f"for the truth: remove or bypass either {name} or SenCache."
            )


def _roles(guider: Any) -> dict[Hashable, str]:
    """Role of each cond by uuid. Guiders call their lists positive and negative, or otherwise."""
    names = {"positive": "cond", "negative": "uncond"}
    return {
        cond["uuid"]: names.get(name, name)
        for name, conds in guider.conds.items()
        for cond in conds
        if "uuid" in cond
    }


def _pass_marks(options: Mapping[str, Any]) -> Hashable:
    replaced = options.get("patches_replace", {})
    return (
        frozenset(options) - _PLAIN_OPTIONS,
        tuple(sorted(str(key) for kind in replaced.values() for key in kind)),
        tuple(sorted(options.get("patches", {}))),
    )


def _hooks(base_model: Any) -> Hashable:
    """Weight hooks in force (LoRA schedules) and their strengths."""
    group = getattr(base_model.current_patcher, "current_hooks", None)
    if group is None:
        return None
    return tuple((hook.hook_ref, hook.strength) for hook in group.hooks)


def _sampler_name(sampler: Any) -> str:
    function = getattr(sampler, "sampler_function", None)
    name = getattr(function, "__name__", type(sampler).__name__.lower())
    return name.removeprefix("sample_")


def _training() -> bool:
    return torch.is_grad_enabled() or getattr(comfy.model_management, "in_training", False)
