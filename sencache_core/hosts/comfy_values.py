"""Values of ComfyUI's options as parts of keys: equal where two passes are the same."""

from __future__ import annotations

import re
import weakref
from collections.abc import Hashable, Mapping, Set
from enum import Enum
from typing import Any

import torch
from torch import Tensor

#: Entries that are read of a nested value; of longer ones only type and length count.
MOST_ENTRIES = 512

#: Words in the names of options that follow the run's clock.
_CLOCK = frozenset(
    (
        *("step", "steps", "substep", "sigma", "sigmas", "timestep", "timesteps"),
        *("progress", "percent", "iteration", "counter", "elapsed"),
    )
)


class Labels:
    """Names the values of options within one run.

    A value of a plain type is its own label. Tensors, functions and other objects are told apart by
    identity, for as long as they live. Numbers and identities that are new in every round (step
    counters, tensors that are built anew) would make every round a branch of its own, with nothing
    to predict from: from the third such round on, the k-th new value has the label of the k-th one
    of the round before. Numbers that are named after the run's clock are left out from the start.
    Switches (bools, words) always count.
    """

    def __init__(self) -> None:
        self._options: dict[str, _Option] = {}
        self._objects: dict[int, tuple[weakref.ref, int]] = {}
        self._count = 0

    def begin(self) -> None:
        """Open a round."""
        for option in self._options.values():
            option.close()

    def of(self, name: str, value: Any) -> Hashable:
        """Label of ``value``, option ``name`` of a call in the present round."""
        reader = _Reader(self._serial)
        read = reader.read(value)
        if reader.may_run and not isinstance(value, Mapping) and _CLOCK & set(_words(name)):
            return None
        return self._options.setdefault(name, _Option()).label(read, reader.may_run)

    def _serial(self, thing: Any) -> Hashable:
        """A number that no two objects of this run share, dead ones included."""
        known = self._objects.get(id(thing))
        if known is not None and known[0]() is thing:
            return known[1]
        try:
            ref = weakref.ref(thing)
        except TypeError:
            return type(thing).__qualname__
        self._count += 1
        self._objects[id(thing)] = (ref, self._count)
        return self._count


def _words(name: str) -> list[str]:
    return [w.lower() for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


class _Option:
    """Values that one option has had, in the order in which they came."""

    def __init__(self) -> None:
        self._labels: dict[Hashable, Hashable] = {}
        self._now: list[Hashable] = []
        self._before: list[Hashable] = []  # of the last round that had any
        self._all_new = True  # values of the present round
        self._new_rounds = 0  # rounds in a row with new values only

    def close(self) -> None:
        if self._now:
            self._before, self._now = self._now, []
            self._new_rounds = self._new_rounds + 1 if self._all_new else 0
            self._all_new = True

    def label(self, value: Hashable, may_run: bool) -> Hashable:
        if value in self._now:
            return self._labels[value]
        known = value in self._labels
        self._all_new &= not known
        place = len(self._now)
        self._now.append(value)
        if not known:
            runs = may_run and self._all_new and self._new_rounds >= 2
            follows = runs and place < len(self._before)
            self._labels[value] = self._labels[self._before[place]] if follows else value
        return self._labels[value]


class _Reader:
    """Reads one value. ``may_run`` says afterwards whether it held a number or an identity."""

    def __init__(self, serial: Any) -> None:
        self._serial = serial
        self._left = MOST_ENTRIES
        self.may_run = False

    def read(self, value: Any) -> Hashable:
        self._left -= 1
        if value is None or isinstance(value, str | bytes | bool):
            return type(value).__name__, value
        if isinstance(value, Enum):
            return type(value).__qualname__, value.name
        if isinstance(value, torch.dtype | torch.device):
            return str(value)
        if isinstance(value, int | float | complex):
            self.may_run = True
            return repr(value)
        if isinstance(value, Mapping | list | tuple | Set):
            return type(value).__name__, len(value), self._entries(value)
        self.may_run = True
        if isinstance(value, Tensor):
            return tuple(value.shape), str(value.dtype), self._serial(value)
        if hasattr(value, "__func__"):  # a bound method is a new object whenever it is asked for
            return self._serial(value.__func__), self._serial(value.__self__)
        return self._serial(value)

    def _entries(self, value: Any) -> Hashable:
        if len(value) > self._left:
            return None
        if isinstance(value, Mapping):
            return frozenset((self.read(key), self.read(entry)) for key, entry in value.items())
        read = [self.read(entry) for entry in value]
        return frozenset(read) if isinstance(value, Set) else tuple(read)
