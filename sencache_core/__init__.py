"""SenCache: skip the calls of a video diffusion transformer whose output hardly changes."""

from .calibration import Calibration
from .config import CacheConfig
from .families import FAMILIES, Family
from .moments import Moments
from .policies import POLICIES, CfgCache, Guards, Interval, Off, Planned, Policy, SenCache
from .profile import Profile, ProfileError, ProfileHeader
from .recorder import Recorder
from .reuse import REUSE_RULES, Fitted, Hold, Linear, Quadratic, ReuseRule, TwoBands
from .runner import Runner
from .schedule import Schedule, flow_sigmas
from .session import Session
from .stats import RunReport, StepRecord
from .types import Branch

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
