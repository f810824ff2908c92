"""The attention tap: cache the self-attention output of every block by itself.

Norms, cross-attention and feed-forward run as ever, on what follows from it; so does the gate, with
the present step's scale. Memory: one token-sized tensor a block and branch, times the outputs that
the reuse rule reads. Compiled blocks cannot be entered and are not tapped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

from torch import Tensor, nn

from ...types import Site
from ..families import Attention, Places
from .base import StandIn, StandIns, Tap, Visit, pack, packed_shape, swapped, unpack


class SelfAttention(Tap):
    """One payload a block: what its self-attention returns, several streams packed.

    Sites are ``Site("attention", number, count, "self")``. The share of the work that one is
    follows from its weights and from the number of tokens.
    """

    name: ClassVar[str] = "attention"
    title: ClassVar[str] = "Self-attention of each block"
    whole: ClassVar[bool] = False

    def places(self, count: int) -> int:
        return count

    @contextmanager
    def on(self, module: nn.Module, places: Places, visit: Visit) -> Iterator[None]:
        blocks, where = getattr(module, places.blocks or "", None), places.attention
        if not isinstance(blocks, nn.ModuleList) or where is None:
            yield
            return
        with ExitStack() as stack:
            tapped = _Tapped(blocks)
            for number, block in enumerate(blocks):
                if where.name not in block._modules or block._compiled_call_impl is not None:
                    continue
                place = _Place(block, Site("attention", number, len(blocks), "self"), where, visit)
                if where.feeds:
                    tapped.blocks[number] = _Spread(block, place)
                else:
                    own = _Module(block._modules[where.name], place)
                    stack.enter_context(swapped(block, where.name, own))
            stack.enter_context(swapped(module, places.blocks, tapped))
            yield


class _Place:
    """One block's self-attention during one call."""

    def __init__(self, block: nn.Module, site: Site, where: Attention, visit: Visit) -> None:
        self.block, self.site, self.where, self.visit = block, site, where, visit

    def ask(self, shape: tuple[int, ...], tokens: int, width: int) -> Tensor | None:
        """What stands in for the attention's output of ``shape``, over ``tokens`` of ``width``."""
        return self.visit.skip(self.site, shape, self._share(tokens, width))

    def _share(self, tokens: int, width: int) -> float:
        """Of the model's block work. Per token a linear layer costs as much as it has weights, and
        scores and values together as two rows of tokens.
        """
        pairs = 2 * tokens * width
        own = pairs + sum(_weights(self.block._modules[name]) for name in self._own())
        return own / (pairs + _weights(self.block)) / self.site.count

    def _own(self) -> tuple[str, ...]:
        names = (self.where.name, *self.where.feeds)
        return tuple(name for name in names if self.block._modules.get(name) is not None)


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
    """Stands in for an attention module."""

    def __init__(self, module: nn.Module, place: _Place) -> None:
        super().__init__(module)
        self._place = place

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        streams = (args[0] if args else kwargs["hidden_states"],)
        second = kwargs.get("encoder_hidden_states")  # of joint attention
        streams = streams if second is None else (*streams, second)
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
    """A block whose attention is no module: it runs with the parts of it replaced.

    Where the attention is skipped, what feeds it hands on its input, so that shapes are right, the
    attention function its query, and the last part the payload.
    """

    def __init__(self, block: nn.Module, place: _Place) -> None:
        super().__init__(block)
        self._place = place

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        place, block = self._place, self._block
        x = args[0] if args else kwargs["hidden_states"]
        second = args[1] if len(args) > 1 else kwargs["encoder_hidden_states"]
        tokens, width = second.shape[1] + x.shape[1], x.shape[-1]
        payload = place.ask((x.shape[0], tokens, width), tokens, width)
        name = place.where.name
        with ExitStack() as stack:
            if payload is None:
                stack.enter_context(swapped(block, name, _Watched(block._modules[name], place)))
                return block(*args, **kwargs)
            stack.enter_context(swapped(block, name, lambda _: payload))
            for feed in place.where.feeds:
                stack.enter_context(swapped(block, feed, _unchanged))
            options = kwargs.get("transformer_options") or {}
            override = {"optimized_attention_override": _query}
            return block(*args, **{**kwargs, "transformer_options": {**options, **override}})


class _Watched(StandIn):
    """The last module of an attention that is no module."""

    def __init__(self, module: nn.Module, place: _Place) -> None:
        super().__init__(module)
        self._place = place

    def __call__(self, x: Tensor) -> Tensor:
        out = self._block(x)
        self._place.visit.ran(self._place.site, out)
        return out


def _unchanged(x: Tensor) -> Tensor:
    return x


def _query(attention: Any, query: Tensor, *_: Any, **__: Any) -> Tensor:
    """In place of attention: of the right shape."""
    return query
