"""What a sampler node of ComfyUI will do, before it samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sencache_core import Schedule
from .graph import PROMPT, Graph, Unknown
from .host import node_classes

#: Sampler nodes that are read, and the inputs by which a model reaches them.
SAMPLERS = {
    "KSampler": "model",
    "KSamplerAdvanced": "model",
    "SamplerCustom": "model",
    "SamplerCustomAdvanced": "guider",
}


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


@dataclass(frozen=True)
class Sampling:
    """One sampler node.

    Attributes:
        node: its id.
        guider: ComfyUI's, with the model; its prompts say nothing.
        sampler: sampler object.
        sigmas: ``[steps + 1]`` noise levels.
        adds_noise: whether it begins with noise of its own.
    """

    node: str
    guider: Any
    sampler: Any
    sigmas: Tensor
    adds_noise: bool = True

    @property
    def schedule(self) -> Schedule:
        return schedule_of(self.sigmas, self.sampler)


def sampling_of(graph: Graph, node: str) -> Sampling:
    """What a node of :data:`SAMPLERS` will do.

    Raises:
        Unknown: that cannot be told before it runs, or it will sample nothing.
    """
    kind = graph.kind(node)

    def value(name: str) -> Any:
        found = graph.value(node, name)
        if found is None:
            raise Unknown("connect", node=graph.title(node), input=name)
        return found

    if kind.startswith("SamplerCustom"):
        sampler, sigmas, adds = value("sampler"), value("sigmas"), True
        if kind == "SamplerCustom":
            guider, adds = plain_guider(value("model"), value("cfg")), bool(value("add_noise"))
        else:
            guider, noise = value("guider"), graph.link(node, "noise")
            adds = noise is None or graph.kind(noise[0]) != "DisableNoise"
    else:
        import comfy.samplers

        model, name = value("model"), value("sampler_name")
        advanced = kind == "KSamplerAdvanced"
        share = 1.0 if advanced else value("denoise")
        try:
            sigmas = sigmas_of(model, value("steps"), name, value("scheduler"), share)
        except ValueError as error:
            raise Unknown("fails", node=graph.title(node), error=str(error)) from error
        adds = not advanced or value("add_noise") != "disable"
        if advanced:
            whole = value("return_with_leftover_noise") != "enable"
            sigmas = _part(sigmas, value("start_at_step"), value("end_at_step"), whole)
        guider = plain_guider(model, value("cfg"))
        sampler = comfy.samplers.sampler_object(name)
    if len(sigmas) < 2:
        raise Unknown("nothing", node=graph.title(node))
    return Sampling(node, guider, sampler, sigmas, adds)


def _part(sigmas: Tensor, start: int, end: int, to_zero: bool) -> Tensor:
    """Of a clip's noise levels those that one KSamplerAdvanced takes, as ComfyUI cuts them."""
    if end < len(sigmas) - 1:
        sigmas = sigmas[: end + 1].clone()
        if to_zero:
            sigmas[-1] = 0
    return sigmas[start:] if start < len(sigmas) - 1 else sigmas[:0]


def plain_guider(model: Any, scale: float) -> Any:
    """The guider of a sampler node that has none of its own."""
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(PROMPT, PROMPT)
    guider.set_cfg(scale)
    return guider


def samplers_after(graph: Graph, node: str, slot: int = 0) -> Iterator[str]:
    """Ids of the samplers that output ``slot``, a model, of ``node`` reaches, nearest first.

    Raises:
        Unknown: it goes into one that cannot be read, or a node that takes its place.
    """
    todo, done = [(node, slot)], set()
    while todo:
        place = todo.pop(0)
        if place in done:
            continue
        done.add(place)
        for other, name in graph.after(*place):
            kind = graph.kind(other)
            if SAMPLERS.get(kind) == name:
                yield other
            elif kind == graph.kind(node) == "SenCacheApply":
                raise Unknown("overruled", node=graph.title(other))
            else:
                outputs = _outputs(kind)
                todo += [
                    (other, slot) for slot, out in enumerate(outputs) if out in ("MODEL", "GUIDER")
                ]
                if "LATENT" in outputs and "MODEL" not in outputs:
                    raise Unknown("sampler", node=graph.title(other))


def _outputs(kind: str) -> list[str]:
    """Types of a node's outputs."""
    return [str(one) for one in getattr(node_classes().get(kind), "RETURN_TYPES", ())]
