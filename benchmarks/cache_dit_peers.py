"""DBCache of the package cache-dit, unmodified, through ``cache_dit.enable_cache``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from .case import Case
from .method import Method, Setting, Sweep, need
from .peers import THRESHOLDS

#: Its ready-made masks, from expensive to cheap.
MASKS = ("slow", "medium", "fast", "ultra")


@contextmanager
def enabled(case: Case, setting: Setting) -> Iterator[None]:
    """The module with DBCache; afterwards without.

    Raises:
        ImportError: cache-dit is not installed.
    """
    need("cache_dit")
    import cache_dit

    for name in [name for name in logging.root.manager.loggerDict if "cache_dit" in name]:
        logging.getLogger(name).setLevel(logging.ERROR)
    module, settings = case.model.module, dict(setting)
    order, mask = settings.pop("taylorseer_order", None), settings.pop("mask", None)
    calibrator = None
    if order is not None:
        calibrator = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=order)
    if mask is not None:
        settings["steps_computation_mask"] = step_mask(case.regime.steps, mask)
        settings["steps_computation_policy"] = "static"
    config = cache_dit.DBCacheConfig(
        **settings,
        Bn_compute_blocks=0,
        num_inference_steps=case.regime.steps,
        enable_separate_cfg=case.model.family == "wan",
    )
    try:
        cache_dit.enable_cache(module, cache_config=config, calibrator_config=calibrator)
        yield
    finally:
        cache_dit.disable_cache(module)


def step_mask(steps: int, mask: str | int) -> list[int]:
    """cache-dit's mask of computed (1) and cached (0) steps.

    Args:
        steps: sampling steps.
        mask: one of its ready-made ones, or how many steps to compute: a quarter of them in a
            row at the start, the others spread evenly, the last step among them.
    """
    import cache_dit

    if isinstance(mask, str):
        return cache_dit.steps_mask(total_steps=steps, mask_policy=mask)
    first = max(1, mask // 4)
    single, cached = mask - first, steps - mask
    gaps = [(k + 1) * cached // single - k * cached // single for k in range(single)]
    return cache_dit.steps_mask(
        compute_bins=[first, *[1] * single], cache_bins=gaps, total_steps=steps
    )


def _thresholds(case: Case, budget: float, **fixed: Any) -> list[Sweep]:
    # Its default warm-up of 8 steps spends more than small budgets have.
    return [
        Sweep.over(
            "residual_diff_threshold",
            THRESHOLDS,
            Fn_compute_blocks=1,
            max_warmup_steps=warmup,
            **fixed,
        )
        for warmup in (8, 4, 2)
    ]


def _masks(case: Case, budget: float, **fixed: Any) -> list[Sweep]:
    own = range(case.regime.steps, 1, -1)
    return [
        Sweep.over("mask", masks, Fn_compute_blocks=1, max_warmup_steps=1, **fixed)
        for masks in (MASKS, own)
    ]


def _with_orders(sweeps: Callable[..., Sequence[Sweep]], case: Case, budget: float) -> list[Sweep]:
    return [s for order in (1, 2) for s in sweeps(case, budget, taylorseer_order=order)]


METHODS = (
    Method("dbcache", _thresholds, enabled),
    Method("dbcache-taylorseer", partial(_with_orders, _thresholds), enabled),
    Method("dbcache-mask", _masks, enabled),
    Method("dbcache-mask-taylorseer", partial(_with_orders, _masks), enabled),
)
