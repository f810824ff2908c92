"""Looks: a signal is read where the blocks begin, so that what comes after may be decided by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..families import Places
from ..signals import OF_FIRST_BLOCKS, FromArgument, FromModule, FromWithin, Signal
from .base import StandIn, StandIns, Visit, swapped


class _Reached(Exception):
    """The place to look at was reached; what lies behind it must not run for the look."""


@contextmanager
def looking(module: nn.Module, places: Places, visit: Visit) -> Iterator[None]:
    """Show ``visit`` the signal that it waits for, once a call, before any tap's place is met.

    To be entered inside of ``Tap.on``: the loop over the blocks then meets the look first. Where
    nothing is waited for, or what the tap shows, nothing is done.
    """
    blocks, awaits = getattr(module, places.blocks or "", None), visit.awaits
    if not awaits or awaits in OF_FIRST_BLOCKS or not isinstance(blocks, nn.ModuleList):
        yield
        return
    with (
        Lookout.on(module, places, visit) as lookout,
        swapped(module, places.blocks, _LookedAt(blocks, lookout)),
    ):
        yield


class Lookout:
    """Reads one signal during one call.

    Args:
        signal: where it is found; ``None``: this module has none of the name.
        visit: is shown it.
    """

    def __init__(self, signal: Signal | None, visit: Visit) -> None:
        self._signal, self._visit = signal, visit
        self._heard: Any = None

    @classmethod
    @contextmanager
    def on(cls, module: nn.Module, places: Places, visit: Visit) -> Iterator[Lookout]:
        """A lookout for what ``visit`` waits for, with its ears on ``module``."""
        signal = places.signals.get(visit.awaits)
        lookout, hook = cls(signal, visit), None
        if isinstance(signal, FromModule):
            try:
                source = module.get_submodule(signal.name)
            except AttributeError:
                source = nn.Module()
            hook = source.register_forward_hook(lookout._hear)
        try:
            yield lookout
        finally:
            if hook is not None:
                hook.remove()

    @property
    def awaited(self) -> bool:
        """Whether the signal has yet to be seen."""
        return bool(self._visit.awaits)

    def _hear(self, _: nn.Module, args: tuple, output: Any) -> None:
        if self._heard is None:  # the first is the clip's own; others follow for poses, references
            self._heard = output

    def look(self, block: nn.Module, run: Callable[[], Any], args: tuple, kwargs: dict) -> None:
        """The first block is about to run.

        Args:
            block: it.
            run: runs it.
            args, kwargs: what it is called with.
        """
        if not self.awaited:
            return
        value = None
        if isinstance(self._signal, FromModule):
            value = self._heard
            if self._signal.part is not None and isinstance(value, tuple | list):
                value = value[self._signal.part]
        elif isinstance(self._signal, FromArgument):
            known = len(args) > self._signal.place
            value = args[self._signal.place] if known else kwargs.get(self._signal.name)
        elif isinstance(self._signal, FromWithin):
            value = _first_input(block, self._signal.name, run)
        self._visit.saw(value if isinstance(value, Tensor) else None)


def peek(module: nn.Module, places: Places, lookout: Lookout, run: Callable[[], Any]) -> None:
    """Look ahead where something has to be decided before the loop over the blocks is met.

    Args:
        lookout: on since the call began.
        run: runs the loop. It is left before the first block.
    """
    if not lookout.awaited:
        return
    blocks = getattr(module, places.blocks)
    try:
        with swapped(module, places.blocks, _LookedAt(blocks, lookout, leave=True)):
            run()
    except _Reached:
        pass


class _LookedAt(StandIns):
    """The loop over the blocks, or over what stands in for them, with a look before the first."""

    def __init__(self, blocks: nn.ModuleList, lookout: Lookout, leave: bool = False) -> None:
        super().__init__(blocks)
        # An attribute that is a module would be added to the model's own list.
        self._loop, self._lookout, self._leave = blocks.__iter__, lookout, leave

    def __iter__(self) -> Iterator[Any]:
        inner = self._loop()
        own = next(iter(self._modules.values()))
        yield _First(next(inner), own, self._lookout, self._leave)
        yield from inner


class _First(StandIn):
    def __init__(self, block: Any, own: nn.Module, lookout: Lookout, leave: bool) -> None:
        super().__init__(block)
        self._own, self._lookout, self._leave = own, lookout, leave

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        own = getattr(self._own, "_orig_mod", self._own)  # compiled blocks cannot be left half-way
        self._lookout.look(own, lambda: own.forward(*args, **kwargs), args, kwargs)
        if self._leave:
            raise _Reached
        return self._block(*args, **kwargs)

    def forward_gen(self, *args: Any, **kwargs: Any) -> Any:
        """Wan Animate 2 calls its blocks by this name."""
        own = getattr(self._own, "_orig_mod", self._own)
        self._lookout.look(own, lambda: own.forward_gen(*args, **kwargs), args, kwargs)
        return self._block.forward_gen(*args, **kwargs)


class _Stop:
    def __init__(self) -> None:
        self.read: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self.read = args[0] if args else kwargs.get("hidden_states")
        raise _Reached

    def __getattr__(self, name: str) -> Any:
        # Some blocks call parts of their attention instead of it: these cannot be looked at.
        raise _Reached


def _first_input(block: nn.Module, name: str, run: Callable[[], Any]) -> Any:
    """What the module ``name`` of ``block`` would be called with; ``None`` if it is not met."""
    if block._modules.get(name) is None:
        return None
    stop = _Stop()
    try:
        with swapped(block, name, stop):
            run()
    except _Reached:
        pass
    return stop.read
