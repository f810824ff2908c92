"""SenCache Plan: which evaluations a run will compute, before it runs."""

from __future__ import annotations

import math

from comfy_api.latest import io, ui

from ..sencache_core import CacheConfig, Message, ProfileHeader
from ..sencache_core.words import about
from .apply import CONFIG
from .host import CATEGORY, make, show_text
from .picture import draw_plan
from .sampling import sampler_inputs, schedule_of, sigmas_of


class SenCachePlan(io.ComfyNode):
    """Plans for a sampler's settings without sampling."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            io.Schema,
            node_id="SenCachePlan",
            display_name="SenCache Plan",
            category=CATEGORY,
            search_aliases=["sencache preview", "cache plan", "mask", "schedule"],
            description=(
                "Shows which evaluations SenCache Apply will compute for your sampler settings, "
                "and the error to expect, before anything is sampled. Connect the model output of "
                "SenCache Apply and run this node alone. You can edit the mask and paste it into "
                "SenCache Policy Select. During a run the plan is adjusted to the clip; the number "
                "of evaluations stays the same unless may_save is set."
            ),
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "The model that goes to the sampler: the output of SenCache Apply, or of a "
                        "shift node after it. The plan follows Apply's settings."
                    ),
                ),
                io.Int.Input(
                    "steps", default=30, min=1, max=10000, tooltip="Steps, as in your sampler."
                ),
                *sampler_inputs(
                    "sampler node",
                    "Share of the noise schedule to sample, as in your sampler node.",
                ),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip=(
                        "Noise levels of a custom sampler, or a part of them for one stage of "
                        "several. Steps, scheduler and denoise are then ignored."
                    ),
                ),
                io.Sampler.Input(
                    "sampler",
                    optional=True,
                    tooltip="A custom sampler; sampler_name is then ignored.",
                ),
            ],
            outputs=[
                io.String.Output(
                    id="mask",
                    display_name="mask",
                    tooltip=(
                        "One letter per evaluation: C computes, h computes in part, a dot reuses. "
                        "Empty where it is not known before the run."
                    ),
                ),
                io.Int.Output(
                    id="evaluations",
                    display_name="evaluations",
                    tooltip="Number of evaluations that are computed; 0 if unknown.",
                ),
                io.Float.Output(
                    id="error",
                    display_name="error",
                    tooltip=(
                        "Expected RMS error of the final latent, to first order; -1 if unknown. "
                        "Use it to compare plans for one model."
                    ),
                ),
                io.Image.Output(id="plot", display_name="plot", tooltip="The plan as a picture."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model,
        steps: int,
        sampler_name: str,
        scheduler: str,
        denoise: float,
        sigmas=None,
        sampler=None,
    ) -> io.NodeOutput:
        import comfy.samplers

        if sigmas is None:
            sigmas = sigmas_of(model, steps, sampler_name, scheduler, denoise)
        sampler = sampler or comfy.samplers.sampler_object(sampler_name)
        shown = plan_of(model, schedule_of(sigmas, sampler))
        lines = (f"{shown['title']}:", shown["mask"], shown["more"], *map(str, shown["notes"]))
        text = "\n".join(line for line in lines if line)  # a node may show two of them only
        show_text(text, cls.hidden.unique_id)
        picture = draw_plan(shown)
        preview = ui.PreviewImage(picture, cls=cls).as_dict()
        return io.NodeOutput(
            shown["mask"],
            len(shown["mask"]) - shown["mask"].count("."),
            -1.0 if shown["error"] is None else shown["error"],
            picture,
            ui={**preview, "text": (text,)},
        )


def plan_of(model, schedule) -> dict:
    """``{"title", "more", "mask", "error", "errors", "notes"}`` of a run of ``schedule``.

    ``notes`` are messages, or what an error says; ``error`` and the entries of ``errors``, one an
    evaluation, are ``None`` where not known.
    """
    from ..sencache_core.hosts.comfy import fingerprint, model_family

    config: CacheConfig | None = model.get_attachment(CONFIG)
    rounds = len(schedule.rounds)
    if schedule.adaptive:
        return _unknown(Message.of("plan.adaptive", sampler=schedule.sampler))
    if config is None:
        return _plan("C" * rounds, 0.0, [None] * rounds, [Message.of("plan.no_apply")])
    family = model_family(model.model)
    header = None
    if config.profile is not None or config.learn is not None:
        # What the sampler's guidance will be is not known here: the newest runs with any will do.
        header = ProfileHeader(
            family.name if family else "generic",
            fingerprint(model.model.diffusion_model) if config.learn is not None else "",
            sampler=schedule.sampler,
            sigmas=schedule.sigmas,
            tap=config.tap,
        )
    try:
        notes = config.start(family, schedule, header).report.messages
        plan = config.plan(family, schedule, header)
    except ValueError as error:  # no plan, or a mask or profile that does not fit: it says which
        return _unknown(str(error))
    errors = [value if math.isfinite(value) else None for value in plan.errors]
    error = plan.error if math.isfinite(plan.error) else None
    return _plan(str(plan), error, errors or [None] * rounds, notes)


def _unknown(why: Message | str) -> dict:
    return {**_plan("", None, [], [why]), "title": str(Message.of("plan.none"))}


def _plan(mask: str, error: float | None, errors: list[float | None], notes: list) -> dict:
    partly, more = mask.count("h"), []
    figures = {"computed": len(mask) - mask.count("."), "total": len(mask)}
    title = Message("plan.title", figures)
    if partly:
        title = Message("plan.title_partly", {**figures, "partly": partly})
    reused = [e for letter, e in zip(mask, errors, strict=True) if letter == "." and e is not None]
    if reused:
        mean, worst = (round(100 * e, 1) for e in (sum(reused) / len(reused), max(reused)))
        more.append(Message.of("plan.predictions", mean=mean, worst=worst))
    if reused and error is not None:
        more.append(Message.of("plan.latent", error=about(error, 2)))
    shown = {"title": str(title), "more": " ".join(map(str, more)), "mask": mask}
    return {**shown, "error": error, "errors": errors, "notes": list(notes)}
