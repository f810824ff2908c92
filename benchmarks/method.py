"""What a caching method has to say to be compared."""

from __future__ import annotations

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
    """Settings from dear to cheap, among which a budget is sought by bisection.

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
    """

    name: str
    sweeps: Callable[[Case, float], Sequence[Sweep]]
    attach: Callable[[Case, Setting], AbstractContextManager]
    host: str = "diffusers"
    prepare: Callable[[Case], Any] | None = None


def describe(setting: Setting) -> str:
    """A setting in one line."""
    return ", ".join(
        f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in setting.items()
    )
