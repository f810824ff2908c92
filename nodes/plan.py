"""SenCache Plan: which evaluations a run will compute, before it runs."""

from __future__ import annotations

import math

from comfy_api.latest import io

from ..sencache_core import Message
from ..sencache_core.words import about
from .graph import Graph, Unknown
from .host import CATEGORY, make
from .picture import draw_plan
from .preview import graph_of, run_planned
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
                "Shows which steps SenCache Apply will compute for your sampler settings, "
                "and the error to expect, before anything is sampled. Connect the model output of "
                "SenCache Apply and run this node alone. You can edit the mask and paste it into "
                "SenCache Policy Select. During a run the plan is adjusted to the clip; the number "
                "of steps stays the same unless may_save is set."
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
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
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
        hidden = cls.hidden
        prompt = hidden.dynprompt.get_original_prompt() if hidden.dynprompt is not None else {}
        node = str(hidden.unique_id)
        graph = graph_of({node: {"class_type": "SenCachePlan"}, **prompt})
        shown = plan_of(graph, node, model, sigmas, sampler)
        lines = (f"{shown['title']}:", shown["mask"], shown["more"], *map(str, shown["notes"]))
        text = "\n".join(line for line in lines if line)
        picture = draw_plan(shown)
        return io.NodeOutput(
            shown["mask"],
            len(shown["mask"]) - shown["mask"].count("."),
            -1.0 if shown["error"] is None else shown["error"],
            picture,
            ui={"text": (text,)},
        )


def plan_of(graph: Graph, node: str, model, sigmas, sampler) -> dict:
    """``{"title", "more", "mask", "error", "errors", "notes"}`` of a run of ``sampler``.

    ``notes`` are messages, or what an error says; ``error`` and the entries of ``errors``, one an
    evaluation, are ``None`` where not known.

    Args:
        graph: that the node is in.
        node: id of SenCache Plan.
        model: as SenCache Apply has left it.
        sigmas: ``[steps + 1]`` noise levels.
        sampler: ComfyUI's sampler object.
    """
    schedule = schedule_of(sigmas, sampler)
    if schedule.adaptive:
        return _unknown(Message.of("plan.adaptive", sampler=schedule.sampler))
    try:
        run, differs = run_planned(graph, node, model, sigmas, sampler)
    except Unknown as why:
        return _unknown(str(why.values.get("error", why)))
    notes = [Message.of("plan.differs", **differs)] if differs else []
    rounds, outlook = len(schedule.rounds), run.outlook
    if outlook is None:
        return _plan("C" * rounds, 0.0, [None] * rounds, [*notes, Message.of("plan.no_apply")])
    if outlook.plan is None:
        return _unknown(outlook.why)
    plan = outlook.plan
    errors = [value if math.isfinite(value) else None for value in plan.errors]
    error = plan.error if math.isfinite(plan.error) else None
    notes += outlook.report.messages
    return _plan(str(plan), error, errors or [None] * len(plan.mask), notes)


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
