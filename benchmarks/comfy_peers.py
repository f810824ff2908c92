"""ComfyUI as a host of the bench: its own EasyCache and LazyCache, unmodified, and our pack there.

The same weights, prompts, seeds and noise levels as in diffusers. Rows are compared with the
uncached clips of this host, which differ from diffusers' by rounding.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sencache_core.config import CacheConfig
from sencache_core.policies import EasyCache, Guards
from sencache_core.policies.plan import evaluations_of
from sencache_core.sampler.schedule import flow_sigmas
from sencache_core.tiny import to_comfyui_keys
from sencache_core.tiny.sampling import cog_timesteps

from .case import Case
from .host import HOSTS, BlockWork, DiffusersHost, Shot
from .measures import rms
from .method import Method, Setting, Sweep
from .models import Model, Regime
from .peers import ANY, paired

ROOT = Path(__file__).resolve().parents[1]


class Unavailable(RuntimeError):
    """There is no ComfyUI to be used here. The message says why."""


def find() -> Path | None:
    """Folder of ComfyUI: ``COMFYUI_PATH``, else around this pack, else ``~/ComfyUI``."""
    around = ROOT.parents[1] if ROOT.parent.name == "custom_nodes" else None
    for folder in (os.environ.get("COMFYUI_PATH"), around, Path.home() / "ComfyUI"):
        if folder and (Path(folder) / "comfy" / "sd.py").is_file():
            return Path(folder).resolve()
    return None


def load() -> Path:
    """Import ComfyUI for the CPU, once per process, and return its folder.

    ComfyUI reads the command line while it is imported, hence the replaced arguments. Its folder
    goes to the front of ``sys.path``, where its own ``nodes.py`` must be found first.

    Raises:
        Unavailable: no ComfyUI, or this Python lacks something that it needs.
    """
    folder = find()
    if folder is None:
        raise Unavailable("no ComfyUI found; set COMFYUI_PATH to its folder")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    argv, sys.argv = sys.argv, ["x", "--cpu"]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args
        import comfy.model_patcher
    except ImportError as error:
        raise Unavailable(f"ComfyUI in {folder} cannot be imported: {error}") from error
    finally:
        sys.argv = argv
    return folder


#: ``reuse_threshold`` from what skips nothing to the largest value that the node takes.
THRESHOLDS = tuple(float(f"{value:.3g}") for value in np.geomspace(1e-3, 3, 128))
#: Clips of two hosts that differ by more than this share of their RMS are of two models.
DIFFERENT = 0.1


class ComfyHost:
    """Samples in ComfyUI, in this process: by the regime's sampler, without one by Euler for the
    flow families, DDIM for CogVideoX.

    CogVideoX's sampler is that of the VOID nodes, which alone among ComfyUI's feeds the network
    latents of the scale it was trained on.

    Attributes:
        model, regime: what is sampled, and how.
        work: counts what is executed.
        patcher: ComfyUI's ``ModelPatcher`` to sample with; methods put theirs here for a while.

    Raises:
        Unavailable: no ComfyUI, or none that knows the family or that samples this model as
            diffusers does. The message says why.
    """

    name = "comfyui"

    def __init__(self, model: Model, regime: Regime) -> None:
        load()
        import comfy.sd

        if regime.sampler and model.spec.prediction == "v":
            raise Unavailable(f"ComfyUI's {regime.sampler} does not scale latents as {model.name}")
        self.model, self.regime = model, regime
        # Copies, for ComfyUI may load in place of them or cast what it is given.
        own = {name: value.clone() for name, value in model.module.state_dict().items()}
        try:
            patcher = comfy.sd.load_diffusion_model_state_dict(
                to_comfyui_keys(model.family, own), model_options={"dtype": torch.float32}
            )
        except Exception as error:  # it guesses sizes of its own from those it reads
            why = str(error).strip().splitlines()[-1:]
            raise Unavailable(f"this ComfyUI cannot load {model.name}: {''.join(why)}") from error
        if patcher is None:
            raise Unavailable(f"this ComfyUI does not recognise the {model.name} weights")
        self.patcher = _unshared(patcher)
        self.sigmas = self._schedule(regime)
        self._check()
        network = patcher.model.diffusion_model
        self.work = BlockWork(getattr(network, "transformer_blocks", None) or network.blocks)

    def close(self) -> None:
        self.work.close()

    def _check(self) -> None:
        """Compare a clip of two steps with diffusers'.

        ComfyUI reads a model off its weights, and takes all else to be as released.
        """
        usual, short = (self.regime, self.sigmas), replace(self.regime, steps=2, sampler="")
        other = DiffusersHost(self.model, short)
        self.regime, self.sigmas = short, self._schedule(short)
        try:
            clip, reference = (host.sample([("a red circle", 0)]) for host in (self, other))
        finally:
            self.regime, self.sigmas = usual
            other.close()
        if rms(clip - reference) > DIFFERENT * rms(reference):
            raise Unavailable(f"ComfyUI does not sample {self.model.name} as diffusers does")

    def _schedule(self, regime: Regime) -> Tensor:
        """``steps + 1`` noise levels; the flow families' shift is set on the model as well.

        EasyCache asks the model, not the run, which levels its start and end are.
        """
        sampling = self.patcher.model.model_sampling
        if self.model.spec.prediction == "v":
            levels = sampling.sigmas[cog_timesteps(regime.steps)].float().cpu()
            return torch.cat([levels, torch.zeros(1)])
        import comfy.model_sampling

        # This class, LTX's, takes the logarithm of the shift.
        logarithmic = isinstance(sampling, comfy.model_sampling.ModelSamplingFlux)
        sampling.set_parameters(shift=np.log(regime.shift) if logarithmic else regime.shift)
        return torch.tensor(flow_sigmas(regime.steps, regime.shift))

    def sample(self, shots: Sequence[Shot]) -> Tensor:
        return torch.cat([self._one(*shot) for shot in shots])

    def _one(self, prompt: str, seed: int) -> Tensor:
        import comfy.samplers

        spec = self.model.spec
        guider = comfy.samplers.CFGGuider(self.patcher)
        guider.set_conds(self._text(prompt), self._text(spec.negative))
        guider.set_cfg(self.regime.guidance)
        noise = torch.randn((1, *spec.latent), generator=torch.Generator().manual_seed(seed))
        # As ComfyUI's executor does.
        with torch.inference_mode():
            latent = guider.sample(
                noise,
                torch.zeros_like(noise),
                self._sampler(),
                self.sigmas,
                disable_pbar=True,
                seed=seed,
            )
            latent = self.patcher.model.process_latent_in(latent)
        return latent.clone()

    def _sampler(self) -> Any:
        import comfy.samplers

        if self.model.spec.prediction == "v":
            return importlib.import_module("comfy_extras.nodes_void").VOID_DDIM()
        return comfy.samplers.sampler_object(self.regime.sampler or "euler")

    def _text(self, prompt: str) -> list:
        """A prompt as the tiny prompt node encodes it."""
        tokens = self.model.encode(prompt)[None]
        mask = {"attention_mask": torch.ones(tokens.shape[:2], dtype=torch.long)}
        return [[tokens, mask if self.model.family == "ltx" else {}]]


def _unshared(patcher: Any) -> Any:
    """A patcher that hands the network a copy of its input.

    EasyCache adds to this input in place. In half precision ComfyUI makes a copy anyway; at the
    float32 of these models the sum would go into the sampler's latent and spoil every reused step,
    through no fault of the method.
    """
    import comfy.patcher_extension

    def copied(executor: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        return executor(x.clone(), *args, **kwargs)

    clone = patcher.clone()
    clone.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "bench_copy", copied
    )
    return clone


@contextmanager
def patched(case: Case, setting: Setting, make: Callable[[Any, Setting], Any]) -> Iterator[None]:
    """The host with the patcher that ``make`` derives from its own."""
    host: Any = case.host
    before = host.patcher
    host.patcher = make(before, setting)
    try:
        yield
    finally:
        host.patcher = before


def _node(name: str, patcher: Any, setting: Setting) -> Any:
    """``patcher`` behind one of the two cache nodes, start and end as the node offers them."""
    node = getattr(importlib.import_module("comfy_extras.nodes_easycache"), name)
    return node.execute(
        patcher, **setting, start_percent=0.15, end_percent=0.95, verbose=False
    ).result[0]


def _own(config: CacheConfig, patcher: Any, setting: Setting) -> Any:
    from sencache_core.hosts.comfy import attach

    return attach(patcher, replace(config, budget=setting["budget"]))


def _easy(patcher: Any, setting: Setting) -> Any:
    """Ours by the rule, at the threshold and within the start and end of ComfyUI's node."""
    guards = Guards(1, 0, ANY, start=0.15, end=0.95)
    policy = EasyCache(setting["reuse_threshold"], origin="comfyui")
    config = CacheConfig(policy, guards=guards, hindsight=False)
    return _own(config, patcher, {"budget": None})


@contextmanager
def _fewer(case: Case, setting: Setting) -> Iterator[None]:
    """The host with fewer steps of its own sampler, on a schedule of the same shift."""
    host: Any = case.host
    before = host.sigmas
    host.sigmas = host._schedule(replace(case.regime, steps=setting["steps"]))
    try:
        yield
    finally:
        host.sigmas = before


def _ours(name: str, config: CacheConfig) -> Method:
    return Method(
        name,
        lambda case, budget: [Sweep.over("budget", [budget])],
        partial(patched, make=partial(_own, config)),
        host="comfyui",
        ours=True,
        at_full=config.aim == "true",
    )


def _peer(name: str, node: str) -> Method:
    return Method(
        name,
        lambda case, budget: [Sweep.over("reuse_threshold", THRESHOLDS)],
        partial(patched, make=partial(_node, node)),
        host="comfyui",
    )


HOSTS["comfyui"] = ComfyHost

_EASY = CacheConfig(EasyCache(origin="comfyui"), hindsight=False)
_BUDGET = "ours-easycache (ComfyUI)"

METHODS = (
    *paired(_peer("easycache", "EasyCacheNode"), _BUDGET, partial(patched, make=_easy)),
    _ours(_BUDGET, _EASY),
    _peer("lazycache", "LazyCacheNode"),
    _ours("planned (ComfyUI)", CacheConfig(aim="same")),
    _ours("true (ComfyUI)", CacheConfig(aim="true")),
    Method(
        "fewer-steps (ComfyUI)",
        lambda case, budget: [Sweep.over("steps", [evaluations_of(budget, case.regime.steps)])],
        _fewer,
        host="comfyui",
        title="same sampler, fewer steps (ComfyUI)",
    ),
)
