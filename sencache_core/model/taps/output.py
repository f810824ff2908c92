"""The output tap: the model's whole output, which the host itself answers and watches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import nn

from ...types import OUTPUT
from ..families import Places
from .base import StandIn, StandIns, Tap, Visit, swapped


class Output(Tap):
    """Latent-sized payloads; the model is not entered where one is skipped.

    Unless the visit waits for something that is seen inside: then the model is entered, and left
    before its blocks where its output is known. What the head makes of the stack's input is not
    meant to be read.
    """

    name: ClassVar[str] = "output"
    title: ClassVar[str] = "Model output"
    inside: ClassVar[bool] = False

    @contextmanager
    def on(self, module: nn.Module, places: Places, visit: Visit) -> Iterator[None]:
        blocks = getattr(module, places.blocks or "", None)
        if not visit.awaits or not isinstance(blocks, nn.ModuleList):
            yield
            return
        with swapped(module, places.blocks, _Ahead(blocks, places.second, visit)):
            yield


class _Ahead(StandIns):
    """The loop over the blocks ends after the first one if the output is known by then."""

    def __init__(self, blocks: nn.ModuleList, second: str, visit: Visit) -> None:
        super().__init__(blocks)
        self.second, self.visit, self.known = second, visit, False

    def __iter__(self) -> Iterator[Any]:
        blocks = iter(self._modules.values())
        yield _Entry(next(blocks), self)
        if not self.known:
            yield from blocks


class _Entry(StandIn):
    def __init__(self, block: nn.Module, loop: _Ahead) -> None:
        super().__init__(block)
        self._loop = loop

    def _known(self) -> bool:
        self._loop.known = self._loop.visit.skip(OUTPUT, ()) is not None
        return self._loop.known

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._known():
            return self._block(*args, **kwargs)
        x, second = args[0] if args else kwargs["hidden_states"], self._loop.second
        if not second:
            return x
        return x, kwargs[second] if second in kwargs else args[1]

    def forward_gen(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Wan Animate 2 calls its blocks by this name."""
        return x if self._known() else self._block.forward_gen(x, *args, **kwargs)
