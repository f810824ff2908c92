"""Other caches on a ComfyUI model, found by what they leave there.

Whoever can answer in the network's place can cache: a wrapper, a replaced ``forward``, a patch of a
block. Whether it does cannot be read off its place, and reference images, context parallelism or
attention patches take the same places; so the name decides: of the option, of the wrapper's key, of
the function or class that was put there, of the objects that a function holds.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from .comfy_keys import KEY
from .comfy_run import UnsupportedModel

#: Names of caching methods and packs, in letters and digits only. What holds one is a cache.
_METHODS = {
    "lazycache": "LazyCache",
    "easycache": "EasyCache",
    "teacache": "TeaCache",
    "rell1thresh": "TeaCache",
    "magcache": "MagCache",
    "cachedit": "CacheDiT",
    "wancache": "CacheDiT",
    "ltx2cache": "CacheDiT",
    "lightweightcache": "CacheDiT",
    "fbcache": "First Block Cache",
    "firstblock": "First Block Cache",
    "residualdiffthreshold": "First Block Cache",
    "dbcache": "DBCache",
    "dualblockcache": "DBCache",
    "blockcache": "A block cache",
    "deepcache": "DeepCache",
    "taylorseer": "TaylorSeer",
    "hicache": "HiCache",
    "dicache": "DiCache",
    "adacache": "AdaCache",
    "toca": "ToCa",
    "fastercache": "FasterCache",
    "smoothcache": "SmoothCache",
    "stagecache": "A stage cache",
    "stepcache": "A step cache",
    "sortblock": "SortBlock",
}
#: Method names that are also parts of other words: they must stand alone.
_WHOLE = {"toca"}
#: Words for a cache of no known name...
_CACHE = {"cache", "cached", "caches", "caching", "cacher"}
#: ...and those that tell a store of inputs, or its emptying, from one of outputs.
_STORES = frozenset(
    (
        *("kv", "key", "keys", "value", "values", "ref", "refs", "reference", "references"),
        *("pose", "text", "prompt", "context", "embed", "embeds", "embedding", "image", "audio"),
        *("lora", "weight", "weights", "latent", "latents", "vae", "rope", "freqs", "pe", "mask"),
        *("clear", "empty", "clean", "cleanup", "free", "flush", "reset", "offload", "cuda", "lru"),
    )
)

_NETWORK = "diffusion_model"
#: Single functions of ``model_options`` that stand between guider and network.
_SLOTS = ("model_function_wrapper", "sampler_calc_cond_batch_function")
#: Methods through which a network, or a block of it, is run.
_FORWARDS = ("forward", "_forward", "forward_orig", "forward_gen", "_process_transformer_blocks")
#: Packages whose own functions and classes are no caches, but for those of :data:`_METHODS`.
_TRUSTED = ("torch", "comfy", "comfy_extras", "comfy_api", "builtins", "functools", "numpy")
_PLAIN = (bool, int, float, complex, str, bytes, type(None))

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def refuse_other_caches(
    model: Any, model_options: Mapping[str, Any], wrappers: Mapping[str, Any]
) -> None:
    """Two caches on one model each take the other's forecast for the truth.

    Raises:
        UnsupportedModel: there is another one.
    """
    network = model.model.diffusion_model
    loaded = getattr(model.model, "current_patcher", None)
    if loaded is not None and loaded is not model and _touches_network(loaded):
        # What another clone has put there goes when this one is loaded; round 0 looks again.
        network = nn.Module()
    name = other_cache(model_options, wrappers, model.object_patches, network, KEY)
    if name is None:
        return
    other = name[0].lower() + name[1:] if name.startswith(("The ", "A ")) else name
    ways = f"remove or bypass either {other} or SenCache"
    if cache_on(network):
        ways += (
            ", and restart ComfyUI if its node is gone already (the loaded model still holds it)"
        )
    raise UnsupportedModel(
        f"{name} is already on this model, and two caches take each other's predictions for the "
        f"truth: {ways}."
    )


def other_cache(
    model_options: Mapping[str, Any],
    wrappers: Mapping[str, Mapping[Any, Any]],
    patches: Mapping[str, Any],
    network: nn.Module,
    own: str,
) -> str | None:
    """Name of a cache on the model, ``None`` if none is found.

    Args:
        model_options: of the patcher, or of the guider in a run.
        wrappers: by kind and key, lists of functions.
        patches: the patcher's object patches, by attribute path.
        network: the diffusion model.
        own: key of what is ours.
    """
    options = model_options.get("transformer_options", {})
    return next(
        filter(
            None,
            (
                *_of_wrappers(wrappers, own),
                *(_cache_in(model_options.get(slot)) for slot in _SLOTS),
                *_of_options(options, own),
                *(_method(key) for key in model_options if isinstance(key, str)),
                *(_cache_in(fn) for fn in _patches(options)),
                *(
                    _cache_in(obj)
                    for path, obj in patches.items()
                    if path.startswith("diffusion_model")
                ),
                cache_on(network),
            ),
        ),
        None,
    )


def cache_on(network: nn.Module) -> str | None:
    """Name of a cache that has replaced a method or a block of ``network`` itself."""
    for module in _module_and_blocks(network):
        found = _cache_named(type(module), _identity(type(module)))
        for _, function in _replaced(module):
            found = found or _cache_in(function)
        if found:
            return found
    return None


def replaced_forward(network: nn.Module, patches: Mapping[str, Any]) -> str | None:
    """Name of a function that stands in for the network's own ``forward`` and is of no cache that
    is known: it may be one, or a way to hand reference images on. ``None`` if there is none."""
    found = [function for _, function in _replaced(network)]
    found += [
        obj for path, obj in patches.items() if path in map("diffusion_model.{}".format, _FORWARDS)
    ]
    for function in found:
        if not _trusted(function):
            return _called(function)
    return None


def _touches_network(patcher: Any) -> bool:
    return any(name.startswith("diffusion_model") for name in patcher.object_patches)


def _of_wrappers(wrappers: Mapping[str, Mapping[Any, Any]], own: str) -> Iterator[str | None]:
    for by_key in wrappers.values():
        for key, functions in by_key.items():
            if key == own:
                continue
            if isinstance(key, str):
                yield _cache_named(key, key)
            for function in functions:
                yield _cache_in(function)


def _of_options(options: Mapping[str, Any], own: str) -> Iterator[str | None]:
    for key, value in options.items():
        if key == own or not isinstance(key, str) or value is None or value is False:
            continue
        method = _method(key)
        if method:
            yield method
        elif not (type(value).__module__ or "").startswith("comfy."):
            yield _cache_named(key, key)
            if not isinstance(value, _PLAIN):
                yield _cache_in(value)


def _patches(options: Mapping[str, Any]) -> Iterator[Any]:
    """Functions that run beside blocks or attention, or in their place."""
    for by_place in options.get("patches_replace", {}).values():
        yield from by_place.values()
    for functions in options.get("patches", {}).values():
        yield from functions


def _module_and_blocks(network: nn.Module) -> Iterator[nn.Module]:
    yield network
    for child in network.children():
        if isinstance(child, nn.ModuleList):
            yield child
            yield from child


def _replaced(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Methods of the module that its own class does not have in its source."""
    for name in _FORWARDS:
        if name in vars(module):
            yield name, vars(module)[name]
            continue
        for cls in type(module).__mro__:
            if name in vars(cls):
                function = vars(cls)[name]
                if getattr(function, "__module__", None) not in (cls.__module__, None):
                    yield name, function
                break


def _cache_in(thing: Any) -> str | None:
    """Name of the cache that a function, an object with a method, or a class belongs to."""
    if thing is None:
        return None
    held = []
    for part in _parts(thing):
        if found := _cache_named(part, _identity(part)):
            return found
        for cell in getattr(part, "__closure__", None) or ():
            try:
                held.append(cell.cell_contents)
            except ValueError:  # not yet bound
                continue
    for obj in held:
        for part in () if isinstance(obj, (*_PLAIN, list, tuple, dict, type)) else _parts(obj):
            if not _trusted(part) and (found := _method(_identity(part))):
                return found
    return None


def _parts(thing: Any) -> Iterator[Any]:
    """What a thing is made of that has a name: functions, and the classes of objects."""
    if isinstance(thing, functools.partial):
        yield from _parts(thing.func)
    elif hasattr(thing, "__func__"):
        yield thing.__func__
        if not isinstance(thing.__self__, nn.Module):
            yield type(thing.__self__)
    elif hasattr(thing, "__qualname__"):
        yield thing
    else:
        yield type(thing)
    if (wrapped := getattr(thing, "__wrapped__", None)) is not None and callable(wrapped):
        yield from _parts(wrapped)


def _trusted(thing: Any) -> bool:
    module = getattr(thing, "__module__", None) or type(thing).__module__ or ""
    return module.split(".")[0] in _TRUSTED


def _identity(thing: Any) -> str:
    """Qualified name within the pack: the pack's own name and folder say nothing of a function."""
    _, _, inside = _pack_and_file(thing).partition(".")
    return f"{inside} {getattr(thing, '__qualname__', '')}"


def _called(thing: Any) -> str:
    """How to call a thing to the user: name and pack."""
    part = next(_parts(thing))
    pack = _pack_and_file(part).partition(".")[0]
    name = getattr(part, "__qualname__", str(part)).replace(".<locals>", "")
    return f"{name} of {pack}" if pack else name


def _pack_and_file(thing: Any) -> str:
    """``pack.file...`` of ComfyUI's name for a custom node's module, which begins with a path."""
    module = getattr(thing, "__module__", None) or ""
    inside = re.split(r"custom_nodes[/\\.]", module)[-1]
    return re.split(r"[/\\]", inside)[-1]


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _method(text: str) -> str | None:
    """Name of the caching method that one of a text's words names."""
    for word in re.split(r"[.\s<>]+", text):
        joined = _letters(word)
        for part, name in _METHODS.items():
            if joined == part if part in _WHOLE else part in joined:
                return name
    return None


def _cache_named(thing: Any, text: str) -> str | None:
    """As :func:`_method`, and what calls itself a cache without being a store of inputs."""
    if method := _method(text):
        return method
    if not isinstance(thing, str) and _trusted(thing):
        return None
    for word in re.split(r"[.\s<>]+", text):
        tokens = {token.lower() for token in _WORDS.findall(word)}
        if tokens & _CACHE and not tokens & _STORES:
            return (
                f"The cache {thing!r}" if isinstance(thing, str) else f"The cache {_called(thing)}"
            )
    return None
