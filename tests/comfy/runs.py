"""Sampling in ComfyUI, counted by a hook on the network. Import after the fixture ``comfyui``."""

from __future__ import annotations

import functools
import importlib
import inspect
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import models
import torch
from models import Case
from torch import Tensor

from sencache_core import CacheConfig, Guards, Hold, Interval

#: Computes one round, replays the next from memory: on paired sigmas every replay has a truth.
REPLAY = CacheConfig(
    policy=Interval(interval=2.0),
    rule=Hold(),
    guards=Guards(cooldown=0),
    budget=None,
    min_steps=1,
)


def paired(model: Any, steps: int) -> Tensor:
    """Falling sigmas, each twice: an Euler step between equal ones leaves the latent alone."""
    sigmas = comfy.samplers.calculate_sigmas(
        model.get_model_object("model_sampling"), "simple", steps
    )
    return torch.cat((sigmas[:-1].repeat_interleave(2), sigmas[-1:]))


def flat(samples: Any) -> Tensor:
    """Samples as one tensor ``[n]``."""
    parts = samples.unbind() if getattr(samples, "is_nested", False) else [samples]
    return torch.cat([p.float().flatten() for p in parts])


def error(a: Any, b: Any) -> float:
    """Relative RMS difference of two samples."""
    a, b = flat(a), flat(b)
    assert a.isfinite().all() and b.isfinite().all()
    return ((a - b).square().mean().sqrt() / b.square().mean().sqrt()).item()


def same(a: Any, b: Any) -> bool:
    return torch.equal(flat(a), flat(b))


def seeded(latent: Any, seed: int = 7) -> Any:
    return comfy.sample.prepare_noise(latent, seed)


def guider(model: Any, case: Case, cfg: float = 4.0) -> Any:
    out = comfy.samplers.CFGGuider(model)
    out.set_conds(case.positive, case.negative)
    out.set_cfg(cfg)
    return out


def sample(
    model: Any,
    case: Case,
    sampler: Any = "euler",
    steps: int = 6,
    cfg: float = 4.0,
    sigmas: Tensor | None = None,
    guide: Any = None,
    mask: Tensor | None = None,
    callback: Any = None,
    seed: int = 7,
    noise: Any = None,
) -> Any:
    """Sample ``case`` from ``model``, a patcher derived from ``case.model``; ``noise`` is added."""
    guide = guide or guider(model, case, cfg)
    if isinstance(sampler, str):
        if sigmas is None:
            sigmas = sigmas_of(model, sampler, steps)
        sampler = comfy.samplers.sampler_object(sampler)
    # As ComfyUI's executor: nothing is sampled outside of inference mode.
    with torch.inference_mode():
        return guide.sample(
            seeded(case.latent, seed) if noise is None else noise,
            case.latent,
            sampler,
            sigmas,
            denoise_mask=mask,
            callback=callback,
            disable_pbar=True,
            seed=seed,
        )


@functools.cache
def truth(name: str, steps: int = 2) -> tuple[Tensor, Any]:
    """Paired sigmas for ``models.load(name)``, and what it gives on them by itself."""
    case = models.load(name)
    sigmas = paired(case.model, steps)
    return sigmas, sample(case.model, case, sigmas=sigmas)


def sigmas_of(model: Any, sampler: str, steps: int) -> Tensor:
    """The list that a KSampler node would hand to ``sampler``."""
    return comfy.samplers.KSampler(
        model, steps, torch.device("cpu"), sampler, "simple", 1.0, model.model_options
    ).sigmas


def windowed(model: Any, schedule: str, length: int = 4, overlap: int = 2, **more: Any) -> Any:
    """``model`` behind the stock context windows node, over frames (dimension 2).

    Options that this ComfyUI does not know are left out.
    """
    node = importlib.import_module("comfy_extras.nodes_context_windows").ContextWindowsManualNode
    options = {"context_schedule": schedule, "context_stride": 1, "closed_loop": False}
    options |= {"context_length": length, "context_overlap": overlap, "fuse_method": "pyramid"}
    options |= {"dim": 2, "freenoise": False, **more}
    known = inspect.signature(node.execute).parameters
    return node.execute(model, **{k: v for k, v in options.items() if k in known}).result[0]


@contextmanager
def counted(model: Any):
    """Number of forward passes of the network, as ``count[0]``."""
    count = [0]

    def hook(*_: Any) -> None:
        count[0] += 1

    handle = model.model.diffusion_model.register_forward_hook(hook)
    try:
        yield count
    finally:
        handle.remove()


class Reports(list):
    """Collects the reports of runs: hand it to ``attach`` as ``publish``."""

    def __call__(self, report: Any) -> None:
        self.append(report)

    @property
    def last(self) -> Any:
        return self[-1]
