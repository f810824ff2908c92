"""Policies: when to skip. A new policy is one file and one line here."""

from .bag import Bag
from .base import Guards, Policy, Preset, Prior, RunInfo, Slopes
from .block_caching import BlockCaching
from .cfg_cache import CfgCache
from .dbcache import DBCache
from .deepcache import DeepCache
from .delta_dit import DeltaDiT
from .dicache import DiCache
from .easycache import EasyCache
from .eoc import Eoc
from .fastercache import FasterCache
from .fbcache import FBCache
from .goc import Goc
from .guarded import Guarded
from .interval import Interval
from .learning_to_cache import LearningToCache
from .magcache import MagCache
from .middle_blocks import MiddleBlocks
from .off import Off
from .pab import PAB
from .planned import Planned
from .profilingdit import ProfilingDiT
from .ra_cfgcache import RACFGCache
from .seacache import SeaCache
from .sencache import SenCache
from .smoothcache import SmoothCache
from .tafc import Tafc
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
        Tafc,
        RACFGCache,
        Bag,
        CfgCache,
        MiddleBlocks,
        ProfilingDiT,
        FasterCache,
        FBCache,
        DBCache,
        DiCache,
        DeltaDiT,
        DeepCache,
        SmoothCache,
        BlockCaching,
        LearningToCache,
        Goc,
        Eoc,
        PAB,
        Off,
    )
}

__all__ = [
    "PAB",
    "POLICIES",
    "Bag",
    "BlockCaching",
    "Budgeted",
    "CfgCache",
    "DBCache",
    "DeepCache",
    "DeltaDiT",
    "DiCache",
    "EasyCache",
    "Eoc",
    "FBCache",
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
    "RACFGCache",
    "RunInfo",
    "SeaCache",
    "SenCache",
    "Slopes",
    "SmoothCache",
    "Tafc",
    "TeaCache",
    "Threshold",
]
