"""Caching methods side by side: the same models, prompts, seeds and cost.

``python -m pip install -e ".[bench]"``, then ``sencache bench --json FILE``; see ``README.md``.
"""

from .bench import run_bench
from .method import Method, Setting, Sweep
from .models import REGIMES, Model, Regime, load_checkpoint, load_tiny
from .registry import find_methods

__all__ = [
    "REGIMES",
    "Method",
    "Model",
    "Regime",
    "Setting",
    "Sweep",
    "find_methods",
    "load_checkpoint",
    "load_tiny",
    "run_bench",
]
