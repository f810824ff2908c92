"""The caches of diffusers and DBCache of cache-dit, unmodified, through their ``enable_cache``.

Where ours can be set as an origin is, a row ``ours as NAME`` has ours with the origin's own knobs,
sought in the same way.
"""

from __future__ import annotations

import ast
import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sencache_core.config import CacheConfig
from sencache_core.forecast.reuse import Hold, TaylorSeer
from sencache_core.policies import PAB, DBCache, FBCache, Guards, MagCache, Planned, SeaCache
from sencache_core.policies.magcache import Table

from .case import Case
from .method import Method, Setting, Sweep, need
from .ours import served

#: Longest run where an origin has no limit of its own.
ANY = 10_000
#: Thresholds to search, from those that skip nothing to those that skip all they may.
THRESHOLDS = tuple(float(f"{value:.3g}") for value in np.geomspace(1e-4, 30, 128))


@contextmanager
def enabled(case: Case, setting: Setting, make: Callable[[Case, Setting], Any]) -> Iterator[None]:
    """The module with one of diffusers' caches, and without any trace of it afterwards."""
    module = case.model.module
    hooked = {name for name, m in module.named_modules() if hasattr(m, "_diffusers_hook")}
    try:
        module.enable_cache(make(case, setting))
        yield
    finally:
        if module.is_cache_enabled:
            module.disable_cache()
        for name, part in module.named_modules():
            registry = getattr(part, "_diffusers_hook", None)
            if registry is None or name in hooked:
                continue
            # A hook of an `enable_cache` that failed half-way is not known to `disable_cache`.
            for hook in list(registry.hooks):
                registry.remove_hook(hook, recurse=False)
            del part._diffusers_hook
            vars(part).pop("forward", None)


def peer(
    name: str,
    make: Callable[[Case, Setting], Any],
    sweeps: Callable[[Case, float], Sequence[Sweep]],
    prepare: Callable[[Case], Any] | None = None,
    own: str = "",
    same: Callable[[Case, Setting], CacheConfig] | None = None,
) -> list[Method]:
    """A cache of diffusers, and ours beside it where that can be set alike.

    Args:
        name, sweeps, prepare: as of :class:`Method`.
        make: gives its configuration.
        own: name of our row of the same method under a budget; empty: there is none.
        same: gives ours with the origin's settings.
    """
    origin = Method(name, sweeps, partial(enabled, make=make), prepare=prepare)
    return paired(origin, own, partial(_attached, make=same) if same else None)


def paired(origin: Method, own: str, attach: Callable | None) -> list[Method]:
    """The origin, which knows its pairs, and ours with its knobs, sought as the origin's are."""
    if attach is None:
        return [replace(origin, origin_of=(own,) if own else ())]
    twin = replace(origin, name=f"ours as {origin.name}", attach=attach, ours=True, prepare=None)
    before = origin.prepare
    if before is not None:  # what it returns is kept under the origin's name
        twin = replace(twin, prepare=lambda case: case.prepare(origin))
    return [replace(origin, origin_of=(twin.name, own) if own else (twin.name,)), twin]


def _attached(case: Case, setting: Setting, make: Callable[[Case, Setting], CacheConfig]) -> Any:
    return served(case, replace(make(case, setting), budget=None, hindsight=False))


def _config(name: str, case: Case, setting: Setting, **more: Any) -> Any:
    """The configuration of one of diffusers' caches."""
    import diffusers

    return getattr(diffusers, f"{name}Config")(**setting, **more)


def _sea(case: Case, setting: Setting) -> Any:
    return _config("SeaCache", case, setting, raw_vision_callback=partial(noisy_clips, case))


def noisy_clips(case: Case, module, args, kwargs) -> list[Tensor]:
    """The latents of a call, each ``[C, F, H, W]``: SeaCache has no adapter but Wan's."""
    x = kwargs["hidden_states"]
    if case.model.family == "ltx":
        shape = [kwargs[name] for name in ("num_frames", "height", "width")]
        x = x.transpose(1, 2).unflatten(2, shape)
    elif case.model.family == "cogvideox":
        x = x.transpose(1, 2)
    return list(x)


def _sea_sweeps(order: int, case: Case, budget: float) -> list[Sweep]:
    # At most 2 in a row is its default and ends at a third of the work; 0 is no limit.
    return [
        Sweep.over("threshold", THRESHOLDS, residual_order=order, max_consecutive_cached=run)
        for run in (2, 4, 0)
    ]


def _same_sea(case: Case, setting: Setting) -> CacheConfig:
    policy = SeaCache(setting["threshold"], line=setting["residual_order"] > 0)
    rule = TaylorSeer(1) if policy.line else Hold()
    return CacheConfig(policy, rule, Guards(1, 1, setting["max_consecutive_cached"] or ANY))


def _taylor(case: Case, setting: Setting) -> Any:
    # The models are float32; half precision would only cost the peer accuracy.
    own = {"use_lite_mode": True, "taylor_factors_dtype": torch.float32}
    return _config("TaylorSeerCache", case, setting, **own)


def _taylor_sweeps(order: int, case: Case, budget: float) -> list[Sweep]:
    intervals = range(1, case.regime.steps)
    return [
        Sweep.over("cache_interval", intervals, max_order=order, disable_cache_before_step=first)
        for first in (3, 1, 6)
    ]


def _same_taylor(case: Case, setting: Setting) -> CacheConfig:
    # The hooks count from one before the end of the warm-up.
    first, interval = setting["disable_cache_before_step"], setting["cache_interval"]
    steps = range(case.regime.steps)
    full = [step < first or (step - first - 1) % interval == 0 for step in steps]
    mask = "".join("C" if one else "." for one in full)
    rule = TaylorSeer(setting["max_order"])
    return CacheConfig(Planned(mask=mask), rule, Guards(1, 0, ANY))


def _mag(case: Case, setting: Setting) -> Any:
    # While it calibrates it takes no ratios.
    own = {} if setting.get("calibrate") else {"mag_ratios": case.prepared["magcache"]}
    return _config("MagCache", case, setting, num_inference_steps=case.regime.steps, **own)


def magnitude_ratios(case: Case) -> list[float]:
    """MagCache's own calibration, mean over clips and guidance branches; it only prints them.

    Raises:
        RuntimeError: it printed none of the right length.
    """
    lists = []
    for shot in case.calibration:
        said = io.StringIO()
        with enabled(case, {"calibrate": True}, _mag), contextlib.redirect_stdout(said):
            case.host.sample([shot])
        lines = said.getvalue().splitlines()
        lists += [ast.literal_eval(line) for line in lines if line.startswith("[1.0")]
    if not lists or {len(ratios) for ratios in lists} != {case.regime.steps}:
        raise RuntimeError("MagCache's calibration printed no ratios")
    return np.mean(lists, axis=0).tolist()


def _mag_sweeps(case: Case, budget: float) -> list[Sweep]:
    # The first is its default; small budgets need longer runs, or a shorter start in full.
    return [
        Sweep.over("threshold", THRESHOLDS, max_skip_steps=run, retention_ratio=start)
        for run, start in ((3, 0.2), (5, 0.1), (case.regime.steps, 0.1))
    ]


@dataclass(frozen=True)
class _Calibrated(MagCache):
    """With ratios that diffusers' own calibration printed."""

    ratios: tuple[float, ...] = ()

    def _table(self, run) -> Table:
        return Table(run.family.name, self.ratios, self.ratios)


def _same_mag(case: Case, setting: Setting) -> CacheConfig:
    ratios, start = tuple(case.prepared["magcache"]), setting["retention_ratio"]
    policy = _Calibrated(setting["threshold"], retention=start, ratios=ratios)
    return CacheConfig(policy, Hold(), Guards(1, 0, setting["max_skip_steps"]))


def _same_first_block(case: Case, setting: Setting) -> CacheConfig:
    return CacheConfig(FBCache(setting["threshold"]), Hold(), Guards(1, 0, ANY))


def _first_block_sweeps(case: Case, budget: float) -> list[Sweep]:
    return [Sweep.over("threshold", THRESHOLDS)]


def _at_timesteps(name: str, case: Case, setting: Setting) -> Any:
    return _config(name, case, setting, current_timestep_callback=lambda: case.host.timestep)


def _broadcast_sweeps(case: Case, budget: float) -> list[Sweep]:
    # Its default range of timesteps, and all of them.
    knob, every = "spatial_attention_block_skip_range", range(1, case.regime.steps)
    spans = ((100, 800), (-1, 1001))
    return [Sweep.over(knob, every, spatial_attention_timestep_skip_range=span) for span in spans]


def _same_broadcast(case: Case, setting: Setting) -> CacheConfig:
    every, span = setting["spatial_attention_block_skip_range"], "timestep_skip_range"
    low, high = (t / 1000 for t in setting[f"spatial_attention_{span}"])
    # diffusers takes LTX-Video's cross-attention for self-attention.
    cross = every if case.model.family == "ltx" else 1
    policy = PAB(1.0, every, cross, 1, max(low, 0.0), min(high, 1.0))
    return CacheConfig(policy, Hold(), Guards(1, 0, ANY))


def _faster_sweeps(case: Case, budget: float) -> list[Sweep]:
    # Its default ranges, and all timesteps; attention at every second step, as its default.
    knob, every = "unconditional_batch_skip_range", range(1, case.regime.steps)
    names = "unconditional_batch_timestep_skip_range", "spatial_attention_timestep_skip_range"
    spans = ((-1, 641), (-1, 681)), ((-1, 1001), (-1, 1001))
    return [Sweep.over(knob, every, **dict(zip(names, span))) for span in spans]


#: cache-dit's ready-made masks, from expensive to cheap.
MASKS = ("slow", "medium", "fast", "ultra")


@contextmanager
def _dbcache(case: Case, setting: Setting) -> Iterator[None]:
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
    fixed |= {"Fn_compute_blocks": 1}
    return [
        Sweep.over("residual_diff_threshold", THRESHOLDS, max_warmup_steps=warmup, **fixed)
        for warmup in (8, 4, 2)
    ]


def _same_dbcache(case: Case, setting: Setting) -> CacheConfig:
    policy = DBCache(setting["residual_diff_threshold"], setting["Fn_compute_blocks"], 0)
    return CacheConfig(policy, Hold(), Guards(setting["max_warmup_steps"], 0, ANY))


def _masks(case: Case, budget: float, **fixed: Any) -> list[Sweep]:
    fixed |= {"Fn_compute_blocks": 1, "max_warmup_steps": 1}
    own = range(case.regime.steps, 1, -1)
    return [Sweep.over("mask", masks, **fixed) for masks in (MASKS, own)]


def _with_orders(sweeps: Callable[..., Sequence[Sweep]], case: Case, budget: float) -> list[Sweep]:
    return [s for order in (1, 2) for s in sweeps(case, budget, taylorseer_order=order)]


_BROADCAST = partial(_at_timesteps, "PyramidAttentionBroadcast")
_FASTER = partial(_at_timesteps, "FasterCache")
_FIRST = partial(_config, "FirstBlockCache")
_SERIES = "ours-rule-taylorseer"

METHODS = (
    *peer("seacache-0", _sea, partial(_sea_sweeps, 0), None, "ours-seacache", _same_sea),
    *peer("seacache-1", _sea, partial(_sea_sweeps, 1), None, "ours-seacache", _same_sea),
    *peer("taylorseer-1", _taylor, partial(_taylor_sweeps, 1), None, _SERIES, _same_taylor),
    *peer("taylorseer-2", _taylor, partial(_taylor_sweeps, 2), None, "", _same_taylor),
    *peer("magcache", _mag, _mag_sweeps, magnitude_ratios, "ours-magcache", _same_mag),
    *peer(
        "first-block-cache", _FIRST, _first_block_sweeps, None, "ours-fbcache", _same_first_block
    ),
    *peer("attention-broadcast", _BROADCAST, _broadcast_sweeps, None, "ours-pab", _same_broadcast),
    *peer("fastercache", _FASTER, _faster_sweeps, own="ours-fastercache"),
    *paired(
        Method("dbcache", _thresholds, _dbcache),
        "ours-dbcache",
        partial(_attached, make=_same_dbcache),
    ),
    Method("dbcache-taylorseer", partial(_with_orders, _thresholds), _dbcache),
    Method("dbcache-mask", _masks, _dbcache),
    Method("dbcache-mask-taylorseer", partial(_with_orders, _masks), _dbcache),
)
