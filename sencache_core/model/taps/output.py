"""The output tap: the model's whole output, which the host itself answers and watches."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

from torch import nn

from ..families import Places
from .base import Tap, Visit


class Output(Tap):
    """Latent-sized payloads; the model is not entered where one is skipped."""

    name: ClassVar[str] = "output"
    title: ClassVar[str] = "Model output"
    inside: ClassVar[bool] = False

    def on(self, module: nn.Module, places: Places, visit: Visit) -> AbstractContextManager[None]:
        return nullcontext()
