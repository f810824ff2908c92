"""Taps: the places in a model whose output may be spared, one file a depth."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ..families import Places
from .base import Listener, Tap, Visit
from .blocks import Blocks
from .layers import Layers, SelfAttention
from .look import looking
from .output import Output
from .stack import Stack

#: Every tap by name. A new depth is one file and one line here.
TAPS: dict[str, Tap] = {
    tap.name: tap for tap in (Output(), Stack(), Blocks(), Layers(), SelfAttention())
}


@contextmanager
def tapped(tap: Tap, module: nn.Module, places: Places, visit: Visit) -> Iterator[None]:
    """``module`` with ``tap`` on it, and with what ``visit`` waits to see shown to it first.

    Arguments as for :meth:`Tap.on`.
    """
    with tap.on(module, places, visit), looking(module, places, visit):
        yield


__all__ = ["TAPS", "Listener", "Tap", "Visit", "tapped"]
