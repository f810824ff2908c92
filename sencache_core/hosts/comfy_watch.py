"""Counts the passes of a ComfyUI model, whoever asks for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch import nn


class Watch:
    """Stands in for a model's innermost method while a round is open.

    Wrappers split calls, answer them themselves, or ask the model past all wrappers; only what
    happens below the last of them is a pass of the network. This place is never compiled. Guiders
    that ask the network itself come past it, and are seen by a hook there; it is off while the
    method runs, where the network may be traced.

    Args:
        model: ComfyUI's ``BaseModel``.
        passed: called with the model before each pass.
    """

    _METHOD = "_apply_model"

    def __init__(self, model: Any, passed: Callable[[Any], None]) -> None:
        self._model, self._passed = model, passed
        self._before: Any = None
        self._open = False
        self._thread = threading.get_ident()
        self._hook: Any = None
        self._within = 0  # calls of the method under way, of all threads
        self._lock = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._open:
            self._passed(self._model)
        before = self._before or getattr(type(self._model), self._METHOD).__get__(self._model)
        self._shift(1)
        try:
            return before(*args, **kwargs)
        finally:
            self._shift(-1)

    def _shift(self, calls: int) -> None:
        """So many more calls of the method are under way: the hook is on while there are none."""
        with self._lock:
            self._within += calls
            wanted = self._open and not self._within
            if self._hook is not None and not wanted:
                self._hook.remove()
                self._hook = None
            network = getattr(self._model, "diffusion_model", None)
            if self._hook is None and wanted and isinstance(network, nn.Module):
                self._hook = network.register_forward_pre_hook(self._asked)

    def _asked(self, *_: Any) -> None:
        """The network is asked itself; by another thread, this is none of ours."""
        if threading.get_ident() == self._thread:
            self._passed(self._model)

    def __enter__(self) -> Watch:
        self._before = vars(self._model).get(self._METHOD)
        self._open = True
        vars(self._model)[self._METHOD] = self
        self._shift(0)
        return self

    def __exit__(self, *_: Any) -> None:
        self._open = False
        self._shift(0)
        found = vars(self._model).get(self._METHOD)
        # Another thread may have put its own over this one: then that one takes both away.
        while isinstance(found, Watch) and not found._open:
            found = found._before
        if found is None:
            vars(self._model).pop(self._METHOD, None)
        else:
            vars(self._model)[self._METHOD] = found
