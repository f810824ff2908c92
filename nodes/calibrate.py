"""SenCache Calibrate: measure a model's sensitivities on ordinary sampling runs."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from comfy_api.latest import io

from ..sencache_core import FAMILIES, Profile, ProfileError, ProfileHeader
from ..sencache_core.config import TAPS as CACHED
from ..sencache_core.measure.calibration import PROBES, Calibration
from ..sencache_core.measure.joining import differing, joined
from ..sencache_core.measure.profile import combine
from ..sencache_core.measure.profile_file import check_writable
from ..sencache_core.model.fingerprint import fingerprint
from ..sencache_core.model.taps import TAPS
from . import folders
from .calibrating import SHOWN, Progress
from .host import CATEGORY, make
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
                    options=[*CACHED, LAYERS],
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
                make(
                    io.String.Input,
                    "resume",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "File of an earlier calibration to go on with, by the name that the node "
                        "and the list of profiles show. Model and settings must be the same: only "
                        "samples that it lacks are sampled, and the file is replaced. Empty: a "
                        "new profile."
                    ),
                ),
                make(
                    io.Boolean.Input,
                    "blocks",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Also measure, in one more run, which blocks may be reused: a list for the "
                        "setting blocks of policy profilingdit."
                    ),
                ),
            ],
            outputs=[
                PROFILE.Output(id="profile", display_name="profile", tooltip="For SenCache Apply."),
                io.String.Output(id="path", display_name="path", tooltip="Where it was saved."),
                io.String.Output(
                    id="block_list",  # 0.3.64 refuses an id that an input has
                    display_name="blocks",
                    tooltip=(
                        "Blocks that may be reused, for policy profilingdit; empty if they were "
                        "not measured."
                    ),
                ),
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
        resume: str = "",
        blocks: bool = False,
    ) -> io.NodeOutput:
        import comfy.samplers

        from ..sencache_core.hosts.comfy import model_family, record, watch_blocks

        family = model_family(model.model)
        if family is None:
            known = ", ".join(row.title for row in FAMILIES.values())
            raise ProfileError(
                f"This model cannot be calibrated: it is none of {known}; leave the profile of "
                "SenCache Apply unconnected, which caches the model's output without one."
            )
        sampler = comfy.samplers.sampler_object(sampler_name)
        sigmas = sigmas_of(model, steps, sampler_name, scheduler, denoise)
        schedule = schedule_of(sigmas, sampler)
        earlier = None
        if resume.strip():
            wanted = ProfileHeader(
                family.name,
                fingerprint(model.model.diffusion_model),
                schedule.sampler,
                scheduler,
                schedule.sigmas,
                cfg,
                _shape(model, latent_image),
                tap=TAPS[tap].figures,
            )
            path = folders.own_profile_path(resume)
            earlier = _earlier(path, wanted)
        else:
            default = f"{family.name}_{sampler_name}_{scheduler}_{steps}steps"
            path = folders.new_profile_path(name.strip() or default)
        calibration = Calibration(probes=probes)
        known = earlier.header.samples if earlier else 0
        seeds = _fresh(seed, earlier.header.seeds if earlier else (), max(samples - known, 0))
        progress = Progress(
            calibration, known, len(seeds), len(schedule.rounds), cls.hidden.unique_id, blocks
        )
        headers: list[ProfileHeader] = []
        recorder = record(
            model,
            lambda _, header: headers.append(header),
            live=progress.evaluated,
            tap=tap,
            calibration=calibration,
        )

        def guider_of(patched):
            guider = comfy.samplers.CFGGuider(patched)
            guider.set_conds(positive, negative)
            guider.set_cfg(cfg)
            return guider

        # One guider for all: a probe knows the conditions of the run it repeats by their ids.
        guider = guider_of(recorder)
        profile, lost, found = earlier, "", []
        with progress:
            if earlier:
                progress.saved(path, earlier)
            for number, own in enumerate(seeds):
                try:
                    for run in _runs(calibration, progress):
                        progress.begin(number, run)
                        _sample(guider, sampler, sigmas, latent_image, own)
                        progress.end()
                finally:  # an interrupt, between probes too, keeps what was measured
                    if len(headers) > number:
                        measured = _profile(calibration, headers, seeds, scheduler, cfg)
                        measured = joined(earlier, measured) if earlier else measured
                        path, lost = _save(measured, path, first=profile is None)
                        profile = measured
                        progress.saved(path, profile, lost)
            if blocks:
                progress.begin_blocks()
                watching = guider_of(watch_blocks(model, found.append, progress.watched))
                _sample(watching, sampler, sigmas, latent_image, seed)
                progress.end()
            if profile is None:
                raise ProfileError(
                    "Nothing was measured, because the sampler ended without running the model: "
                    "remove other caches and SenCache Resume from it, and calibrate again."
                )
            listed = progress.found_blocks(found[0]) if found else ""
        text = f"Saved {path.name}: {progress.told(profile)}"
        if lost:
            text = (
                f"Measured {progress.told(profile)}, but {lost}. Connect SenCache Save Profile to "
                "keep it."
            )
        elif not seeds:
            text = f"{path.name} rests on {known} samples already; raise samples to add more."
        shown = {"text": (text,), SHOWN: [progress.payload()]}
        return io.NodeOutput(profile, "" if lost else str(path), listed, ui=shown)


def _earlier(path: Path, wanted: ProfileHeader) -> Profile:
    """The calibration to go on with.

    Raises:
        ProfileError: it cannot be read or replaced, or was measured in another way.
    """
    earlier = Profile.load(path)
    if found := differing(earlier.header, wanted):
        raise ProfileError(
            f"Calibration cannot go on with {path.name}, which was measured with another "
            f"{', '.join(found)}: set the same as then, or empty resume to make a new profile."
        )
    check_writable(path)
    return earlier


def _fresh(seed: int, known: Collection[int], count: int) -> list[int]:
    """``count`` seeds from ``seed`` on that no earlier sample had."""
    free = (number % 2**64 for number in itertools.count(seed))
    return list(itertools.islice((number for number in free if number not in known), count))


def _runs(calibration: Calibration, progress: Progress) -> Iterator[int]:
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


def _profile(
    calibration: Calibration, headers: list, seeds: list[int], scheduler: str, cfg: float
) -> Profile:
    header = replace(
        headers[-1],
        samples=len(headers),
        seeds=tuple(seeds[: len(headers)]),
        scheduler=scheduler,
        guidance=cfg,
        source="SenCache Calibrate",
    )
    return combine(calibration.recordings, header)


def _shape(model, latent: dict) -> tuple[int, ...]:
    """Of the latent that is sampled; of each modality in turn if there are several."""
    image = _image(model, latent)
    parts = image.unbind() if getattr(image, "is_nested", False) else [image]
    return tuple(int(size) for part in parts for size in part.shape)


def _image(model, latent: dict):
    import comfy.sample

    return make(
        comfy.sample.fix_empty_latent_channels,
        model,
        latent["samples"],
        downscale_ratio_spacial=latent.get("downscale_ratio_spacial"),
        downscale_ratio_temporal=latent.get("downscale_ratio_temporal"),
    )


def _sample(guider, sampler, sigmas, latent: dict, seed: int) -> None:
    """One ordinary sampling run, as ComfyUI's KSampler does it; its result is not needed."""
    import comfy.sample
    import comfy.utils

    image = _image(guider.model_patcher, latent)
    guider.sample(
        comfy.sample.prepare_noise(image, seed, latent.get("batch_index")),
        image,
        sampler,
        sigmas,
        denoise_mask=latent.get("noise_mask"),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
