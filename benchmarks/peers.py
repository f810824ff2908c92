"""The caches of diffusers, unmodified, through ``enable_cache``."""

from __future__ import annotations

import ast
import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from .case import Case
from .method import Method, Setting, Sweep

#: Thresholds to search, from those that skip nothing to those that skip all they may.
THRESHOLDS = tuple(float(f"{value:.3g}") for value in np.geomspace(1e-4, 30, 128))
#: Upper ends of the window of timesteps in which reuse is allowed: nowhere to everywhere.
WINDOWS = tuple(range(0, 1021, 20))


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
) -> Method:
    """A cache of diffusers; ``make`` gives its configuration."""
    return Method(name, sweeps, partial(enabled, make=make), prepare=prepare)


def _sea(case: Case, setting: Setting) -> Any:
    from diffusers import SeaCacheConfig

    return SeaCacheConfig(**setting, raw_vision_callback=partial(noisy_clips, case))


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


def _taylor(case: Case, setting: Setting) -> Any:
    import torch
    from diffusers import TaylorSeerCacheConfig

    # The models are float32; half precision would only cost the peer accuracy.
    return TaylorSeerCacheConfig(**setting, use_lite_mode=True, taylor_factors_dtype=torch.float32)


def _taylor_sweeps(order: int, case: Case, budget: float) -> list[Sweep]:
    intervals = range(1, case.regime.steps)
    return [
        Sweep.over("cache_interval", intervals, max_order=order, disable_cache_before_step=first)
        for first in (3, 1, 6)
    ]


def _mag(case: Case, setting: Setting) -> Any:
    from diffusers import MagCacheConfig

    ratios = case.prepared["magcache"]
    return MagCacheConfig(**setting, num_inference_steps=case.regime.steps, mag_ratios=ratios)


def magnitude_ratios(case: Case) -> list[float]:
    """MagCache's own calibration, mean over clips and guidance branches; it only prints them.

    Raises:
        RuntimeError: it printed none of the right length.
    """
    from diffusers import MagCacheConfig

    def calibrating(case: Case, setting: Setting) -> Any:
        return MagCacheConfig(calibrate=True, num_inference_steps=case.regime.steps)

    lists = []
    for prompt, seed in case.calibration:
        said = io.StringIO()
        with enabled(case, {}, calibrating), contextlib.redirect_stdout(said):
            case.sample(prompt, seed)
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


def _first_block(case: Case, setting: Setting) -> Any:
    from diffusers import FirstBlockCacheConfig

    return FirstBlockCacheConfig(**setting)


def _faster(case: Case, setting: Setting) -> Any:
    from diffusers import FasterCacheConfig

    window = -1, setting["window"]
    return FasterCacheConfig(
        spatial_attention_block_skip_range=setting["attention"],
        unconditional_batch_skip_range=setting["uncond"],
        spatial_attention_timestep_skip_range=window,
        unconditional_batch_timestep_skip_range=window,
        # As in its example for CogVideoX.
        attention_weight_callback=lambda _: 0.3,
        low_frequency_weight_update_timestep_range=(99, 641),
        high_frequency_weight_update_timestep_range=(-1, 301),
        tensor_format={"wan": "BCFHW", "cogvideox": "BFCHW"}.get(case.model.family, "BSC"),
        current_timestep_callback=lambda: case.host.timestep,
    )


def _faster_sweeps(case: Case, budget: float) -> list[Sweep]:
    # Its default is 2 and 5; the others save more within the same window.
    return [
        Sweep.over("window", WINDOWS, attention=attention, uncond=uncond)
        for attention, uncond in ((2, 5), (3, 10), (case.regime.steps, case.regime.steps))
    ]


def _broadcast(case: Case, setting: Setting) -> Any:
    from diffusers import PyramidAttentionBroadcastConfig

    window = 100, setting["window"]
    return PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=setting["spatial"],
        cross_attention_block_skip_range=setting["cross"],
        spatial_attention_timestep_skip_range=window,
        cross_attention_timestep_skip_range=window,
        current_timestep_callback=lambda: case.host.timestep,
    )


def _broadcast_sweeps(case: Case, budget: float) -> list[Sweep]:
    # The first is the paper's pair of ranges, its window ending at 800.
    every = 2 * case.regime.steps
    return [
        Sweep.over("window", WINDOWS, spatial=spatial, cross=cross)
        for spatial, cross in ((2, 6), (4, 12), (every, every))
    ]


METHODS = (
    peer("seacache-0", _sea, partial(_sea_sweeps, 0)),
    peer("seacache-1", _sea, partial(_sea_sweeps, 1)),
    peer("taylorseer-1", _taylor, partial(_taylor_sweeps, 1)),
    peer("taylorseer-2", _taylor, partial(_taylor_sweeps, 2)),
    peer("magcache", _mag, _mag_sweeps, magnitude_ratios),
    peer("first-block-cache", _first_block, lambda *_: [Sweep.over("threshold", THRESHOLDS)]),
    peer("fastercache", _faster, _faster_sweeps),
    peer("pab", _broadcast, _broadcast_sweeps),
)
