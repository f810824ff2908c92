"""The stack tap: cache the residual of a whole block stack instead of the model's output.

This is what the paper's code stores. It re-runs patch embedding, time embedding and head on every
step and keeps token-sized tensors, 12 to 40 times the memory of the output tap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .families import Family

#: ``predict(shape) -> residual`` or ``None`` to run the stack.
Predict = Callable[[torch.Size], Tensor | None]


class StackCall:
    """One call of a model whose block stack is tapped.

    Attributes:
        family: says where the stack begins and who reads its output.
        payload: afterwards, the residual (stack output - stack input): ``[B, tokens, dim]`` for one
            stream, several streams packed to ``[B, 1, N]``. ``None`` if the stack was skipped, or
            never seen.
        reused: whether the stack was skipped.
    """

    def __init__(self, family: Family, predict: Predict) -> None:
        self.family = family
        self._predict = predict
        self._entry: tuple[Tensor, ...] | None = None
        self._residual: Tensor | None = None
        self.payload: Tensor | None = None

    @property
    def reused(self) -> bool:
        return self._residual is not None

    def enter(self, streams: tuple[Tensor, ...]) -> bool:
        """Note the stack's input; ``True`` if the stack is to be skipped."""
        self._entry = tuple(s.clone() for s in streams)  # some blocks work in place
        self._residual = self._predict(_pack(self._entry).shape)
        return self.reused

    def leave(self, streams: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What the head shall read, given the tensors that reached it."""
        entry, self._entry = self._entry, None
        if entry is None:
            return streams
        if self._residual is not None:
            parts = _unpack(self._residual, entry)
            return tuple((e + p.to(e)) for e, p in zip(entry, parts, strict=True))
        if [s.shape for s in streams] == [e.shape for e in entry]:
            self.payload = _pack([s - e for s, e in zip(streams, entry, strict=True)])
        return streams


@contextmanager
def stack_tap(module: nn.Module, call: StackCall) -> Iterator[None]:
    """Tap the block stack of ``module`` for the calls inside the ``with`` block.

    Nothing of it stays on the module afterwards, whatever happens inside. A module without the
    family's block stack runs untapped, and ``call.payload`` stays ``None``.
    """
    name = call.family.blocks
    if name is None or not isinstance(getattr(module, name, None), nn.ModuleList):
        yield
    elif hasattr(module, "_process_transformer_blocks"):
        # ComfyUI's LTX classes run the stack in a method of its own.
        with _shadowed(module, "_process_transformer_blocks", call):
            yield
    else:
        with _gated(module, name, call.family.heads, call):
            yield


@contextmanager
def _shadowed(module: nn.Module, name: str, call: StackCall) -> Iterator[None]:
    method = getattr(module, name)

    def run(x: Any, *args: Any, **kwargs: Any) -> Any:
        several = isinstance(x, list | tuple)
        streams = tuple(x) if several else (x,)
        if not call.enter(streams):
            out = method(x, *args, **kwargs)
            streams = tuple(out) if several else (out,)
        streams = call.leave(streams)
        return list(streams) if several else streams[0]

    object.__setattr__(module, name, run)
    try:
        yield
    finally:
        object.__delattr__(module, name)


@contextmanager
def _gated(module: nn.Module, name: str, heads: tuple[str, ...], call: StackCall) -> Iterator[None]:
    blocks = module._modules[name]

    def before_head(_: nn.Module, args: tuple) -> tuple:
        return (*call.leave((args[0],)), *args[1:])

    hooks = [
        getattr(module, head).register_forward_pre_hook(before_head)
        for head in heads
        if isinstance(getattr(module, head, None), nn.Module)
    ]
    module._modules[name] = _GatedBlocks(blocks, call)
    try:
        yield
    finally:
        module._modules[name] = blocks
        for hook in hooks:
            hook.remove()


class _GatedBlocks(nn.ModuleList):
    """The same blocks; the loop over them ends after the first one if the stack is skipped.

    The first block is replaced by an entry that sees the stack's input. Since the head's input is
    replaced too, whatever a model adds between blocks (VACE, audio, faces) never counts twice.
    """

    def __init__(self, blocks: nn.ModuleList, call: StackCall) -> None:
        super().__init__()
        self._modules = blocks._modules
        self._call = call

    def __iter__(self) -> Iterator[Any]:
        blocks = iter(self._modules.values())
        entry = _Entry(next(blocks), self._call)
        yield entry
        if not self._call.reused:
            yield from blocks


class _Entry:
    """Stands in for the first block."""

    def __init__(self, block: nn.Module, call: StackCall) -> None:
        self._block, self._call = block, call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        x = args[0] if args else kwargs["hidden_states"]
        if not self._call.enter((x,)):
            return self._block(*args, **kwargs)
        # CogVideoX blocks hand a pair on; only the image stream reaches the head.
        return (x, kwargs["encoder_hidden_states"]) if "encoder_hidden_states" in kwargs else x

    def forward_gen(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Wan Animate 2 calls its blocks by this name; their pose stream runs untapped."""
        return x if self._call.enter((x,)) else self._block.forward_gen(x, *args, **kwargs)


def _pack(streams: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    if len(streams) == 1:
        return streams[0]
    return torch.cat([s.reshape(s.shape[0], 1, -1) for s in streams], dim=-1)


def _unpack(packed: Tensor, like: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if len(like) == 1:
        return (packed,)
    sizes = [s[0].numel() for s in like]
    parts = packed.split(sizes, dim=-1)
    return tuple(p.reshape(s.shape) for p, s in zip(parts, like, strict=True))
