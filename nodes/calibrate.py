"""SenCache Calibrate: measure a model's sensitivities on ordinary sampling runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from comfy_api.latest import io

from ..sencache_core import FAMILIES, Profile, ProfileError, ProfileHeader, RunReport
from ..sencache_core.config import TAPS
from ..sencache_core.measure.calibration import PROBES, Calibration
from ..sencache_core.measure.profile import combine
from . import folders
from .host import CATEGORY, Throttle, make, show_text
from .sampling import sampler_inputs, schedule_of, sigmas_of
from .sockets import PROFILE

_log = logging.getLogger("sencache")
#: The output's figures, and those of every layer.
LAYERS = "layers"


class SenCacheCalibrate(io.ComfyNode):
    """Samples without caching, measures, and saves a profile."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            io.Schema,
            node_id="SenCacheCalibrate",
            display_name="SenCache Calibrate",
            category=CATEGORY,
            search_aliases=["sencache profile", "measure", "calibration"],
            description=(
                "Samples a few clips with your model and measures how its output changes from step "
                "to step, and how much an error at one step changes the result. The measurements "
                "are saved as a profile for SenCache Apply. Do this once per model, with the same "
                "settings as in the workflow that the profile is for. The cost is shown before it "
                "starts, and the profile is saved after each sample."
            ),
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="Model to measure, with its LoRAs and shift."),
                io.Conditioning.Input("positive", tooltip="A typical prompt."),
                io.Conditioning.Input("negative", tooltip="The negative prompt you sample with."),
                io.Latent.Input(
                    "latent_image",
                    tooltip="Latent of the usual size. A smaller one is faster and nearly as good.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of the first sample; the others count up from it.",
                ),
                io.Int.Input(
                    "steps",
                    default=30,
                    min=2,
                    max=1000,
                    tooltip="Sampling steps, as in your workflow; other numbers are interpolated.",
                ),
                io.Float.Input(
                    "cfg",
                    default=5.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Guidance scale, as in your workflow. Trajectories depend on it.",
                ),
                *sampler_inputs(
                    "workflow",
                    "Share of the noise schedule to sample. Keep 1.0 to measure all of it.",
                ),
                io.Int.Input(
                    "samples",
                    default=2,
                    min=1,
                    max=64,
                    tooltip=(
                        "Number of samples to average. Each takes about twice as long as an "
                        "uncached run, and its probes add one and a half runs. 2 is enough to "
                        "start with; more give steadier figures, and the paper uses 8."
                    ),
                ),
                io.String.Input(
                    "name",
                    default="",
                    tooltip=(
                        "File name of the profile; empty makes one from the settings. If it is "
                        "taken, a number is added; nothing is overwritten."
                    ),
                ),
                make(
                    io.Combo.Input,
                    "tap",
                    options=[*TAPS, LAYERS],
                    default="output",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "What to measure; must be the tap that SenCache Apply is set to. layers: "
                        "the output, and how every layer changes, which policies of layers such "
                        "as smoothcache decide by."
                    ),
                ),
                make(
                    io.Int.Input,
                    "probes",
                    default=PROBES,
                    min=0,
                    max=16,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Extra runs per sample that reuse steps in one part of the run, to measure "
                        "how errors there change the result. Each costs about half a run. With 0 "
                        "this is not measured, and the plan treats all steps as equally important."
                    ),
                ),
            ],
            outputs=[
                PROFILE.Output(id="profile", display_name="profile", tooltip="For SenCache Apply."),
                io.String.Output(id="path", display_name="path", tooltip="Where it was saved."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        negative,
        latent_image: dict,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        denoise: float,
        samples: int,
        name: str,
        tap: str = "output",
        probes: int = PROBES,
    ) -> io.NodeOutput:
        import comfy.samplers

        from ..sencache_core.hosts.comfy import model_family, record

        family = model_family(model.model)
        if family is None:
            known = ", ".join(row.title for row in FAMILIES.values())
            raise ProfileError(
                f"This model cannot be calibrated: it is none of {known}; leave the profile of "
                "SenCache Apply unconnected, which caches the model's output without one."
            )
        default = f"{family.name}_{sampler_name}_{scheduler}_{steps}steps"
        path = folders.new_profile_path(name.strip() or default)
        calibration = Calibration(probes=probes)
        sampler = comfy.samplers.sampler_object(sampler_name)
        sigmas = sigmas_of(model, steps, sampler_name, scheduler, denoise)
        rounds = len(schedule_of(sigmas, sampler).rounds)
        progress = _Progress(calibration, samples, rounds, cls.hidden.unique_id)
        headers: list[ProfileHeader] = []
        recorder = record(
            model,
            lambda _, header: headers.append(header),
            live=progress.evaluated,
            tap=tap,
            calibration=calibration,
        )
        # One guider for all: a probe knows the conditions of the run it repeats by their ids.
        guider = comfy.samplers.CFGGuider(recorder)
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        profile, lost = None, ""
        for number in range(samples):
            try:
                for run in _runs(calibration, progress):
                    progress.begin(number, run)
                    _sample(guider, sampler, sigmas, latent_image, seed + number)
                    progress.end()
            finally:  # an interrupt, between probes too, keeps what was measured
                if len(headers) > number:
                    measured = _profile(calibration, headers, scheduler, cfg)
                    path, lost = _save(measured, path, first=profile is None)
                    profile = measured
        if profile is None:
            raise ProfileError(
                "Nothing was measured, because the sampler ended without running the model: remove "
                "other caches and SenCache Resume from it, and calibrate again."
            )
        found = sum(len(recording.travels) for recording in calibration.recordings)
        told = f"{samples} samples, {len(profile.t)} noise levels, {found} probes"
        text = f"Saved {path.name}: {told}"
        if lost:
            text = f"Measured {told}, but {lost}. Connect SenCache Save Profile to keep it."
        show_text(text, cls.hidden.unique_id)
        return io.NodeOutput(profile, "" if lost else str(path), ui={"text": (text,)})


class _Progress:
    """Says what a calibration costs before it begins, and how much of it is left as it goes."""

    def __init__(
        self, calibration: Calibration, samples: int, rounds: int, node: str | None
    ) -> None:
        from comfy.utils import ProgressBar

        self.samples, self.rounds, self.node = samples, rounds, node
        self.total = calibration.evaluations(samples, rounds)
        self._bar = ProgressBar(self.total)
        self._throttle = Throttle(0.5)
        self._done = self._here = 0
        self._where = ""
        self._started = time.monotonic()

    def begin(self, sample: int, run: int) -> None:
        what = f"probe {run}" if run else "measuring"
        self._where = f"sample {sample + 1} of {self.samples}, {what}"
        self._show()

    def evaluated(self, report: RunReport) -> None:
        """One more evaluation round has ended. Where the model ran, a measuring run asks twice."""
        if not report.steps:  # the run begins
            return
        computed = sum(step.decision == "computed" for step in report.steps)
        measuring = report.steps[0].decision == "computed"
        if measuring:
            self.rounds = len(report.steps)
        self._here = 2 * computed - 1 if measuring else computed
        self._bar.update_absolute(min(self._done + self._here, self.total), self.total)
        if self._throttle.ready():
            self._show()

    def end(self) -> None:
        self._done, self._here = self._done + self._here, 0

    def _show(self) -> None:
        spent = self._done + self._here
        lines = [self._where, f"{spent} of {self.total} evaluations of the model"]
        if self._done:  # a run has ended: its time tells the rest
            each = (time.monotonic() - self._started) / spent
            lines.append(f"about {each * max(self.total - spent, 0) / 60:.1f} minutes left")
        show_text(",\n".join(lines), self.node)


def _runs(calibration: Calibration, progress: _Progress) -> Iterator[int]:
    """Numbers of the runs of one sample: 0 measures, which tells how many probes there are."""
    yield 0
    yield from range(1, calibration.runs_of(progress.rounds))


def _save(profile: Profile, path: Path, first: bool) -> tuple[Path, str]:
    """Save under ``path``, or the next free name if another program has taken it since.

    Returns:
        Where it was saved, and, if it was not, why: a full disk is no reason to stop measuring.
    """
    try:
        if first:
            path = folders.new_profile_path(path.stem)
        profile.save(path)
    except ProfileError as error:
        _log.error("SenCache: %s", error)
        return path, str(error)
    return path, ""


def _profile(calibration: Calibration, headers: list, scheduler: str, cfg: float) -> Profile:
    header = replace(
        headers[-1],
        samples=len(headers),
        scheduler=scheduler,
        guidance=cfg,
        source="SenCache Calibrate",
    )
    return combine(calibration.recordings, header)


def _sample(guider, sampler, sigmas, latent: dict, seed: int) -> None:
    """One ordinary sampling run, as ComfyUI's KSampler does it; its result is not needed."""
    import comfy.sample
    import comfy.utils

    image = make(
        comfy.sample.fix_empty_latent_channels,
        guider.model_patcher,
        latent["samples"],
        downscale_ratio_spacial=latent.get("downscale_ratio_spacial"),
        downscale_ratio_temporal=latent.get("downscale_ratio_temporal"),
    )
    guider.sample(
        comfy.sample.prepare_noise(image, seed, latent.get("batch_index")),
        image,
        sampler,
        sigmas,
        denoise_mask=latent.get("noise_mask"),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
