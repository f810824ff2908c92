"""The blocks tap: cache the residual of every transformer block by itself.

What lies between the blocks (adapters, added conditions) runs as ever. Memory: as many token-sized
tensors a branch as blocks are ever skipped, times the outputs that their reuse rule reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import Tensor, nn

from ...types import Site
from ..families import Places
from .base import StandIn, StandIns, Tap, Visit, added, packed_shape, residual_of, swapped


class Blocks(Tap):
    """One payload a block: its output minus its input, several streams packed.

    Sites are ``Site("blocks", number, count)``; each is an equal share of the block work.
    """

    name: ClassVar[str] = "blocks"
    title: ClassVar[str] = "Residual of each block"

    @contextmanager
    def on(self, module: nn.Module, places: Places, visit: Visit) -> Iterator[None]:
        blocks = getattr(module, places.blocks or "", None)
        if not isinstance(blocks, nn.ModuleList):
            yield
            return
        with swapped(module, places.blocks, _Tapped(blocks, places.second, visit)):
            yield


class _Tapped(StandIns):
    def __init__(self, blocks: nn.ModuleList, second: str, visit: Visit) -> None:
        super().__init__(blocks)
        self._blocks = [
            _Block(block, Site("blocks", number, len(blocks)), second, visit)
            for number, block in enumerate(blocks)
        ]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._blocks)


class _Block(StandIn):
    def __init__(self, block: nn.Module, site: Site, second: str, visit: Visit) -> None:
        super().__init__(block)
        self._site, self._second, self._visit = site, second, visit

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        x = args[0] if args else kwargs["hidden_states"]
        streams = x if isinstance(x, tuple) else (x,)
        if self._second:
            streams = x, kwargs.get(self._second, args[1] if len(args) > 1 else None)
        return self._answer(streams, lambda: self._block(*args, **kwargs))

    def forward_gen(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Wan Animate 2 calls its blocks by this name; their pose stream runs untapped."""
        return self._answer((x,), lambda: self._block.forward_gen(x, *args, **kwargs))

    def _answer(self, streams: tuple[Any, ...], run: Callable[[], Any]) -> Any:
        if not all(isinstance(stream, Tensor) for stream in streams):
            return run()
        residual = self._visit.skip(self._site, packed_shape(streams), 1 / self._site.count)
        if residual is not None:
            out = added(streams, residual)
            return out if len(out) > 1 else out[0]
        entry = tuple(s.clone() for s in streams)  # some blocks work in place
        out = run()
        left = out if isinstance(out, tuple) else (out,)
        if len(left) == len(entry) and (residual := residual_of(entry, left)) is not None:
            self._visit.ran(self._site, residual)
        return out
