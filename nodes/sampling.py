"""What ComfyUI's KSampler will do, before it samples."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sencache_core import Schedule


def sampler_inputs(place: str, denoise: str) -> list:
    """KSampler's widgets ``sampler_name``, ``scheduler`` and ``denoise``.

    Args:
        place: where their values stand already, for the tooltips: "as in your ...".
        denoise: tooltip of ``denoise``.
    """
    import comfy.samplers

    return [
        io.Combo.Input(
            "sampler_name",
            options=list(comfy.samplers.KSampler.SAMPLERS),
            default="euler",
            tooltip=f"Sampler, as in your {place}.",
        ),
        io.Combo.Input(
            "scheduler",
            options=list(comfy.samplers.KSampler.SCHEDULERS),
            default="simple",
            tooltip=f"Scheduler, as in your {place}.",
        ),
        io.Float.Input("denoise", default=1.0, min=0.01, max=1.0, step=0.01, tooltip=denoise),
    ]


def sigmas_of(model: Any, steps: int, sampler_name: str, scheduler: str, denoise: float) -> Tensor:
    """Noise levels ``[steps + 1]`` of a KSampler with these widgets.

    Raises:
        ValueError: there are none.
    """
    import comfy.samplers

    made = comfy.samplers.KSampler(
        model, steps, "cpu", sampler_name, scheduler, denoise, model.model_options
    )
    if len(made.sigmas) < 2:
        raise ValueError("There is nothing to sample: give at least one step and some denoise.")
    return made.sigmas


def schedule_of(sigmas: Tensor, sampler: Any) -> Schedule:
    """The schedule of a run of ``sampler`` (ComfyUI's object) over ``sigmas``."""
    from ..sencache_core.hosts.comfy import sampler_name

    return Schedule(tuple(float(sigma) for sigma in sigmas), sampler_name(sampler))
