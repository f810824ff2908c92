"""SenCache Calibrate: measure a model's sensitivities on ordinary sampling runs."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..sencache_core import Profile, ProfileError, ProfileHeader
from ..sencache_core.config import TAPS
from ..sencache_core.profile import Recording, combine
from . import folders
from .host import CATEGORY, make, show_text
from .sockets import PROFILE


class SenCacheCalibrate(io.ComfyNode):
    """Samples without caching, measures, and saves a profile."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        import comfy.samplers

        return make(
            io.Schema,
            node_id="SenCacheCalibrate",
            display_name="SenCache Calibrate",
            category=CATEGORY,
            search_aliases=["sencache profile", "measure", "calibration"],
            description=(
                "Measures how strongly a model's output reacts to its input, on ordinary sampling "
                "runs of yours, and saves it as a profile for SenCache Apply. Needed once per "
                "model; set everything as in the workflow that the profile is for."
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
                io.Combo.Input(
                    "sampler_name",
                    options=list(comfy.samplers.KSampler.SAMPLERS),
                    default="euler",
                    tooltip="Sampler, as in your workflow.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=list(comfy.samplers.KSampler.SCHEDULERS),
                    default="simple",
                    tooltip="Scheduler, as in your workflow.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the noise schedule to sample. Keep 1.0 to measure all of it.",
                ),
                io.Int.Input(
                    "samples",
                    default=2,
                    min=1,
                    max=64,
                    tooltip=(
                        "Samples to average. Each takes as long as an uncached run. More are "
                        "steadier; 2 is enough to start with, 8 is what the paper uses."
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
                    options=list(TAPS),
                    default="output",
                    optional=True,
                    advanced=True,
                    tooltip="What to measure; must be the tap that SenCache Apply is set to.",
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
    ) -> io.NodeOutput:
        from ..sencache_core.hosts.comfy import record

        recordings: list[tuple[Recording, ProfileHeader]] = []
        measured = record(model, lambda *run: recordings.append(run), tap=tap)
        shared = (steps, cfg, sampler_name, scheduler, positive, negative)
        path = profile = None
        for number in range(samples):
            show_text(f"sample {number + 1} of {samples}", cls.hidden.unique_id)
            _sample(measured, latent_image, seed + number, shared, denoise, number, samples)
            profile = _profile(recordings, scheduler, cfg)
            if path is None:
                family = profile.header.family
                default = f"{family}_{sampler_name}_{scheduler}_{steps}steps"
                path = folders.new_profile_path(name.strip() or default)
            folders.write_profile(profile, path)  # after each sample: an interrupt keeps the rest
        text = f"Saved {path.name}: {samples} samples, {len(profile.t)} noise levels"
        show_text(text, cls.hidden.unique_id)
        return io.NodeOutput(profile, str(path), ui={"text": (text,)})


def _profile(recordings: list, scheduler: str, cfg: float) -> Profile:
    if not recordings:
        raise ProfileError("nothing was measured: the sampler ended without running the model")
    header = replace(
        recordings[-1][1],
        samples=len(recordings),
        scheduler=scheduler,
        guidance=cfg,
        source="SenCache Calibrate",
    )
    return combine([recording for recording, _ in recordings], header)


def _sample(model, latent: dict, seed, shared: tuple, denoise: float, number: int, of: int) -> None:
    """One ordinary sampling run, as ComfyUI's KSampler does it; its result is not needed."""
    import comfy.sample
    import comfy.utils

    steps = shared[0]
    image = make(
        comfy.sample.fix_empty_latent_channels,
        model,
        latent["samples"],
        downscale_ratio_spacial=latent.get("downscale_ratio_spacial"),
        downscale_ratio_temporal=latent.get("downscale_ratio_temporal"),
    )
    noise = comfy.sample.prepare_noise(image, seed, latent.get("batch_index"))
    bar = comfy.utils.ProgressBar(steps * of)

    def progress(step, x0, x, total_steps) -> None:
        bar.update_absolute(number * steps + step + 1, steps * of)

    comfy.sample.sample(
        model,
        noise,
        *shared,
        image,
        denoise=denoise,
        noise_mask=latent.get("noise_mask"),
        callback=progress,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
