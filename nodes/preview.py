"""What SenCache Apply will do, told before anything runs: for the slider, and for SenCache Plan."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from ..sencache_core import CacheConfig, Message, Profile, ProfileError
from ..sencache_core.config import Outlook
from . import folders
from .apply import CONFIG, IN_FULL, SWITCHED_OFF, config_of
from .graph import Graph, Unknown, seen
from .sampling import (
    SAMPLERS,
    Sampling,
    plain_guider,
    samplers_after,
    sampling_of,
    sigmas_of,
)
from .standin import STAND_IN

VERSION = 1

#: Under this key a model carries the id of the SenCache Apply that it comes from.
_APPLY = "sencache_apply"


def preview(prompt: Mapping[str, Any], node: str) -> dict:
    """What is shown in SenCache Apply ``node`` of a graph in the form that ``/prompt`` takes.

    Returns:
        ``{"version", "stamp", "state", "unknown", "runs"}``. ``state`` is ``"plan"``, ``"off"``
        (switched off), ``"full"`` (a budget of 1) or ``"unknown"``; then ``unknown`` says why:
        ``{"key", "values"}``, a sentence of the page. ``runs`` has one entry a sampler, see
        :func:`told`. ``stamp`` changes with anything that the plan follows from.
    """
    graph = graph_of(prompt)
    made: dict[str, Any] = {"version": VERSION, "state": "plan", "unknown": None, "runs": []}
    try:
        if graph.kind(node) == "SenCachePlan":
            run, made["differs"] = planned(graph, node)
            made["runs"] = [told(graph, run)]
            return {**made, "stamp": graph.stamp(graph.read)}
        if graph.kind(node) != "SenCacheApply":
            raise Unknown("no_apply")
        config = _config(graph, node)
        if isinstance(config, str):
            made["state"] = {SWITCHED_OFF: "off", IN_FULL: "full"}[config]
        samplers = list(samplers_after(graph, node))
        if not samplers:
            raise Unknown("sampler_missing")
        ahead = Ahead(graph)
        made["runs"] = [told(graph, ahead.of(sampler)) for sampler in samplers]
    except Unknown as why:
        made["unknown"] = {"key": why.key, "values": why.values}
        if made["state"] == "plan":
            made["state"] = "unknown"
    made["stamp"] = graph.stamp(graph.read)
    return made


@dataclass(frozen=True)
class Run:
    """A sampler's run, as it will begin.

    Attributes:
        sampling: of the sampler node.
        beginning: of ``hosts.comfy_ahead``, ``None``: it is not cached.
    """

    sampling: Sampling
    beginning: Any = None

    @property
    def outlook(self) -> Outlook | None:
        return self.beginning and self.beginning.outlook


@dataclass(frozen=True)
class _Place:
    """What of a sampler does not depend on the settings of SenCache Apply.

    Attributes:
        sampling: of the node.
        apply: id of the SenCache Apply before it.
        facts: of its run, but for the stage.
        read: ids of the nodes that this follows from.
    """

    sampling: Sampling
    apply: str
    facts: Any
    read: frozenset[str]


#: By sampler and graph: a slider that is moved asks the same again and again.
_PLACES: OrderedDict[tuple[str, str], _Place] = OrderedDict()
_MOST_PLACES = 8


class Ahead:
    """Looks ahead at the runs of a graph; one that goes on where another ends knows of it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._known: dict[str, Run] = {}
        self._stamp = graph.stamp(graph.prompt, "SenCacheApply")

    def of(self, node: str) -> Run:
        """The run of a sampler node.

        Raises:
            Unknown: it cannot be told.
        """
        if node not in self._known:
            self._known[node] = self._looked_at(node)
        return self._known[node]

    def _looked_at(self, node: str) -> Run:
        key = node, self._stamp
        if (place := _PLACES.get(key)) is not None:
            config = _config(self.graph, place.apply)
            if not isinstance(config, str):
                _PLACES.move_to_end(key)
                self.graph.read |= place.read
                before = self._before(place.sampling)
                return run_of(place.sampling, config, place.facts, before)
        sampling = sampling_of(self.graph, node)
        patcher = sampling.guider.model_patcher
        config = patcher.get_attachment(CONFIG)
        if config is None:
            return Run(sampling)
        facts = _facts_of(sampling)
        if patcher.get_attachment(STAND_IN) is not None:  # a loaded model is not to be held
            read = frozenset(self.graph.read)
            _PLACES[key] = _Place(sampling, patcher.get_attachment(_APPLY), facts, read)
            while len(_PLACES) > _MOST_PLACES:
                _PLACES.popitem(last=False)
        return run_of(sampling, config, facts, self._before(sampling))

    def _before(self, sampling: Sampling) -> Run | None:
        """The run whose latent this one goes on from."""
        if sampling.adds_noise:
            return None
        found = self.graph.link(sampling.node, "latent_image")
        while found is not None and self.graph.kind(found[0]) == "SenCacheStatsViewer":
            found = self.graph.link(found[0], "latent")
        if found is None or found[1] != 0 or self.graph.kind(found[0]) not in SAMPLERS:
            return None
        return self.of(found[0])


def _facts_of(sampling: Sampling) -> Any:
    """What is known of a run but for its stage.

    Raises:
        Unknown: another node stands in its way.
    """
    from ..sencache_core.hosts.comfy_ahead import UnsupportedModel, facts_before

    try:
        return facts_before(sampling.guider, sampling.sampler, sampling.sigmas)
    except UnsupportedModel as error:
        raise Unknown("refused", error=str(error)) from error


def run_of(sampling: Sampling, config: CacheConfig, facts: Any, before: Run | None = None) -> Run:
    """How a run will begin.

    Args:
        sampling: what it samples.
        config: how it is cached.
        facts: what is known of it, of ``hosts.comfy_ahead``.
        before: the run that it goes on from, if any.

    Raises:
        Unknown: its profile does not fit.
    """
    from ..sencache_core.hosts.comfy_ahead import look

    source = sampling.guider.model_patcher.get_attachment(STAND_IN)
    known = source and (lambda: source.fingerprint)
    ended = before and before.beginning
    try:
        found = look(sampling.guider, sampling.schedule, config, facts, known, ended)
    except (ProfileError, ValueError) as error:
        raise Unknown("refused", error=str(error)) from error
    return Run(sampling, found)


def planned(graph: Graph, node: str) -> tuple[Run, dict | None]:
    """The run that a SenCache Plan plans for, and how the sampler that its model goes to differs.

    Raises:
        Unknown: it cannot be told.
    """
    import comfy.samplers

    model = graph.value(node, "model")
    if model is None:
        raise Unknown("connect", node=graph.title(node), input="model")
    names = ("steps", "sampler_name", "scheduler", "denoise")
    settings = [graph.value(node, name) for name in names]
    sigmas, sampler = graph.value(node, "sigmas"), graph.value(node, "sampler")
    try:
        if sigmas is None:
            sigmas = sigmas_of(model, *settings)
        if len(sigmas) < 2:
            raise Unknown("nothing", node=graph.title(node))
        sampler = sampler or comfy.samplers.sampler_object(settings[1])
    except ValueError as error:
        raise Unknown("fails", node=graph.title(node), error=str(error)) from error
    return run_planned(graph, node, model, sigmas, sampler)


def run_planned(
    graph: Graph, node: str, model: Any, sigmas: torch.Tensor, sampler: Any
) -> tuple[Run, dict | None]:
    """As :func:`planned`, of inputs that are known.

    Args:
        graph: that the node is in.
        node: SenCache Plan.
        model: that comes to it, as SenCache Apply has left it.
        sigmas: ``[steps + 1]`` noise levels.
        sampler: ComfyUI's object.
    """
    from ..sencache_core.hosts.comfy_ahead import alike

    own = Sampling(node, plain_guider(model, 1.0), sampler, sigmas)
    try:
        found = graph.link(node, "model")
        others = [sampling_of(graph, one) for one in (samplers_after(graph, *found))]
    except Unknown:
        others = []
    differs = None
    if others and not any(alike(one.schedule, own.schedule) for one in others):
        title, other = graph.title(others[0].node), others[0].schedule
        differs = {"node": title, "steps": other.num_steps, "sampler": other.sampler}
    config = model.get_attachment(CONFIG)
    if config is None:
        return Run(own), differs
    own = replace(own, guider=others[0].guider) if others else own
    facts = _facts_of(own)
    if not others:  # what the guidance will be is not known
        facts = replace(facts, guided=True, guidance=0.0)
    return run_of(own, config, facts), differs


def told(graph: Graph, run: Run) -> dict:
    """What the page shows of a run: plain JSON values.

    ``mask`` has one letter a round, as ``Plan`` writes it; empty where there is no plan, of which
    ``why`` tells: a message, or an error's words. ``rounds`` are evaluations to be expected,
    ``steps`` the sampler's. ``cost`` is what the mask comes to in evaluations. ``error`` is what
    the final latent is expected to be off by (RMS), ``errors`` what forecasts would be, relative
    to the output.
    """
    schedule, outlook = run.sampling.schedule, run.outlook
    rounds = len(schedule.rounds)
    made = {
        "node": run.sampling.node,
        "title": graph.title(run.sampling.node),
        "sampler": schedule.sampler,
        "steps": schedule.num_steps,
        "levels": [_finite(sigma) for sigma in schedule.sigmas],
        "rounds": rounds,
    }
    if outlook is None:  # its model comes to it without a cache
        whole = {"mask": "C" * rounds, "cost": float(rounds), "error": 0.0, "errors": []}
        rest = {"basis": "", "learnt_from": 0, "messages": [], "to_truth": False, "why": ""}
        return {**made, **whole, **rest, "reuses": False}
    plan, report = outlook.plan, outlook.report
    error = _finite(plan.skipping) if plan is not None else None
    return {
        **made,
        "rounds": len(plan.mask) if plan is not None else rounds,
        "mask": "" if plan is None else str(plan),
        "cost": None if plan is None else plan.cost,
        "error": error,
        "errors": [] if plan is None else [_finite(value) for value in plan.errors],
        "basis": report.basis,
        "learnt_from": report.learnt_from,
        "messages": report.to_dict()["messages"],
        "reuses": outlook.reuses,
        "to_truth": outlook.to_truth,
        "why": outlook.why.to_dict() if isinstance(outlook.why, Message) else outlook.why,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def graph_of(prompt: Mapping[str, Any]) -> Graph:
    """A queued graph, in which SenCache's nodes are read as they will run."""
    return Graph(prompt, {"SenCacheApply": _applied, "SenCacheProfileLoad": _profile_of})


def _config(graph: Graph, node: str) -> CacheConfig | str:
    """The configuration that a SenCache Apply comes to."""
    inputs = {
        name: graph.value(node, name)
        for name in graph.prompt[node].get("inputs", {})
        if name not in ("model", "verbose")
    }
    try:
        return config_of(**inputs)
    except (TypeError, ValueError) as error:
        raise Unknown("refused", error=str(error)) from error


def _applied(graph: Graph, node: str) -> tuple:
    """Outputs of SenCache Apply. Of a loader that cannot be read, the model that it gave before."""
    from ..sencache_core.hosts.comfy import UnsupportedModel, attach, detach

    try:
        model = graph.value(node, "model")
    except Unknown as why:
        model = seen(graph, node)
        if model is None and why.key == "runs":
            raise Unknown("loader", **why.values) from why
        if model is None:
            raise
    if model is None:
        raise Unknown("connect", node=graph.title(node), input="model")
    config = _config(graph, node)
    if config is SWITCHED_OFF:
        return (model,)
    if config is IN_FULL:
        bare = detach(model).clone()
        bare.remove_attachments(CONFIG)
        return (bare,)
    try:
        patched = attach(model, config)
    except UnsupportedModel as error:
        raise Unknown("refused", error=str(error)) from error
    patched.set_attachments(CONFIG, config)
    patched.set_attachments(_APPLY, node)
    return (patched,)


def _profile_of(graph: Graph, node: str) -> tuple:
    try:
        path = folders.profile_path(str(graph.value(node, "name")))
        found = path.stat()
        return (_loaded(str(path), found.st_mtime_ns, found.st_size),)
    except (OSError, ProfileError) as error:
        raise Unknown("refused", error=str(error)) from error


@lru_cache(maxsize=4)
def _loaded(path: str, *stamp: int) -> Profile:
    """One object for one file: what is known of its moments is known the next time."""
    return Profile.load(path)
