"""Policies: when to skip. A new policy is one file and one line here."""

from .base import Guards, Policy, Prior, RunInfo, Slopes
from .guarded import Guarded
from .interval import Interval
from .off import Off
from .sencache import SenCache
from .threshold import Budgeted, Threshold, fit_guards

#: Policies that people can pick, by name. Every one of them joins the contract tests.
POLICIES: dict[str, type[Policy]] = {policy.name: policy for policy in (SenCache, Interval, Off)}

__all__ = [
    "POLICIES",
    "Budgeted",
    "Guarded",
    "Guards",
    "Interval",
    "Off",
    "Policy",
    "Prior",
    "RunInfo",
    "SenCache",
    "Slopes",
    "Threshold",
    "fit_guards",
]
