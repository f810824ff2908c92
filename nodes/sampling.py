"""What ComfyUI's KSampler will do, before it samples."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..sencache_core import Schedule


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
        raise ValueError("there is nothing to sample: give at least one step and some denoise")
    return made.sigmas


def schedule_of(sigmas: Tensor, sampler: Any) -> Schedule:
    """The schedule of a run of ``sampler`` (ComfyUI's object) over ``sigmas``."""
    from ..sencache_core.hosts.comfy import sampler_name

    return Schedule(tuple(float(sigma) for sigma in sigmas), sampler_name(sampler))
