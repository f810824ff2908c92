"""The contract of a tap: reach places in a model during one call, and leave nothing behind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ...types import OUTPUT, Site
from ..families import Places


class Visit(Protocol):
    """Who is asked at every place during one model call.

    Attributes:
        awaits: name of the signal that has to be seen before it can answer; empty: none.
    """

    awaits: str

    def saw(self, value: Tensor | None) -> None:
        """What it waits for was seen, ``[n B, ...]``; ``None``: this module does not have it."""

    def skip(self, site: Site, shape: Sequence[int], share: float = 1.0) -> Tensor | None:
        """What stands in for the payload at ``site``; ``None``: compute it.

        Args:
            site: the place.
            shape: of the payload.
            share: of the model's block work that lies there, 0..1.
        """

    def ran(self, site: Site, y: Tensor) -> Tensor | None:
        """The payload at ``site`` has been computed."""


class Listener:
    """A visit that waits for nothing, skips nothing and keeps the last payload it was shown."""

    awaits = ""

    def __init__(self) -> None:
        self.payload: Tensor | None = None

    def skip(self, site: Site, shape: Sequence[int], share: float = 1.0) -> None:
        return None

    def saw(self, value: Tensor | None) -> None:
        pass

    def ran(self, site: Site, y: Tensor) -> None:
        self.payload = y


class Tap(ABC):
    """Reaches one kind of place. Without state; what a call needs lives during the call.

    Attributes:
        name: key in ``TAPS``.
        title: what nodes show.
        inside: whether it lies inside the model, so that the model is entered even where all of it
            is skipped.
        whole: whether its one place stands for all of the model; where it does not, the host
            answers and watches the whole output besides.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    inside: ClassVar[bool] = True
    whole: ClassVar[bool] = True

    @property
    def figures(self) -> str:
        """Name of the tap whose measured figures are those of what it answers as a whole."""
        return self.name if self.whole else OUTPUT.tap

    def places(self, count: int) -> int:
        """Payloads of one branch, each of its own place, in a model of ``count`` blocks."""
        return 1

    @abstractmethod
    def on(self, module: nn.Module, places: Places, visit: Visit) -> AbstractContextManager[None]:
        """Tap ``module`` for the calls inside the ``with`` block.

        Nothing of it stays on the module afterwards, whatever happens inside. A module without such
        places runs untapped, and ``visit`` is never asked.

        Args:
            module: the diffusion transformer.
            places: names of its block stack and of what reads it.
            visit: is asked at every place.
        """


@contextmanager
def swapped(module: nn.Module, name: str, other: nn.Module) -> Iterator[None]:
    """``module.name`` is ``other`` inside the ``with`` block."""
    own = module._modules[name]
    module._modules[name] = other
    try:
        yield
    finally:
        module._modules[name] = own


class StandIns(nn.ModuleList):
    """The same blocks to all who ask but the loop over them, which meets stand-ins.

    Args:
        blocks: the model's own.
    """

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self._modules = blocks._modules

    @abstractmethod
    def __iter__(self) -> Iterator[Any]:
        """What the loop meets in place of the blocks."""


class StandIn:
    """Stands in for a block: all but calls reaches the block itself."""

    def __init__(self, block: nn.Module) -> None:
        self._block = block

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)


def pack(streams: Sequence[Tensor]) -> Tensor:
    """Streams of a block as one payload: ``[B, tokens, dim]``, or several as ``[B, 1, N]``."""
    if len(streams) == 1:
        return streams[0]
    return torch.cat([s.reshape(s.shape[0], 1, -1) for s in streams], dim=-1)


def packed_shape(streams: Sequence[Tensor]) -> tuple[int, ...]:
    """Shape of :func:`pack`'s payload."""
    if len(streams) == 1:
        return tuple(streams[0].shape)
    return len(streams[0]), 1, sum(s[0].numel() for s in streams)


def unpack(packed: Tensor, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Inverse of :func:`pack`."""
    if len(like) == 1:
        return (packed,)
    parts = packed.split([s[0].numel() for s in like], dim=-1)
    return tuple(p.reshape(s.shape) for p, s in zip(parts, like, strict=True))


def added(entry: Sequence[Tensor], residual: Tensor) -> tuple[Tensor, ...]:
    """Streams that entered a place plus its packed residual."""
    parts = unpack(residual, entry)
    return tuple(e + p.to(e) for e, p in zip(entry, parts, strict=True))


def residual_of(entry: Sequence[Tensor], streams: Sequence[Tensor]) -> Tensor | None:
    """Packed streams that left a place minus those that entered it; ``None`` if shapes differ."""
    if [s.shape for s in streams] != [e.shape for e in entry]:
        return None
    return pack([s - e for s, e in zip(streams, entry, strict=True)])
