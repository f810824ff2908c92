"""The sampling loop of diffusers' pipelines, around any method, and how much of the blocks ran."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from .models import Model, Regime

#: Names under which attention modules hold their query and key projections.
PROJECTIONS = (("to_q", "to_k"), ("q", "k"))


class BlockWork:
    """Counts the arithmetic of the matrix products executed inside transformer blocks.

    Methods replace the ``forward`` of a model, of its blocks or of the attention inside, but a
    linear layer whose work is saved is not called by any of them. So the count stands on the linear
    layers: each adds ``2 x rows x inputs x outputs``, and each attention the two products of its
    queries, keys and values, ``4 x queries x keys x width``. A block that ran in full counts the
    same for every method, half a batch counts half, and a block without its attention its share.

    Args:
        blocks: the blocks, or any modules, to watch.

    Attributes:
        flops: multiplications and additions since the start or the last :meth:`reset`.
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        self.flops = 0
        self._hooks = []
        for module in (m for block in blocks for m in block.modules()):
            if isinstance(module, nn.Linear):
                self._hooks.append(module.register_forward_hook(self._linear))
            for query, key in PROJECTIONS:
                pair = getattr(module, query, None), getattr(module, key, None)
                if all(isinstance(layer, nn.Linear) for layer in pair):
                    self._watch(*pair)

    def reset(self) -> int:
        """Start at 0 again and return what had been counted."""
        flops, self.flops = self.flops, 0
        return flops

    def close(self) -> None:
        """Take all hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _linear(self, layer: nn.Linear, inputs, output) -> None:
        self.flops += 2 * output.numel() * layer.in_features

    def _watch(self, query: nn.Linear, key: nn.Linear) -> None:
        seen = [0]

        def note_queries(_, inputs, output) -> None:
            seen[0] = output.numel()

        def add_attention(_, inputs, output) -> None:
            self.flops += 4 * seen[0] * output.shape[-2]

        self._hooks.append(query.register_forward_hook(note_queries))
        self._hooks.append(key.register_forward_hook(add_attention))


class Host(Protocol):
    """Where a method runs. Its rows are compared with uncached clips of the same host.

    Attributes:
        model, regime: what is sampled, and how.
        work: counts what is executed.
    """

    model: Model
    regime: Regime
    work: BlockWork

    def sample(self, prompt: str, seed: int) -> Tensor:
        """The final latent ``[1, C, F, H, W]``, with whatever is attached at the time."""

    def close(self) -> None:
        """Leave the model as it was found."""


class DiffusersHost:
    """Wan is asked twice a step, conditional first; the others once, as [negative, positive].

    Attributes:
        scheduler: of the regime.
        timestep: the present step's, in the units of the pipelines' ``current_timestep``.
    """

    def __init__(self, model: Model, regime: Regime) -> None:
        self.model, self.regime = model, regime
        self.scheduler = model.scheduler(regime)
        self.timestep = math.inf
        self.work = BlockWork(model.blocks)

    def close(self) -> None:
        self.work.close()

    @torch.no_grad()
    def sample(self, prompt: str, seed: int) -> Tensor:
        spec, scheduler, steps = self.model.spec, self.scheduler, self.regime.steps
        positive, negative = self.model.encode(prompt), self.model.encode(spec.negative)
        x = torch.randn((1, *spec.latent), generator=torch.Generator().manual_seed(seed))
        if spec.prediction == "flow":
            # By number of steps alone, this scheduler shifts its smallest noise level twice.
            scheduler.set_timesteps(sigmas=[1 - k / steps for k in range(steps)])
        else:
            scheduler.set_timesteps(steps)
        ask = self._ask_twice if spec.family == "wan" else self._ask_once
        for k, t in enumerate(scheduler.timesteps):
            self.timestep = float(t)
            where = {
                "step_index": k,
                "sigma": self._sigma(k),
                "num_inference_steps": len(scheduler.timesteps),
            }
            with_prompt, without = ask(x, t, positive, negative, where)
            guided = without + self.regime.guidance * (with_prompt - without)
            x = scheduler.step(guided, t, x, return_dict=False)[0]
        return x

    def _sigma(self, k: int) -> float:
        """Noise level in 0..1; CogVideoX's as of the flow with the same signal-to-noise ratio."""
        if self.model.spec.prediction == "flow":
            return float(self.scheduler.sigmas[k])
        alpha = float(self.scheduler.alphas_cumprod[self.scheduler.timesteps[k]])
        noise, signal = math.sqrt(1 - alpha), math.sqrt(alpha)
        return noise / (noise + signal)

    def _call(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        flow = self.model.spec.prediction == "flow"
        return self.model.call(x, t / 1000 if flow else t, context)

    def _ask_twice(self, x, t, positive, negative, where) -> tuple[Tensor, Tensor]:
        module = self.model.module
        with module.cache_context("cond", **where):
            with_prompt = self._call(x, t, positive)
        with module.cache_context("uncond", **where):
            return with_prompt, self._call(x, t, negative)

    def _ask_once(self, x, t, positive, negative, where) -> tuple[Tensor, Tensor]:
        with self.model.module.cache_context("cond_uncond", **where):
            both = self._call(torch.cat([x, x]), t, torch.stack([negative, positive]))
        without, with_prompt = both.chunk(2)
        return with_prompt, without


#: How to make a host: called with the model and the regime as the model wants it.
HOSTS: dict[str, Callable[[Model, Regime], Host]] = {"diffusers": DiffusersHost}
