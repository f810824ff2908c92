"""The stack tap: cache the residual of a whole block stack instead of the model's output.

This is what the paper's code stores. It re-runs patch embedding, time embedding and head on every
step and keeps token-sized tensors, 12 to 40 times the memory of the output tap.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import Tensor, nn

from ...types import STACK
from ..families import Places
from .base import StandIn, StandIns, Tap, Visit, added, packed_shape, residual_of, swapped
from .look import Lookout, peek


class Stack(Tap):
    """One payload a call: stack output minus stack input, several streams packed."""

    name: ClassVar[str] = "stack"
    title: ClassVar[str] = "Residual of the block stack"

    @contextmanager
    def on(self, module: nn.Module, places: Places, visit: Visit) -> Iterator[None]:
        blocks = getattr(module, places.blocks or "", None)
        if not isinstance(blocks, nn.ModuleList):
            yield
        elif hasattr(module, "_process_transformer_blocks"):
            # ComfyUI's LTX classes run the stack in a method of its own.
            with _shadowed(module, "_process_transformer_blocks", places, visit):
                yield
        else:
            with _gated(module, blocks, places, _Passage(visit)):
                yield


class _Passage:
    """One way through the stack."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._entry: tuple[Tensor, ...] | None = None
        self._residual: Tensor | None = None
        self._left: dict[int, Tensor] = {}

    @property
    def skipped(self) -> bool:
        return self._residual is not None

    def enter(self, streams: tuple[Tensor, ...]) -> bool:
        """Note the stack's input; ``True`` if the stack is to be skipped."""
        self._entry = tuple(s.clone() for s in streams)  # some blocks work in place
        self._residual = self._visit.skip(STACK, packed_shape(self._entry))
        return self.skipped

    def leave(self, streams: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What the head shall read, given the tensors that reached it."""
        entry, self._entry = self._entry, None
        if entry is None:
            return streams
        if self._residual is not None:
            return added(entry, self._residual)
        if (residual := residual_of(entry, streams)) is not None:
            self._visit.ran(STACK, residual)
        return streams

    def leave_by(self, number: int, stream: Tensor) -> Tensor:
        """As :meth:`leave` where every stream has a head of its own: that of one of them."""
        if self._entry is None:
            return stream
        if self._residual is not None:
            return added(self._entry, self._residual)[number]
        self._left[number] = stream
        if len(self._left) == len(self._entry):
            self.leave(tuple(self._left[k] for k in sorted(self._left)))
        return stream


@contextmanager
def _shadowed(module: nn.Module, name: str, places: Places, visit: Visit) -> Iterator[None]:
    method, passage = getattr(module, name), _Passage(visit)
    with Lookout.on(module, places, visit) as lookout:

        def run(x: Any, *args: Any, **kwargs: Any) -> Any:
            peek(module, places, lookout, lambda: method(x, *args, **kwargs))
            several = isinstance(x, list | tuple)
            streams = tuple(x) if several else (x,)
            if not passage.enter(streams):
                out = method(x, *args, **kwargs)
                streams = tuple(out) if several else (out,)
            streams = passage.leave(streams)
            return list(streams) if several else streams[0]

        object.__setattr__(module, name, run)
        try:
            yield
        finally:
            object.__delattr__(module, name)


@contextmanager
def _gated(
    module: nn.Module, blocks: nn.ModuleList, places: Places, passage: _Passage
) -> Iterator[None]:
    heads = [getattr(module, name, None) for name in places.heads]
    heads = [head for head in heads if isinstance(head, nn.Module)]
    several = bool(places.second) and len(heads) > 1

    def before(number: int):
        def before_head(_: nn.Module, args: tuple) -> tuple:
            if several:
                return (passage.leave_by(number, args[0]), *args[1:])
            return (*passage.leave((args[0],)), *args[1:])

        return before_head

    hooks = [head.register_forward_pre_hook(before(k)) for k, head in enumerate(heads)]
    try:
        with swapped(module, places.blocks, _GatedBlocks(blocks, places.second, several, passage)):
            yield
    finally:
        for hook in hooks:
            hook.remove()


class _GatedBlocks(StandIns):
    """The loop over the blocks ends after the first one if the stack is skipped.

    The first block is replaced by an entry that sees the stack's input. Since the head's input is
    replaced too, whatever a model adds between blocks (VACE, audio, faces) never counts twice.
    """

    def __init__(
        self, blocks: nn.ModuleList, second: str, several: bool, passage: _Passage
    ) -> None:
        super().__init__(blocks)
        self._second, self._several, self._passage = second, several, passage

    def __iter__(self) -> Iterator[Any]:
        blocks = iter(self._modules.values())
        yield _Entry(next(blocks), self._second, self._several, self._passage)
        if not self._passage.skipped:
            yield from blocks


class _Entry(StandIn):
    def __init__(self, block: nn.Module, second: str, several: bool, passage: _Passage) -> None:
        super().__init__(block)
        self._second, self._several, self._passage = second, several, passage

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        x = args[0] if args else kwargs["hidden_states"]
        if not self._passage.enter((x, kwargs[self._second]) if self._several else (x,)):
            return self._block(*args, **kwargs)
        # Streams are handed on as they are: those that reach a head are replaced there.
        return (x, kwargs[self._second]) if self._second else x

    def forward_gen(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Wan Animate 2 calls its blocks by this name; their pose stream runs untapped."""
        return x if self._passage.enter((x,)) else self._block.forward_gen(x, *args, **kwargs)
