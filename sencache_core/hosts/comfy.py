"""ComfyUI: wrappers on a cloned ModelPatcher, nothing on the model itself.

A run's state is born in OUTER_SAMPLE and dropped there; PREDICT_NOISE is the clock and opens a
round; CALC_COND_BATCH puts conditional branches first; APPLY_MODEL answers each model call. Both
the caching and the measuring runner go through the same wrappers. Works on ComfyUI 0.3.64 and
later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import comfy.patcher_extension
from torch import Tensor
from torch._dynamo import OptimizedModule

from ..config import CacheConfig
from ..measure.blocks import BlockWatch
from ..measure.calibration import Calibration
from ..measure.profile import ProfileHeader, Recording
from ..measure.recorder import Recorder
from ..model.families import GENERIC
from ..model.fingerprint import fingerprint
from ..model.taps import TAPS, Tap
from ..run.facts import Facts, Part
from ..run.runner import Runner
from ..run.stats import RunReport
from ..sampler.schedule import Schedule, as_floats
from .comfy_facts import facts_of, header_of
from .comfy_guidance import guidance_scale, plain_guidance
from .comfy_keys import KEY
from .comfy_memory import Kept, expected_bytes, report_memory
from .comfy_neighbours import refuse_other_caches, replaced_forward
from .comfy_prediction import clean_of
from .comfy_preview import Mended
from .comfy_run import Run, Shared, UnsupportedModel, diffusion_model, model_family
from .comfy_stages import Stages

_WRAPPERS = comfy.patcher_extension.WrappersMP

Publish = Callable[[RunReport], None]

#: What runs know of each other; figures only.
STAGES = Stages()


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
        live: called with the report so far at the start of a run and after every round.

    Raises:
        UnsupportedModel: the model is causal, or another cache sits on it already.
    """

    def start(guider: Any, schedule: Schedule, header: ProfileHeader, facts: Facts) -> Runner:
        return config.start(model_family(guider.model_patcher.model), schedule, header, facts)

    def done(runner: Runner, header: ProfileHeader) -> None:
        _tell(publish, runner.report)

    known = config.profile is not None or config.learn is not None
    enters, kept = config.enters_model, Kept.of(config)
    return _patched(model, _Host(start, config.tapping, enters, known, done, live, kept))


def detach(model: Any) -> Any:
    """A clone of ``model`` without a cache or recorder; ``model`` itself if it has none."""
    if not any(KEY in by_key for by_key in model.wrappers.values()):
        return model
    return _bare(model)


def record(
    model: Any,
    done: Callable[[Recording, ProfileHeader], None],
    live: Publish | None = None,
    tap: str = "output",
    calibration: Calibration | None = None,
) -> Any:
    """A clone of ``model`` that measures instead of caching, at about twice the time of a run.

    Args:
        model: ``ModelPatcher``; see :func:`attach`.
        done: called with what was measured at the end of every completed run but a probe's.
        live: called with the report so far at the start of a run and after every round.
        tap: where to measure, see ``CacheConfig.tap``; ``"layers"``: the output, and every layer
            besides.
        calibration: says which runs measure and which probe; ``None``: all measure. Probes repeat
            a run by its branches, which are named after the conditionings: sample all runs with one
            guider whose conditionings were set once.

    Raises:
        UnsupportedModel: as for :func:`attach`.
    """
    looks = not isinstance(model.get_model_object("diffusion_model"), OptimizedModule)
    runs = calibration or Calibration(probes=0)

    def start(guider: Any, schedule: Schedule, header: ProfileHeader, facts: Facts) -> Runner:
        family = model_family(guider.model_patcher.model) or GENERIC
        return runs.start(family, schedule, TAPS[tap].figures, header.guidance or None, looks)

    def measured(runner: Runner, header: ProfileHeader) -> None:
        runs.finished(runner)
        if isinstance(runner, Recorder) and runner.report.completed:
            done(runner.recording(), header)

    kept = Kept(TAPS[tap])
    enters = kept.tap.inside or looks
    return _patched(model, _Host(start, kept.tap, enters, True, measured, live, kept))


def watch_blocks(
    model: Any, done: Callable[[BlockWatch], None], live: Publish | None = None
) -> Any:
    """A clone of ``model`` that measures which blocks may be reused, at hardly more than its time.

    Args:
        model: ``ModelPatcher``; see :func:`attach`.
        done: called with what has watched each completed run.
        live: called with the report so far at the start of a run and after every round.

    Raises:
        UnsupportedModel: as for :func:`attach`.
    """

    def start(guider: Any, schedule: Schedule, header: ProfileHeader, facts: Facts) -> Runner:
        return BlockWatch(model_family(guider.model_patcher.model) or GENERIC, schedule)

    def measured(watch: BlockWatch, header: ProfileHeader) -> None:
        if watch.report.completed:
            done(watch)

    tap = TAPS["blocks"]
    return _patched(model, _Host(start, tap, True, False, measured, live, Kept(tap)))


@dataclass(frozen=True)
class _Host(Shared):
    """The wrappers' shared configuration. Holds no run state."""

    start: Callable[[Any, Schedule, ProfileHeader, Facts], Runner]
    tap: Tap
    enters: bool  # whether something inside the model is looked at or answered
    fingerprinted: bool
    done: Callable[[Any, ProfileHeader], None]
    live: Publish | None
    kept: Kept

    def outer_sample(self, executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        if len(sigmas) < 2:  # no step to take: the sampler is not even called
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        guider = executor.class_obj
        options = guider.model_options["transformer_options"]
        patcher = guider.model_patcher
        refuse_other_caches(patcher, guider.model_options, options.get("wrappers", {}))
        schedule = Schedule(as_floats(sigmas), sampler_name(sampler))
        shapes = kwargs.get("latent_shapes") or [noise.shape]
        header = self._header(guider, schedule, noise.dtype, shapes)
        sampling = patcher.get_model_object("model_sampling")
        before = STAGES.before(noise, latent_image, schedule.sigmas[0])
        part = Part(schedule, header.fingerprint, header.guidance)
        stage = STAGES.stage_of(before, part, sampling)
        clean, plain = clean_of(sampling), plain_guidance(guider)
        network = patcher.model.diffusion_model
        facts = facts_of(guider, sampler, sigmas, stage)
        run = Run(self.start(guider, schedule, header, facts), self.tap, self.enters, shapes)
        if plain and len(args) > 1 and callable(args[1]):
            mended = Mended(run.runner, clean, guidance_scale(guider), args[1])
            args = (args[0], mended, *args[2:])
        if other := replaced_forward(network, patcher.object_patches):
            run.runner.report.say("forward_replaced", function=other)
        report_memory(run.runner.report, self.kept, patcher, shapes)
        _tell(self.live, run.runner.report)  # what is planned, before the first evaluation
        options[KEY] = run
        completed = False
        try:
            out = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
            completed = True
            run.runner.finish(completed)  # what its last round cost is booked then
            if schedule.sigmas[-1] > 0:
                steps = stage.before + schedule.num_steps
                STAGES.remember(out, part, steps, stage.left(run.runner.report))
            return out
        finally:
            options.pop(KEY, None)
            run.runner.finish(completed)
            self.done(run.runner, header)

    def _header(self, guider, schedule: Schedule, dtype, shapes) -> ProfileHeader:
        network = guider.model_patcher.model.diffusion_model
        known = fingerprint(network) if self.fingerprinted else ""
        return header_of(guider, schedule, self.tap.figures, known, shapes, dtype)

    def prepare_sampling(self, executor, model, noise_shape, *args, **kwargs):
        """Ask for as much more memory as the history will hold."""
        shape = list(noise_shape)
        needed = model.memory_required([shape[0] * 2, *shape[1:]])
        if needed > 0:
            shape[-1] *= 1 + expected_bytes(self.kept, model.model, [shape]) / needed
        return executor(model, shape, *args, **kwargs)

    def predict_noise(self, executor, x, timestep, model_options=None, *args, **kwargs):
        run = executor.class_obj.model_options["transformer_options"].get(KEY)
        if run is None:
            return executor(x, timestep, model_options, *args, **kwargs)
        if not run.runner.report.steps:  # other packs put theirs in place as late as we do
            patcher = executor.class_obj.model_patcher
            refuse_other_caches(patcher, executor.class_obj.model_options, {})
        with run.round(executor.class_obj, x, timestep):
            out = executor(x, timestep, model_options, *args, **kwargs)
        _tell(self.live, run.runner.report)
        return out

    def calc_cond_batch(self, executor, model, conds, x_in, timestep, model_options):
        """Ask first for those outputs that others are rebuilt from."""
        run = model_options["transformer_options"].get(KEY)
        if run is not None and run.open:
            run.sums(conds, timestep)
        if run is None or not run.open or not run.decision.partial:
            return executor(model, conds, x_in, timestep, model_options)
        later = [run.later(cond, i) for i, cond in enumerate(conds)]
        first, second = (
            [cond if after == turn else None for cond, after in zip(conds, later, strict=True)]
            for turn in (False, True)
        )
        out = executor(model, first, x_in, timestep, model_options)
        if any(later):
            rest = executor(model, second, x_in, timestep, model_options)
            out = [b if after else a for a, b, after in zip(out, rest, later, strict=True)]
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

            def call() -> Tensor:
                return executor(x, sigma, c_concat, c_crossattn, control, own, **kwargs)

            again = more is not None and "sigmas" in more
            return run.counted(executor.class_obj, call, again) if known else call()

        known = run is not None and run.open and run.readable(options, x)
        if not known:
            return model(t)
        branches = run.branches(
            executor.class_obj, options, x.shape, (control is not None, *sorted(kwargs))
        )
        return run.serve(executor.class_obj, model, x, t, options, branches)


def _tell(callback: Publish | None, report: RunReport) -> None:
    """Call back; an error there costs no sample."""
    try:
        if callback is not None:
            callback(report)
    except Exception as error:
        report.say("callback_failed", error=f"{type(error).__name__}: {error}")
        logging.exception("SenCache: a callback failed; sampling goes on")


def _patched(model: Any, host: _Host) -> Any:
    if type(model.model).__name__ == "WAN21_CausalAR":
        raise UnsupportedModel(
            "SenCache cannot cache causal Wan models, whose key/value cache is filled by the very "
            "calls that would be skipped: remove the SenCache node."
        )
    clone = _bare(model)
    wrappers = {
        _WRAPPERS.OUTER_SAMPLE: host.outer_sample,
        _WRAPPERS.PREPARE_SAMPLING: host.prepare_sampling,
        _WRAPPERS.PREDICT_NOISE: host.predict_noise,
        _WRAPPERS.CALC_COND_BATCH: host.calc_cond_batch,
        _WRAPPERS.APPLY_MODEL: host.apply_model,
        _WRAPPERS.DIFFUSION_MODEL: diffusion_model,
    }
    refuse_other_caches(clone, clone.model_options, clone.wrappers)
    if not host.enters:  # this one would be traced by torch.compile
        del wrappers[_WRAPPERS.DIFFUSION_MODEL]
    for kind, wrapper in wrappers.items():
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    return clone


def _bare(model: Any) -> Any:
    clone = model.clone()
    for kind in clone.wrappers:
        clone.remove_wrappers_with_key(kind, KEY)
    return clone


def sampler_name(sampler: Any) -> str:
    """Name of ComfyUI's sampler object as k-diffusion has it, without ``sample_``.

    A sampler around another one has both names: what it does depends on the other.
    """
    function = getattr(sampler, "sampler_function", None)
    name = getattr(function, "__name__", type(sampler).__name__.lower())
    name = name.removeprefix("sample_").removesuffix("_function")
    options = getattr(sampler, "extra_options", {})
    if name == "sa_solver" and options.get("use_pece"):
        return "sa_solver_pece"  # a second evaluation a step, by an option of its node
    inner = (
        sampler_name(value) for value in options.values() if hasattr(value, "sampler_function")
    )
    return "/".join((name, *inner))
