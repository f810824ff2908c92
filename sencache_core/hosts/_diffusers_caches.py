"""Other caches on a transformer, found by what they leave on it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType
from typing import Any

from torch import nn

#: Projects whose wrappers around ``forward`` keep nothing of a call for the next one.
_STATELESS = frozenset({"accelerate", "diffusers", "peft", "sencache_core", "torch"})
#: Words in the code of a replaced ``forward`` that keeps outputs (TeaCache's, MagCache's...).
_CACHING = re.compile(r"cache|rel_l1|previous_residual|should_calc", re.IGNORECASE)


def refuse_other_caches(module: nn.Module, own: str) -> None:
    """Two caches on one model would each take the other's forecasts for the model's outputs.

    Args:
        module: a transformer.
        own: name of our own hook.

    Raises:
        ValueError: another cache is on it; names it and says how to take it off.
    """
    found = _other_cache(module, own)
    if found is not None:
        name, way = found
        raise ValueError(
            f"{name} is on this {type(module).__name__} already. Two caches on one model would "
            f"take each other's forecasts for the model's outputs: {way}, or do without SenCache."
        )


def _other_cache(module: nn.Module, own: str) -> tuple[str, str] | None:
    """Name of another cache and the way to take it off, ``None`` if there is none."""
    config = getattr(module, "_cache_config", None)
    if config is not None:
        return type(config).__name__.removesuffix("Config"), "call transformer.disable_cache()"
    for part in module.modules():
        for name, hook in getattr(vars(part).get("_diffusers_hook"), "hooks", {}).items():
            if name != own and hook._is_stateful:
                return type(hook).__name__, "remove that hook"
    for function in _functions(module):
        project = (function.__module__ or "").partition(".")[0]
        code = function.__code__
        words = (project, function.__name__, *code.co_names, *code.co_freevars)
        if project not in _STATELESS and any(map(_CACHING.search, words)):
            if project == "cache_dit":
                return "cache-dit", "call cache_dit.disable_cache(pipe)"
            name = f"{function.__module__}.{function.__qualname__}"
            return f"A forward that caches ({name})", "restore the class's own forward"
    return None


def _functions(module: nn.Module) -> Iterator[FunctionType]:
    """Functions that a call of ``module`` goes through, as far as wrappers show them."""
    hooks = getattr(vars(module).get("_diffusers_hook"), "hooks", {}).values()
    kept = (vars(module).get(name) for name in ("_old_forward", "_original_forward"))
    waiting: list[Any] = [module.forward, *kept, *(hook.fn_ref.original_forward for hook in hooks)]
    seen: set[int] = set()
    while waiting:
        found: Callable | None = waiting.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, functools.partial):
            waiting.append(found.func)
        elif isinstance(found, MethodType):
            waiting.append(found.__func__)
        elif isinstance(found, FunctionType):
            yield found
        waiting.append(getattr(found, "__wrapped__", None))
