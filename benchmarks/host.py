"""The sampling loop of diffusers' pipelines, around any method, and how much of the blocks ran."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .models import Model, Regime

#: A prompt and a seed.
Shot = tuple[str, int]

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
        name: key in :data:`HOSTS`.
        model, regime: what is sampled, and how.
        work: counts what is executed.
    """

    name: str
    model: Model
    regime: Regime
    work: BlockWork

    def sample(self, shots: Sequence[Shot]) -> Tensor:
        """The final latents ``[B, C, F, H, W]``, with whatever is attached at the time."""

    def close(self) -> None:
        """Leave the model as it was found."""


class DiffusersHost:
    """Wan is asked twice a step, conditional first; the others once, as [negative, positive].

    Attributes:
        scheduler: of the regime; another one while :meth:`stepping`.
        timestep: that is being sampled, as pipelines hold it.
    """

    name = "diffusers"
    timestep = 0.0

    def __init__(self, model: Model, regime: Regime) -> None:
        self.model, self.regime = model, regime
        self._own = self.scheduler = model.scheduler(regime)
        self._steps = regime.steps
        self.work = BlockWork(model.blocks)

    def close(self) -> None:
        self.work.close()

    @contextmanager
    def stepping(self, scheduler: Any, steps: int) -> Iterator[None]:
        """Sample with another scheduler, or other steps, for a while; flows on the same levels."""
        before = self.scheduler, self._steps
        self.scheduler, self._steps = scheduler, steps
        try:
            yield
        finally:
            self.scheduler, self._steps = before

    @torch.no_grad()
    def sample(self, shots: Sequence[Shot]) -> Tensor:
        scheduler, (x, positive, negative) = self.scheduler, self.start(shots)
        self._set_steps()
        for k, t in enumerate(scheduler.timesteps):
            self.timestep = float(t)
            where = {
                "step_index": k,
                "sigma": self._sigma(k),
                "num_inference_steps": len(scheduler.timesteps),
            }
            guided = self.guided(x, self._time(k), positive, negative, **where)
            x = scheduler.step(guided, t, x, return_dict=False)[0]
        return x

    @property
    def sigmas(self) -> list[float]:
        """Noise levels of a run, in 0..1, and the 0 at its end."""
        self._set_steps()
        return [*map(self._sigma, range(self._steps)), 0.0]

    def _set_steps(self) -> None:
        steps, own = self._steps, self._own
        if self.model.spec.prediction == "v":
            self.scheduler.set_timesteps(steps)
            return
        # By number of steps alone, this scheduler shifts its smallest noise level twice.
        own.set_timesteps(sigmas=[1 - k / steps for k in range(steps)])
        if self.scheduler is not own:
            self.scheduler.set_timesteps(steps)
            # Logarithms of the signal are taken: there must be some.
            self.scheduler.sigmas = own.sigmas.clamp(max=1 - 1e-6)
            self.scheduler.timesteps = own.timesteps
            self.scheduler.set_begin_index(0)

    def start(self, shots: Sequence[Shot]) -> tuple[Tensor, Tensor, Tensor]:
        """Noise ``[B, C, F, H, W]``, text with and without the prompts ``[B, tokens, width]``."""
        size = self.model.spec.latent
        noise = [torch.randn(size, generator=torch.Generator().manual_seed(s)) for _, s in shots]
        texts = torch.stack([self.model.encode(prompt) for prompt, _ in shots])
        without = self.model.encode(self.model.spec.negative).expand_as(texts)
        return torch.stack(noise), texts, without

    def guided(
        self, x: Tensor, t: float | Tensor, positive: Tensor, negative: Tensor, **where
    ) -> Tensor:
        """The network's guided output.

        Args:
            x: latents ``[B, C, F, H, W]``.
            t: as ``tiny.forward`` takes it.
            positive, negative: text ``[B, tokens, width]``.
            where: of the step, for caches that ask their context.
        """
        ask = self._ask_twice if self.model.family == "wan" else self._ask_once
        with_prompt, without = ask(x, t, positive, negative, where)
        return without + self.regime.guidance * (with_prompt - without)

    def _time(self, k: int) -> float | Tensor:
        """What the network is told at step ``k``, as ``tiny.forward`` takes it."""
        flow = self.model.spec.prediction == "flow"
        return float(self.scheduler.sigmas[k]) if flow else self.scheduler.timesteps[k]

    def _sigma(self, k: int) -> float:
        """Noise level in 0..1; CogVideoX's as of the flow with the same signal-to-noise ratio."""
        if self.model.spec.prediction == "flow":
            return float(self.scheduler.sigmas[k])
        alpha = float(self.scheduler.alphas_cumprod[self.scheduler.timesteps[k]])
        noise, signal = math.sqrt(1 - alpha), math.sqrt(alpha)
        return noise / (noise + signal)

    def _ask_twice(self, x, t, positive, negative, where) -> tuple[Tensor, Tensor]:
        model = self.model
        with model.module.cache_context("cond", **where):
            with_prompt = model.call(x, t, positive)
        with model.module.cache_context("uncond", **where):
            return with_prompt, model.call(x, t, negative)

    def _ask_once(self, x, t, positive, negative, where) -> tuple[Tensor, Tensor]:
        with self.model.module.cache_context("cond_uncond", **where):
            both = self.model.call(torch.cat([x, x]), t, torch.cat([negative, positive]))
        without, with_prompt = both.chunk(2)
        return with_prompt, without


#: How to make a host: called with the model and the regime as the model wants it.
HOSTS: dict[str, Callable[[Model, Regime], Host]] = {"diffusers": DiffusersHost}
