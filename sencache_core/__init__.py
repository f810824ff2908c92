"""SenCache: skip the calls of a video diffusion transformer whose output hardly changes."""

from .config import CacheConfig
from .forecast.moments import Moments
from .forecast.reuse import REUSE_RULES, Fitted, Hold, Linear, Quadratic, ReuseRule, TwoBands
from .measure.calibration import Calibration
from .measure.profile import Profile, ProfileError, ProfileHeader
from .measure.recorder import Recorder
from .model.families import FAMILIES, Family
from .policies import POLICIES, CfgCache, Guards, Interval, Off, Planned, Policy, SenCache
from .run.runner import Runner
from .run.session import Session
from .run.stats import RunReport, StepRecord
from .sampler.schedule import Schedule, flow_sigmas
from .types import Branch
from .words import Message

__version__ = "0.1.0"

__all__ = [
    "FAMILIES",
    "POLICIES",
    "REUSE_RULES",
    "Branch",
    "CacheConfig",
    "Calibration",
    "CfgCache",
    "Family",
    "Fitted",
    "Guards",
    "Hold",
    "Interval",
    "Linear",
    "Message",
    "Moments",
    "Off",
    "Planned",
    "Policy",
    "Profile",
    "ProfileError",
    "ProfileHeader",
    "Quadratic",
    "Recorder",
    "ReuseRule",
    "RunReport",
    "Runner",
    "Schedule",
    "SenCache",
    "Session",
    "StepRecord",
    "TwoBands",
    "flow_sigmas",
]
