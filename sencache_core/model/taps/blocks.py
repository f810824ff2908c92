"""The blocks tap: cache the residuals of transformer blocks, or of runs of them, by themselves.

What lies between the places (adapters, added conditions) runs as ever. Memory: as many token-sized
tensors a branch as there are places, times the outputs that their reuse rule reads.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...types import Site
from ..families import Places
from ..signals import FIRST_STATES, OF_FIRST_BLOCKS
from .base import StandIn, StandIns, Tap, Visit, added, packed_shape, residual_of, swapped

#: ``runs(count)``: of ``count`` blocks those that are one place each, in order, without overlap.
Runs = Callable[[int], Sequence[range]]


def single(count: int) -> Sequence[range]:
    """Every block is a place by itself."""
    return [range(number, number + 1) for number in range(count)]


@dataclass(frozen=True)
class Blocks(Tap):
    """One payload a run of blocks: its output minus its input, several streams packed.

    Sites are ``Site("blocks", number of the first, count)``; each is its blocks' share of the work.
    Blocks outside of all runs are not tapped.

    Args:
        runs: which blocks are one place.
        first: blocks at the start that always run. What they do to the first stream is shown to
            who waits for it, see ``OF_FIRST_BLOCKS``. A run that begins among them is asked for
            behind them, and counts as the share of its other blocks.
    """

    name: ClassVar[str] = "blocks"
    title: ClassVar[str] = "Residual of each block"
    whole: ClassVar[bool] = False
    runs: Runs = single
    first: int = 0

    def places(self, count: int) -> int:
        return len(self.runs(count))

    @contextmanager
    def on(self, module: nn.Module, places: Places, visit: Visit) -> Iterator[None]:
        blocks = getattr(module, places.blocks or "", None)
        if not isinstance(blocks, nn.ModuleList):
            yield
            return
        with swapped(module, places.blocks, _Tapped(blocks, self, places.second, visit)):
            yield


class _Tapped(StandIns):
    def __init__(self, blocks: nn.ModuleList, tap: Blocks, second: str, visit: Visit) -> None:
        super().__init__(blocks)
        self._blocks = list(blocks)
        for run in tap.runs(len(blocks)):
            passage = _Passage(run, len(blocks), tap.first, visit)
            for number in run:
                self._blocks[number] = _Block(blocks[number], number, second, passage)
        if 0 < tap.first <= len(blocks):
            probe = _Probe(tap.first - 1, visit)
            for number in {0, probe.last}:
                self._blocks[number] = _First(self._blocks[number], number, second, probe)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._blocks)


class _Passage:
    """One way through a run of blocks, the first ``always`` of all blocks being run in any case."""

    def __init__(self, run: range, count: int, always: int, visit: Visit) -> None:
        self.first, self.last, self.asked = run[0], run[-1], max(run[0], always)
        share = (run[-1] + 1 - self.asked) / count
        self._site, self._share = Site("blocks", run[0], count), share
        self._visit = visit
        self._entry: tuple[Tensor, ...] | None = None
        self._residual: Tensor | None = None

    def enter(self, streams: tuple[Any, ...]) -> None:
        """Note what enters the run."""
        self._entry = self._residual = None
        if all(isinstance(stream, Tensor) for stream in streams):
            self._entry = tuple(s.clone() for s in streams)  # some blocks work in place

    def ask(self) -> None:
        """Ask for what the run adds."""
        if self._entry is not None:
            self._residual = self._visit.skip(self._site, packed_shape(self._entry), self._share)

    @property
    def skipped(self) -> bool:
        return self._residual is not None

    def instead(self, streams: tuple[Tensor, ...], last: bool) -> Any:
        """What a block of a skipped run returns. What was added on the way never counts twice."""
        out = added(self._entry, self._residual) if last else streams
        return out if len(out) > 1 else out[0]

    def leave(self, out: Any) -> None:
        """The last block of a run has run."""
        left = out if isinstance(out, tuple) else (out,)
        if self._entry is not None and len(left) == len(self._entry):
            residual = residual_of(self._entry, left)
            if residual is not None:
                self._visit.ran(self._site, residual)


class _Probe:
    """Shows what the first blocks, up to the block ``last``, do to the first stream."""

    def __init__(self, last: int, visit: Visit) -> None:
        self.last, self._visit = last, visit
        self._entry: Tensor | None = None

    def enter(self, stream: Any) -> None:
        wanted = self._visit.awaits in OF_FIRST_BLOCKS and isinstance(stream, Tensor)
        self._entry = stream.clone() if wanted else None  # some blocks work in place

    def leave(self, out: Any) -> None:
        stream, entry, self._entry = out[0] if isinstance(out, tuple) else out, self._entry, None
        awaits = self._visit.awaits
        if awaits not in OF_FIRST_BLOCKS:
            return
        if entry is None or not isinstance(stream, Tensor) or stream.shape != entry.shape:
            self._visit.saw(None)
        elif awaits == FIRST_STATES:
            self._visit.saw(torch.stack([entry, stream], dim=1))
        else:
            self._visit.saw(stream - entry)


class _StandIn(StandIn):
    """Stands in for a block of number ``number``."""

    def __init__(self, block: Any, number: int, second: str) -> None:
        super().__init__(block)
        self._number, self._second = number, second

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        x = args[0] if args else kwargs["hidden_states"]
        streams = x if isinstance(x, tuple) else (x,)
        if self._second:
            streams = x, kwargs.get(self._second, args[1] if len(args) > 1 else None)
        return self._answer(streams, lambda: self._block(*args, **kwargs))

    def forward_gen(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Wan Animate 2 calls its blocks by this name; their pose stream runs untapped."""
        return self._answer((x,), lambda: self._block.forward_gen(x, *args, **kwargs))

    @abstractmethod
    def _answer(self, streams: tuple[Any, ...], run: Callable[[], Any]) -> Any:
        """What a call over ``streams`` returns; ``run`` makes it."""


class _Block(_StandIn):
    """A block of a run."""

    def __init__(self, block: Any, number: int, second: str, passage: _Passage) -> None:
        super().__init__(block, number, second)
        self._passage = passage

    def _answer(self, streams: tuple[Any, ...], run: Callable[[], Any]) -> Any:
        passage, last = self._passage, self._number == self._passage.last
        if self._number == passage.first:
            passage.enter(streams)
        if self._number == passage.asked:
            passage.ask()
        if passage.skipped:
            return passage.instead(streams, last)
        out = run()
        if last:
            passage.leave(out)
        return out


class _First(_StandIn):
    """The first or the last of the first blocks."""

    def __init__(self, block: Any, number: int, second: str, probe: _Probe) -> None:
        super().__init__(block, number, second)
        self._probe = probe

    def _answer(self, streams: tuple[Any, ...], run: Callable[[], Any]) -> Any:
        if self._number == 0:
            self._probe.enter(streams[0])
        out = run()
        if self._number == self._probe.last:
            self._probe.leave(out)
        return out
