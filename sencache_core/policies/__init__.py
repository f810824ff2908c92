"""Policies: when to skip. A new policy is one file and one line here."""

from .base import Guards, Policy, Preset, Prior, RunInfo, Slopes
from .block_caching import BlockCaching
from .cfg_cache import CfgCache
from .easycache import EasyCache
from .eoc import Eoc
from .fastercache import FasterCache
from .goc import Goc
from .guarded import Guarded
from .interval import Interval
from .learning_to_cache import LearningToCache
from .magcache import MagCache
from .middle_blocks import MiddleBlocks
from .off import Off
from .planned import Planned
from .profilingdit import ProfilingDiT
from .seacache import SeaCache
from .sencache import SenCache
from .smoothcache import SmoothCache
from .teacache import TeaCache
from .threshold import Budgeted, Threshold

#: Policies that people can pick, by name. Every one of them joins the contract tests.
POLICIES: dict[str, type[Policy]] = {
    policy.name: policy
    for policy in (
        Planned,
        SenCache,
        Interval,
        TeaCache,
        EasyCache,
        MagCache,
        SeaCache,
        CfgCache,
        MiddleBlocks,
        ProfilingDiT,
        FasterCache,
        SmoothCache,
        BlockCaching,
        LearningToCache,
        Goc,
        Eoc,
        Off,
    )
}

__all__ = [
    "POLICIES",
    "BlockCaching",
    "Budgeted",
    "CfgCache",
    "EasyCache",
    "Eoc",
    "FasterCache",
    "Goc",
    "Guarded",
    "Guards",
    "Interval",
    "LearningToCache",
    "MagCache",
    "MiddleBlocks",
    "Off",
    "Planned",
    "Policy",
    "Preset",
    "Prior",
    "ProfilingDiT",
    "RunInfo",
    "SeaCache",
    "SenCache",
    "Slopes",
    "SmoothCache",
    "TeaCache",
    "Threshold",
]
