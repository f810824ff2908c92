"""One sampling run in ComfyUI: what lives from OUTER_SAMPLE's start to its end."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ..model.families import GENERIC, Family, family_of
from ..model.taps import StackCall, stack_tap
from ..run.runner import Runner
from ..types import Branch
from .comfy_keys import CALL, Keys

#: Below this noise level dividing by sigma would amplify rounding: the output is not recorded.
_SMALLEST_SIGMA = 1e-3


@dataclass
class Run:
    """Run state. Lies in ``transformer_options``, where every wrapper of the run finds it.

    Attributes:
        runner: caches or measures.
        tap: ``"output"`` or ``"stack"``.
        shapes: latent shape of each modality.
        keys: names the chunks.
        open: inside an evaluation round; model calls elsewhere are none of ours.
        cond_only: the round at hand runs the conditional branches alone.
    """

    runner: Runner
    tap: str
    shapes: Sequence[Sequence[int]]
    keys: Keys = field(default_factory=Keys)
    open: bool = False
    cond_only: bool = False
    # Multi-GPU setups call the model from several threads at once.
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, guider: Any, x: Tensor, sigma: Tensor) -> None:
        if torch.is_grad_enabled() or getattr(comfy.model_management, "in_training", False):
            self.runner.report.say("Not cached: evaluations that compute gradients.")
            return
        self.open = True
        self.keys.begin(guider)
        self.cond_only = self.runner.begin(self._modalities(x), sigma).cond_only

    def _modalities(self, x: Tensor) -> Sequence[Tensor]:
        """Video and audio of a packed LTX-2 latent ``[B, 1, N]``; any other latent as it is."""
        sizes = [torch.Size(shape[1:]).numel() for shape in self.shapes]
        if len(sizes) == 1 or sum(sizes) != x.shape[-1]:
            return (x,)
        return x.split(sizes, dim=-1)

    def branches(self, *args: Any) -> list[Branch]:
        with self.lock:
            return self.keys.branches(*args)

    def serve_output(self, base_model, model, x, t, options, branches) -> Tensor:
        """Answer one call from the output tap: the raw output (v), never the denoised latent."""
        sampling = base_model.model_sampling
        with self.lock:
            v = self.runner.predict(branches, x.shape)
        if v is not None:
            return sampling.calculate_denoised(t, v.to(x), x)
        denoised = model(t)

        def evaluate_at(sigma: float) -> Tensor:
            other = torch.full_like(t, sigma)
            own = torch.full_like(options["sigmas"], sigma)
            return _raw(sampling, other, x, model(other, {"sigmas": own}))

        sigma = self.runner.report.steps[-1].sigma
        v = _raw(sampling, t, x, denoised) if sigma >= _SMALLEST_SIGMA else None
        with self.lock:
            handed = self.runner.observe(branches, v, evaluate_at)
        return denoised if handed is None else sampling.calculate_denoised(t, handed.to(x), x)

    def serve_stack(self, base_model, model, x, t, options, branches) -> Tensor:
        """Run the model; inside it, the block stack's residual is predicted or observed."""

        def predict(shape: torch.Size) -> Tensor | None:
            with self.lock:
                return self.runner.predict(branches, shape)

        family = model_family(base_model) or GENERIC
        call = StackCall(family, predict)
        denoised = model(t, {CALL: call})
        if call.reused:
            return denoised

        def evaluate_at(sigma: float) -> Tensor:
            probe = StackCall(family, lambda shape: None)
            own = torch.full_like(options["sigmas"], sigma)
            model(torch.full_like(t, sigma), {CALL: probe, "sigmas": own})
            return probe.payload

        if call.payload is None:
            self.runner.report.say(
                "The stack tap finds no block stack in some calls: these are always computed. "
                "Choose the output tap."
            )
        with self.lock:
            self.runner.observe(branches, call.payload, evaluate_at)
        return denoised


def model_family(base_model: Any) -> Family | None:
    """Row of ComfyUI's model, ``None`` if it is of no known family."""
    return family_of(base_model, lambda row: row.comfy_classes)


def diffusion_model(executor, *args, **kwargs):
    """Tap the block stack of the module that is being called; present for the stack tap only."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, dict) and isinstance(value.get(CALL), StackCall):
            with stack_tap(executor.class_obj, value[CALL]):
                return executor(*args, **kwargs)
    return executor(*args, **kwargs)


def _raw(sampling: Any, sigma: Tensor, x: Tensor, denoised: Tensor) -> Tensor:
    """The model's own output from the denoised latent, which is an affine function of it.

    Works for every prediction type and stays outside the compiled region.
    """
    thin = torch.zeros([x.shape[0]] + [1] * (x.ndim - 1), dtype=x.dtype, device=x.device)
    offset = sampling.calculate_denoised(sigma, thin, x)
    slope = sampling.calculate_denoised(sigma, thin + 1, thin)
    slope = slope - sampling.calculate_denoised(sigma, thin, thin)
    return (denoised - offset) / slope
