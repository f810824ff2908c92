"""The layer taps: cache the branches of every block by themselves, before their gates.

Norms, gates and what lies between run as ever, with the present step's scales. Memory: one
token-sized tensor a layer and branch, times the outputs that the reuse rule reads. Compiled blocks
cannot be entered and are not tapped, nor are blocks that run twice in a call (Wan Animate 2 runs
its own for poses, too).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from ...types import CROSS, MLP, SELF, Site
from ..families import Layer, Places
from .base import StandIn, StandIns, Tap, Visit, pack, packed_shape, swapped, unpack


@dataclass(frozen=True)
class Layers(Tap):
    """One payload a layer: what self-attention, cross-attention or feed-forward of a block returns.

    Sites are ``Site("layers", number of the block, count, kind)``; several streams are packed. The
    share of the work that one is follows from its weights and from the number of tokens. Of LTX-2
    these are the video's layers; the audio's, and those between the two, run as ever.

    Args:
        kinds: which of a block's layers are tapped, those of them that a family has.
    """

    name: ClassVar[str] = "layers"
    title: ClassVar[str] = "Layers of each block"
    whole: ClassVar[bool] = False
    kinds: tuple[str, ...] = (SELF, CROSS, MLP)

    def places(self, count: int) -> int:
        return count * len(self.kinds)

    @contextmanager
    def on(self, module: nn.Module, places: Places, visit: Visit) -> Iterator[None]:
        blocks = getattr(module, places.blocks or "", None)
        found = {kind: places.layers[kind] for kind in self.kinds if kind in places.layers}
        if not isinstance(blocks, nn.ModuleList) or not found:
            yield
            return
        with ExitStack() as stack:
            tapped = _Tapped(blocks)
            for number, block in enumerate(blocks):
                if block._compiled_call_impl is not None or hasattr(block, "forward_gen"):
                    continue
                spread = []
                for kind, where in found.items():
                    if block._modules.get(where.name) is None:
                        continue
                    site = Site(self.name, number, len(blocks), kind)
                    place = _Place(block, site, where, places.apart, visit)
                    if where.feeds:
                        spread.append(place)
                    else:
                        own = _Module(block._modules[where.name], place)
                        stack.enter_context(swapped(block, where.name, own))
                if spread:
                    tapped.blocks[number] = _Spread(block, spread)
            stack.enter_context(swapped(module, places.blocks, tapped))
            yield


@dataclass(frozen=True)
class SelfAttention(Layers):
    """One payload a block: what its self-attention returns. Its sites name this tap."""

    name: ClassVar[str] = "attention"
    title: ClassVar[str] = "Self-attention of each block"
    kinds: tuple[str, ...] = (SELF,)


class _Place:
    """One layer of one block during one call."""

    def __init__(
        self, block: nn.Module, site: Site, where: Layer, apart: Sequence[str], visit: Visit
    ) -> None:
        self.block, self.site, self.where, self.visit = block, site, where, visit
        self._apart = apart

    def ask(self, shape: tuple[int, ...], tokens: int, width: int) -> Tensor | None:
        """What stands in for the layer's output of ``shape``, over ``tokens`` of ``width``."""
        return self.visit.skip(self.site, shape, self._share(tokens, width))

    def _share(self, tokens: int, width: int) -> float:
        """Of the model's block work. Per token a linear layer costs as much as it has weights, and
        scores and values of self-attention together as two rows of tokens.
        """
        pairs = 2 * tokens * width
        own = self._of((self.where.name, *self.where.feeds))
        own += pairs if self.site.kind == SELF else 0
        total = pairs + _weights(self.block) - self._of(self._apart)
        return own / total / self.site.count

    def _of(self, names: Sequence[str]) -> int:
        """Weights of these modules of the block, those of them that it has."""
        found = [self.block._modules.get(name) for name in names]
        return sum(_weights(module) for module in found if module is not None)


def _weights(module: Any) -> int:
    """Number of entries of a module's weights, or of the module that it stands in for."""
    module = module._block if isinstance(module, StandIn) else module
    total = sum(p.numel() for p in module._parameters.values() if p is not None)
    return total + sum(_weights(m) for m in module._modules.values() if m is not None)


class _Tapped(StandIns):
    """The loop over the blocks, some of which are told how to run."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__(blocks)
        self.blocks: list[Any] = list(blocks)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.blocks)


class _Module(StandIn):
    """Stands in for a layer that is a module."""

    def __init__(self, module: nn.Module, place: _Place) -> None:
        super().__init__(module)
        self._place = place

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        streams = (args[0] if args else kwargs["hidden_states"],)
        second = kwargs.get("encoder_hidden_states")  # of joint attention
        if second is not None and self._place.site.kind == SELF:
            streams = (*streams, second)
        tokens, width = sum(s.shape[1] for s in streams), streams[0].shape[-1]
        payload = self._place.ask(packed_shape(streams), tokens, width)
        if payload is not None:
            instead = unpack(payload, streams)
            return instead if len(instead) > 1 else instead[0]
        out = self._block(*args, **kwargs)
        left = out if isinstance(out, tuple) else (out,)
        if [o.shape for o in left] == [s.shape for s in streams]:
            self._place.visit.ran(self._place.site, pack(left))
        return out


class _Spread(StandIn):
    """A block with layers that are no modules: it runs with the parts of them replaced.

    Where one is skipped, what feeds it hands on its input, so that shapes are right, the attention
    function its query, and the layer's last part the payload.
    """

    def __init__(self, block: nn.Module, places: Sequence[_Place]) -> None:
        super().__init__(block)
        self._places = places

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        block = self._block
        x = args[0] if args else kwargs["hidden_states"]
        second = args[1] if len(args) > 1 else kwargs["encoder_hidden_states"]
        tokens, width = second.shape[1] + x.shape[1], x.shape[-1]
        shape = x.shape[0], tokens, width
        payloads = [place.ask(shape, tokens, width) for place in self._places]
        with ExitStack() as stack:
            for place, payload in zip(self._places, payloads, strict=True):
                name = place.where.name
                if payload is None:
                    stack.enter_context(swapped(block, name, _Watched(block._modules[name], place)))
                    continue
                stack.enter_context(swapped(block, name, _Answer(payload)))
                for feed in place.where.feeds:
                    stack.enter_context(swapped(block, feed, _unchanged))
                if place.site.kind == SELF:
                    options = kwargs.get("transformer_options") or {}
                    override = {"optimized_attention_override": _query}
                    kwargs = {**kwargs, "transformer_options": {**options, **override}}
            return block(*args, **kwargs)


class _Watched(StandIn):
    """The last module of a layer that is no module."""

    def __init__(self, module: nn.Module, place: _Place) -> None:
        super().__init__(module)
        self._place = place

    def __call__(self, x: Tensor) -> Tensor:
        out = self._block(x)
        self._place.visit.ran(self._place.site, out)
        return out


class _Answer:
    """In place of a layer's last module: returns what stands in for its output."""

    def __init__(self, payload: Tensor) -> None:
        self._payload = payload

    def __call__(self, x: Tensor) -> Tensor:
        return self._payload


def _unchanged(x: Tensor) -> Tensor:
    return x


def _query(attention: Any, query: Tensor, *_: Any, **__: Any) -> Tensor:
    """In place of attention: of the right shape."""
    return query
