"""Caching methods side by side: the same models, prompts, seeds and cost.

``python -m pip install -e ".[bench]"``, then ``sencache bench --json FILE``; see ``README.md``.
"""

from .bench import Plan, run_bench
from .checkpoint import load_checkpoint
from .method import Method, Setting, Sweep, find_methods
from .models import REGIMES, Model, Regime, load_tiny

__all__ = [
    "REGIMES",
    "Method",
    "Model",
    "Plan",
    "Regime",
    "Setting",
    "Sweep",
    "find_methods",
    "load_checkpoint",
    "load_tiny",
    "run_bench",
]
