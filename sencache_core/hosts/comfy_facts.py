"""What ComfyUI's objects tell of a run before its first step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor

from ..measure.profile import ProfileHeader
from ..model.families import GENERIC
from ..run.facts import Facts, Stage
from ..sampler.schedule import Schedule
from .comfy_guidance import guidance_scale, linear_guidance, plain_guidance
from .comfy_prediction import clean_of, prediction_of
from .comfy_response import multistep_of
from .comfy_run import model_family


def facts_of(guider: Any, sampler: Any, sigmas: Tensor, stage: Stage) -> Facts:
    """Facts of a run.

    Args:
        guider: ComfyUI's, with its model and conditionings.
        sampler: its sampler object.
        sigmas: ``[steps + 1]`` noise levels.
        stage: of its clip.
    """
    patcher = guider.model_patcher
    sampling = patcher.get_model_object("model_sampling")
    row = model_family(patcher.model) or GENERIC
    return Facts(
        prediction=prediction_of(sampling),
        linear_guidance=linear_guidance(guider),
        x0_seen=not plain_guidance(guider),  # SamplerCustomAdvanced hands it on
        stage=stage,
        guided=guidance_scale(guider) != 1.0,
        guidance=guidance_scale(guider),
        clean=clean_of(sampling),
        multistep=partial(multistep_of, sampler, patcher, sigmas),
        blocks=row.comfy_places.count(patcher.model.diffusion_model),
    )


def header_of(
    guider: Any,
    schedule: Schedule,
    tap: str,
    fingerprint: str = "",
    shapes: Sequence[Sequence[int]] = (),
    dtype: Any = "",
) -> ProfileHeader:
    """What a profile, or what earlier runs have shown, is compared with.

    Args:
        guider: as for :func:`facts_of`.
        schedule: of the run.
        tap: where it caches or measures.
        fingerprint: of the checkpoint; empty: not wanted.
        shapes: of the latent, one a modality; empty: not known.
        dtype: of the latent; empty: not known.
    """
    return ProfileHeader(
        family=(model_family(guider.model_patcher.model) or GENERIC).name,
        fingerprint=fingerprint,
        sampler=schedule.sampler,
        sigmas=schedule.sigmas,
        guidance=guidance_scale(guider),
        shape=tuple(size for shape in shapes for size in shape),
        dtype=str(dtype).removeprefix("torch."),
        tap=tap,
    )
