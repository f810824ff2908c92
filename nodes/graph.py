"""Reading a queued graph before it runs: what a node would give, where that can be told at no cost.

Nodes of ComfyUI that only compute with numbers, or only note on a model what is to be done, are run
as they are, on stand-ins for what is loaded. Nothing of any other node is guessed.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from .host import node_classes
from .standin import Source, Unreadable, stand_in

#: Nodes of these modules of ComfyUI are run, all or those named.
_RUN: dict[str, frozenset[str] | None] = {
    "comfy_extras.nodes_primitive": None,
    "comfy_extras.nodes_math": None,
    "comfy_extras.nodes_align_your_steps": None,
    "comfy_extras.nodes_gits": None,
    "comfy_extras.nodes_optimalsteps": None,
    "comfy_extras.nodes_model_advanced": None,
    "comfy_extras.nodes_cfg": None,
    "comfy_extras.nodes_tcfg": None,
    "comfy_extras.nodes_apg": None,
    "comfy_extras.nodes_mahiro": None,
    "comfy_extras.nodes_slg": None,
    "comfy_extras.nodes_context_windows": None,
    "comfy_extras.nodes_easycache": None,
    "comfy_extras.nodes_void": frozenset({"VOIDSampler"}),
    "comfy_extras.nodes_lt": frozenset(
        {
            *("ModelSamplingLTXV", "LTXVScheduler", "EmptyLTXVLatentVideo", "LTXVDualCFGGuider"),
            *("LTXVSpatioTemporalGuidance", "LTXVModalityGuidance"),
        }
    ),
}
#: All of this module but what samples.
_CUSTOM = "comfy_extras.nodes_custom_sampler"
_SAMPLES = frozenset({"SamplerCustom", "SamplerCustomAdvanced", "AddNoise", "RandomNoise"})
#: Nodes that hand a model on with other weights, or another way to run it, and the same sampling.
_ALIKE = frozenset(
    {
        *("LoraLoader", "LoraLoaderModelOnly", "LoraModelLoader", "TorchCompileModel"),
        *("SenCacheStore", "SenCacheResume", "Reroute"),
    }
)
#: Nodes of the pack that are run: they load nothing, or a profile's few kilobytes.
_OWN = frozenset({"SenCachePolicySelect", "SenCacheProfileLoad"})
#: Where the size of a latent is asked for, of which nothing else is.
_LATENTS = {"LTXVConcatAVLatent": "video_latent", "SenCacheStatsViewer": "latent"}
_DTYPES = {
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e4m3fn_fast": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
#: Inputs that rule no plan.
_SEEDS = frozenset({"seed", "noise_seed"})
#: Stands for any prompt: what it says rules nothing that is asked here.
PROMPT = [[torch.zeros(1, 1, 1), {}]]

#: Models that nodes have been given, by what led to them; they live as long as ComfyUI keeps them.
_SEEN: OrderedDict[str, weakref.ref] = OrderedDict()
_MOST_SEEN = 16

Link = tuple[str, int]


class Unknown(Exception):
    """Something cannot be told before the graph runs.

    Attributes:
        key: which sentence of the page says it, see ``apply.unknown`` in ``web/words``.
        values: that go into it.
    """

    def __init__(self, key: str, **values: str) -> None:
        super().__init__(key, values)
        self.key, self.values = key, values


class Graph:
    """A graph as ComfyUI queues it.

    Args:
        prompt: nodes by id, ``{"class_type", "inputs"}``, with ``_meta.title`` where known.
        special: outputs of nodes of which the caller knows better, by class.
    """

    def __init__(
        self, prompt: Mapping[str, Any], special: Mapping[str, Callable[[Graph, str], tuple]]
    ) -> None:
        self.prompt, self._special = prompt, special
        self._given: dict[str, tuple] = {}
        self._path: list[str] = []
        self.read: set[str] = set()  #: ids of the nodes that were looked at

    def kind(self, node: str) -> str:
        return str(self.prompt[node].get("class_type", ""))

    def title(self, node: str) -> str:
        """Name of a node as the page shows it."""
        return str(self.prompt[node].get("_meta", {}).get("title") or self.kind(node))

    def link(self, node: str, name: str) -> Link | None:
        """Where an input comes from; ``None``: it is a value, or not there."""
        value = self.prompt[node].get("inputs", {}).get(name)
        if isinstance(value, list) and len(value) == 2 and str(value[0]) in self.prompt:
            return str(value[0]), int(value[1])
        return None

    def after(self, node: str, slot: int = 0) -> Iterator[tuple[str, str]]:
        """Nodes that output ``slot`` of ``node`` leads to, and by which input."""
        for other, one in self.prompt.items():
            for name in one.get("inputs", {}):
                if self.link(other, name) == (node, slot):
                    yield other, name

    def lineage(self, node: str, name: str) -> str:
        """Digest of all that leads to an input, whatever ids its nodes have."""

        known: dict[
            str, str
        ] = {}  # paths to a node double with every LoRA that passes on two links

        def told(link: Link | None) -> Any:
            if link is None:
                return None
            if link[0] not in known:
                known[link[0]] = ""  # a circle ends here
                inputs = self.prompt[link[0]].get("inputs", {})
                read = {key: self.link(link[0], key) for key in inputs}
                given = {key: told(read[key]) if read[key] else inputs[key] for key in inputs}
                known[link[0]] = _digest([self.kind(link[0]), given])
            return [known[link[0]], link[1]]

        return _digest(told(self.link(node, name)))

    def stamp(self, nodes: Iterable[str], but_values_of: str = "") -> str:
        """Digest of what ``nodes`` are set to, but for seeds, and of nodes of the class
        ``but_values_of`` of their links alone."""

        def kept(node: str) -> dict[str, Any]:
            links = self.kind(node) == but_values_of
            inputs = self.prompt[node].get("inputs", {}).items()
            return {
                k: v for k, v in inputs if k not in _SEEDS and (self.link(node, k) or not links)
            }

        return _digest([[self.kind(node), node, kept(node)] for node in sorted(nodes)])

    def value(self, node: str, name: str, default: Any = None) -> Any:
        """What an input of a node is given.

        Raises:
            Unknown: it is known only when the graph runs.
        """
        self.read.add(node)
        inputs = self.prompt[node].get("inputs", {})
        if name not in inputs:
            return default
        found = self.link(node, name)
        return inputs[name] if found is None else self.output(*found)

    def output(self, node: str, slot: int = 0) -> Any:
        """What a node gives.

        Raises:
            Unknown: it is known only when the graph runs.
        """
        self.read.add(node)
        if node not in self._given:
            if node in self._path:
                raise Unknown("runs", node=self.title(node))
            self._path.append(node)
            try:
                self._given[node] = self._outputs(node)
            finally:
                self._path.pop()
        given = self._given[node]
        if slot >= len(given):
            raise Unknown("runs", node=self.title(node))
        return given[slot]

    def _outputs(self, node: str) -> tuple:
        kind = self.kind(node)
        if kind in self._special:
            return self._special[kind](self, node)
        if kind == "UNETLoader":
            return (self._model(node, "unet_name", "diffusion_models"),)
        if kind == "CheckpointLoaderSimple":
            return (self._model(node, "ckpt_name", "checkpoints"),)
        if kind in _ALIKE:
            return (self._needed(node, "model"),)
        if not _runs(kind):
            raise Unknown("runs", node=self.title(node))
        return self._ran(node)

    def _needed(self, node: str, name: str) -> Any:
        value = self.value(node, name)
        if value is None:
            raise Unknown("connect", node=self.title(node), input=name)
        return value

    def _model(self, node: str, name: str, folder: str) -> Any:
        import folder_paths

        file = str(self._needed(node, name))
        path = folder_paths.get_full_path(folder, file)
        if path is None:
            raise Unknown("file", file=file)
        dtype = _DTYPES.get(str(self.value(node, "weight_dtype", "")))
        try:
            return stand_in(Source.of(path, dtype))
        except Unreadable as error:
            raise Unknown("model", file=file) from error

    def _ran(self, node: str) -> tuple:
        """Outputs of a node that is run."""
        kinds = _inputs_of(self.kind(node), self.prompt[node].get("inputs", {}))
        inputs = {}
        for name in self.prompt[node].get("inputs", {}):
            if kinds.get(name) == "CONDITIONING":
                inputs[name] = PROMPT
            elif kinds.get(name) == "LATENT":
                inputs[name] = self._latent(node, name)
            else:
                inputs[name] = self.value(node, name)
        try:
            return run_node(self.kind(node), inputs)
        except Exception as error:  # as it will when the graph runs; it says what is wrong
            raise Unknown("fails", node=self.title(node), error=str(error)) from error

    def _latent(self, node: str, name: str) -> dict | None:
        """A latent of the size that an input gets; there is nothing in it."""
        found = self.link(node, name)
        while found is not None and self.kind(found[0]) in _LATENTS:
            self.read.add(found[0])
            found = self.link(found[0], _LATENTS[self.kind(found[0])])
        if found is None:
            return None
        given = self.output(*found)
        return {"samples": given["samples"].to("meta")}


def remember(prompt: Mapping[str, Any], node: str, model: Any) -> None:
    """Keep in mind which model input ``model`` of a node was given; no memory is held by that."""
    if node in prompt:
        _SEEN[Graph(prompt, {}).lineage(node, "model")] = weakref.ref(model)
        while len(_SEEN) > _MOST_SEEN:
            _SEEN.popitem(last=False)


def seen(graph: Graph, node: str) -> Any:
    """The model that a node with the same before it was given, ``None``: not known, or gone."""
    found = _SEEN.get(graph.lineage(node, "model"))
    return None if found is None else found()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _runs(kind: str) -> bool:
    if kind in _OWN:
        return True
    module = getattr(node_classes().get(kind), "RELATIVE_PYTHON_MODULE", "")
    if module == _CUSTOM:
        return kind not in _SAMPLES
    return module in _RUN and (_RUN[module] is None or kind in _RUN[module])


def _inputs_of(kind: str, given: Mapping[str, Any]) -> dict[str, str]:
    """Types of a node's inputs by name."""
    listed = node_classes()[kind].INPUT_TYPES()
    out = {}
    for part in ("required", "optional"):
        for name, one in listed.get(part, {}).items():
            out[name] = one[0] if isinstance(one[0], str) else "COMBO"
    return out


def run_node(kind: str, inputs: Mapping[str, Any]) -> tuple:
    """Outputs of a node that is executed with ``inputs``, as ComfyUI executes it."""
    from comfy_api.latest import _io, io

    node, values = node_classes()[kind], dict(inputs)
    if not issubclass(node, io.ComfyNode):
        return tuple(getattr(node(), node.FUNCTION)(**values))
    if hasattr(_io, "build_nested_inputs"):
        _, _, more = _io.get_finalized_class_inputs(node.INPUT_TYPES(), values)
        values = _io.build_nested_inputs(values, more)
    given = node.execute(**values)
    return tuple(getattr(given, "args", None) or getattr(given, "result", ()) or ())
