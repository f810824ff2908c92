"""What a caching method has to say to be compared, and every method of the bench."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .case import Case

#: One choice of a method's own knobs, by their own names.
Setting = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """Settings from expensive to cheap, among which a budget is sought by bisection.

    Attributes:
        settings: at least one.
    """

    settings: Sequence[Setting]

    @classmethod
    def over(cls, knob: str, values: Iterable[Any], **fixed: Any) -> Sweep:
        """One knob varied, the others fixed."""
        return cls([{**fixed, knob: value} for value in values])


@dataclass(frozen=True)
class Method:
    """A caching method.

    Attributes:
        name: the rows' ``method``.
        sweeps: given the case and the budget (share of the uncached work), the sweeps to try. Of
            those that meet the budget, the one nearest to the uncached calibration clips is taken.
            A method that meets budgets by itself returns one sweep of one setting.
        attach: given the case and a setting, a context in which the case's host samples with the
            method. It is entered anew for every clip, so that no state passes from clip to clip.
        host: key of ``host.HOSTS``.
        prepare: called once per case before anything else; what it returns is ``case.prepared``
            under the method's name. For calibration, on ``case.calibration`` only.
        title: what tables call it; empty: its name.
        ours: whether it is this repository's; all others are its peers.
        batched: whether it decides nothing from what it sees, so that clips may share calls.
        at_full: whether it differs from the uncached run when nothing is skipped.
        origin_of: of a peer: names of our rows that are the same method.
    """

    name: str
    sweeps: Callable[[Case, float], Sequence[Sweep]]
    attach: Callable[[Case, Setting], AbstractContextManager]
    host: str = "diffusers"
    prepare: Callable[[Case], Any] | None = None
    title: str = ""
    ours: bool = False
    batched: bool = False
    at_full: bool = False
    origin_of: Sequence[str] = ()


def describe(setting: Setting) -> str:
    """A setting in one line."""
    return ", ".join(
        f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in setting.items()
    )


#: Modules with a tuple ``METHODS``. One that brings a host of its own adds it to ``host.HOSTS``.
#: What they need beyond diffusers they import when a method is attached, so that a package that is
#: missing becomes the ``error`` of its own rows.
MODULES = ("ours", "solvers", "peers", "comfy_peers")


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


def need(*packages: str) -> None:
    """Make sure that packages of the extra ``bench`` are there, before hours are spent.

    Raises:
        ImportError: one is not installed.
    """
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise ImportError(
                f"the bench needs {name}: in the source tree, pip install -e '.[bench]'"
            )
