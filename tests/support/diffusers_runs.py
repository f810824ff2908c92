"""Small diffusers transformers, a guided sampling loop over one, and the driver of its contract."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from functools import cache

import pytest
import torch
from host_contract import STEPS, Driver, Interrupted, Job, Result

from sencache_core import CacheConfig
from sencache_core.tiny import COG_SCHEDULER, SPECS, forward

diffusers = pytest.importorskip("diffusers")
host = pytest.importorskip("sencache_core.hosts.diffusers")

TEXT = 32
GUIDANCE = 3.0
NARROW = {
    "wan": {"num_layers": 2, "text_dim": TEXT},
    "ltx": {"num_layers": 1, "caption_channels": TEXT},
    "cogvideox": {"num_layers": 1, "text_embed_dim": TEXT},
}


@cache
def network(family: str, **changes):
    """A small, randomly initialised transformer of a real class, without gradients."""
    config = {**SPECS[family].config, **NARROW[family], **changes}
    torch.manual_seed(0)
    module = getattr(diffusers, SPECS[family].diffusers_class)(**config)
    return module.eval().requires_grad_(False)


def scheduler_of(family: str):
    if family == "cogvideox":
        return diffusers.CogVideoXDDIMScheduler(**COG_SCHEDULER)
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0)


def noise(family: str, seed: int = 0, large: bool = False) -> torch.Tensor:
    shape = (1, SPECS[family].latent[0], 2, 4, 8 if large else 4)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def text(prompt: int) -> torch.Tensor:
    return 4 * torch.randn(1, 8, TEXT, generator=torch.Generator().manual_seed(100 + prompt))


def blocks_of(module):
    return module.blocks if hasattr(module, "blocks") else module.transformer_blocks


def first_block(module):
    """A hook on the module itself fires on reused calls too; its blocks run only when it does."""
    return blocks_of(module)[0]


def rel(a: torch.Tensor, b: torch.Tensor) -> float:
    """RMS of the difference, relative to ``b``."""
    return float((a - b).square().mean().sqrt() / b.square().mean().sqrt())


class Sampler:
    """A plain guided sampling loop over one network, as a pipeline's ``__call__`` has it.

    Args:
        family: key in ``SPECS``.
        names: cache contexts of the calls; ``None`` names nothing.
    """

    branches = ("cond", "uncond")  # in the order of their calls

    def __init__(self, family: str, names: tuple[str, ...] | None = ("cond", "uncond")) -> None:
        self.family, self.names = family, names
        self.module, self.scheduler = network(family), scheduler_of(family)
        self.calls, self.asked, self.armed_at, self.input_changed = 0, 0, None, False

    def __call__(self, job: Job = Job(), extra: bool = False) -> torch.Tensor:  # noqa: B008
        self.calls, self.asked, self.armed_at, self.input_changed = 0, 0, job.fail_at, False
        hook = first_block(self.module).register_forward_pre_hook(self._count)
        try:
            with torch.no_grad():
                return self._sample(job, extra)
        finally:
            hook.remove()

    def _count(self, *_) -> None:
        self.calls += 1
        if self.armed_at == self.asked:
            raise Interrupted

    def _sample(self, job: Job, extra: bool) -> torch.Tensor:
        self.scheduler.set_timesteps(STEPS)
        *_, x = self.steps(job, self.scheduler, noise(self.family, job.seed, job.large), extra)
        return x

    def steps(self, job: Job, scheduler, x: torch.Tensor, extra: bool = False, first: int = 0):
        """The latent after each step, from step ``first`` of the scheduler's list on."""
        cond, uncond = text(job.prompt), torch.zeros(1, 8, TEXT)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        for t in scheduler.timesteps[first:]:
            if job.batched:
                both = self._model(torch.cat([x, x]), t, torch.cat([uncond, cond]), "cond_uncond")
                u, c = both.chunk(2)
            else:
                c = self._model(x, t, cond, "cond")
                u = self._model(x, t, uncond, "uncond")
            guided = u + GUIDANCE * (c - u)
            if extra:
                with perturbed(self.module):
                    weak = self._model(x, t, cond, "perturbed")
                guided = guided + 0.5 * (c - weak)
            if job.in_place:
                c.zero_()
                u.zero_()
            x = scheduler.step(guided, t, x, return_dict=False)[0]
            yield x

    def _model(self, x, t, context, name) -> torch.Tensor:
        named = self.names is not None and (name in self.names or name == "cond_uncond")
        before = x.clone(), context.clone()
        with self.module.cache_context(name) if named else nullcontext():
            time = t if self.family == "cogvideox" else t / 1000
            output = forward(self.family, self.module, x, time, context)
        if self.armed_at == self.asked:
            raise Interrupted
        self.asked += 1
        same = torch.equal(x, before[0]) and torch.equal(context, before[1])
        self.input_changed |= not same
        return output


class Unguided(Sampler):
    """The same loop without guidance: one call a step."""

    branches = ("cond",)

    def steps(self, job: Job, scheduler, x: torch.Tensor, extra: bool = False, first: int = 0):
        for t in scheduler.timesteps[first:]:
            output = self._model(x, t, text(job.prompt), "cond")
            x = scheduler.step(output, t, x, return_dict=False)[0]
            yield x


#: Of a network with blocks behind its first ones.
FOUR = {"num_layers": 4}


def ours(sampler: Sampler, policy, guards) -> tuple[list[int], torch.Tensor]:
    """The steps that a policy computes in full on four blocks, and the clip."""
    sampler.module = network(sampler.family, **FOUR)
    config = CacheConfig(policy, guards=guards, budget=None)
    with host.attach(sampler.module, config, sampler.scheduler) as cached:
        latent = sampler()
    (report,) = cached.reports
    return [step.ordinal for step in report.steps if step.cost == 1], latent


@contextmanager
def perturbed(module):
    """The network with a damped first block, as perturbed guidance has it."""
    hook = first_block(module).register_forward_hook(lambda _, __, output: output * 0.5)
    try:
        yield
    finally:
        hook.remove()


class DiffusersDriver(Driver):
    def __init__(self, sampler: Sampler) -> None:
        self.sampler, self.tells_apart = sampler, sampler.names is not None

    def run(self, config, jobs):
        sampler, results = self.sampler, []
        attachment = None
        if config is not None:
            attachment = host.attach(sampler.module, config, sampler.scheduler)
        for job in jobs:
            try:
                latent = sampler(job)
            except Interrupted:
                latent = None
            results.append(Result(latent, sampler.calls, None, sampler.input_changed))
        if attachment is not None:
            attachment.detach()
            for result, report in zip(results, attachment.reports, strict=True):
                result.report = report
        return results

    def holds_state(self):
        return bool({"forward", "_diffusers_hook"} & vars(self.sampler.module).keys())


def wan_pipeline(**parts):
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    )
    pipe = diffusers.WanPipeline(
        tokenizer=None, text_encoder=None, vae=None, scheduler=scheduler, **parts
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe, steps: int = STEPS, seed: int = 0):
    return pipe(
        prompt_embeds=text(0),
        negative_prompt_embeds=torch.zeros(1, 8, TEXT),
        height=32,
        width=32,
        num_frames=5,
        num_inference_steps=steps,
        output_type="latent",
        generator=torch.Generator().manual_seed(seed),
        return_dict=False,
    )[0]
