"""Counts the passes of a ComfyUI model, whoever asks for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Watch:
    """Stands in for a model's innermost method while a round is open.

    Wrappers split calls, answer them themselves, or ask the model past all wrappers; only what
    happens below the last of them is a pass of the network. This place is never compiled.

    Args:
        model: ComfyUI's ``BaseModel``.
        passed: called with the model before each pass.
    """

    _METHOD = "_apply_model"

    def __init__(self, model: Any, passed: Callable[[Any], None]) -> None:
        self._model, self._passed = model, passed
        self._before: Any = None
        self._open = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._open:
            self._passed(self._model)
        before = self._before or getattr(type(self._model), self._METHOD).__get__(self._model)
        return before(*args, **kwargs)

    def __enter__(self) -> Watch:
        self._before = vars(self._model).get(self._METHOD)
        self._open = True
        vars(self._model)[self._METHOD] = self
        return self

    def __exit__(self, *_: Any) -> None:
        self._open = False
        found = vars(self._model).get(self._METHOD)
        # Another thread may have put its own over this one: then that one takes both away.
        while isinstance(found, Watch) and not found._open:
            found = found._before
        if found is None:
            vars(self._model).pop(self._METHOD, None)
        else:
            vars(self._model)[self._METHOD] = found
