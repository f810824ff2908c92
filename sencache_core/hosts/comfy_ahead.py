"""How a run in ComfyUI will begin, told before it samples, by what a run goes by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..config import CacheConfig, Outlook
from ..run.facts import Facts, Part, Stage
from ..run.stats import RunReport, StepRecord
from ..sampler.schedule import Schedule, same_level
from ..types import Reason
from . import comfy
from .comfy_facts import facts_of, header_of
from .comfy_neighbours import refuse_other_caches
from .comfy_run import UnsupportedModel, model_family
from .comfy_stages import Ended, Stages

__all__ = ["Beginning", "UnsupportedModel", "alike", "facts_before", "look"]


@dataclass(frozen=True)
class Beginning:
    """How a run will begin.

    Attributes:
        outlook: its plan, and what it would say.
        part: of its clip.
        steps: of the clip up to its end.
        carry: evaluations of the clip's budget that it leaves to what follows.
    """

    outlook: Outlook
    part: Part
    steps: int
    carry: float


def facts_before(guider: Any, sampler: Any, sigmas: Tensor) -> Facts:
    """What is known of a run but for its stage; arguments as for ``comfy_facts.facts_of``.

    Raises:
        UnsupportedModel: another cache is on the model.
    """
    refuse_other_caches(guider.model_patcher, guider.model_options, {})
    return facts_of(guider, sampler, sigmas, Stage())


def look(
    guider: Any,
    schedule: Schedule,
    config: CacheConfig,
    facts: Facts,
    known: Callable[[], str] | None = None,
    before: Beginning | None = None,
) -> Beginning:
    """Look ahead at a run.

    Args:
        guider: ComfyUI's, with its model, which needs no weights.
        schedule: of the run.
        config: how it is cached.
        facts: of :func:`facts_before`.
        known: gives the fingerprint of a model without weights; ``None``: it is the guider's.
        before: the run whose latent it goes on from, if any.

    Raises:
        ProfileError: the profile belongs to another family or tap.
    """
    patcher, fingerprint = guider.model_patcher, ""
    if config.profile is not None or config.learn is not None:
        network = patcher.model.diffusion_model
        fingerprint = known() if known else comfy.fingerprint(network)
    header = header_of(guider, schedule, config.tapping.figures, fingerprint)
    header = replace(header, guidance=facts.guidance)
    part, ended = Part(schedule, fingerprint, header.guidance), None
    if before is not None:
        end, start = before.part.schedule.sigmas[-1], schedule.sigmas[0]
        if end > 0 and same_level(end, start):
            ended = Ended(start, (), (), before.part, before.steps, before.carry)
    # A copy: to look ahead is not to run.
    stages = Stages(followed=dict(comfy.STAGES.followed))
    stage = stages.stage_of(ended, part, patcher.get_model_object("model_sampling"))
    family = model_family(patcher.model)
    outlook = config.outlook(family, schedule, header, replace(facts, stage=stage))
    steps = stage.before + schedule.num_steps
    return Beginning(outlook, part, steps, stage.left(_spent(outlook)))


def alike(one: Schedule, other: Schedule) -> bool:
    """Whether two samplers ask at the same noise levels in the same way."""
    if one.sampler != other.sampler or one.num_steps != other.num_steps:
        return False
    return all(map(same_level, one.sigmas, other.sigmas))


def _spent(outlook: Outlook) -> RunReport:
    """The report of a run that has gone as planned."""
    mask = outlook.plan.mask if outlook.plan is not None else ()
    half = outlook.plan.half if outlook.plan is not None else ()
    reason = (Reason.SCHEDULED_COMPUTE if outlook.reuses else Reason.OFF).value
    steps = [
        StepRecord(*(k, k, 0.0, 0.0, "", reason), cost=compute * (1 - (k in half) / 2))
        for k, compute in enumerate(mask)
    ]
    return replace(outlook.report, steps=steps)
