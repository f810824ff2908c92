"""Every method of the bench, by the modules that define them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from .method import Method

#: Modules with a tuple ``METHODS``. One that brings a host of its own adds it to ``host.HOSTS``.
#: What they need beyond diffusers they import when a method is attached, so that a package that is
#: missing becomes the ``error`` of its own rows.
MODULES = ("ours", "oracle", "peers", "cache_dit_peers", "comfy_peers")


def find_methods(names: Sequence[str] | None = None) -> list[Method]:
    """The methods of these names, in the given order; all, in the registry's, without names.

    Raises:
        ValueError: a name is unknown, or two methods share one.
    """
    modules = [importlib.import_module(f".{name}", __package__) for name in MODULES]
    methods = [method for module in modules for method in module.METHODS]
    table = {method.name: method for method in methods}
    if len(table) != len(methods):
        raise ValueError("two methods have one name")
    if unknown := [name for name in names or () if name not in table]:
        raise ValueError(f"unknown methods {', '.join(unknown)}; there are {', '.join(table)}")
    return [table[name] for name in names] if names else methods
