"""One frozen object that says how to cache; what it comes to in a run."""

from .cache_config import AIMS, TAPS, CacheConfig, Outlook
from .choice import DEFAULT_GUARDS

__all__ = ["AIMS", "DEFAULT_GUARDS", "TAPS", "CacheConfig", "Outlook"]
