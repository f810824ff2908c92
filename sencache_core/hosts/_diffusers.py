"""What the diffusers host translates: timesteps, output containers, where a model keeps both."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..measure.profile import ProfileHeader
from ..model.families import FAMILIES, Family, family_of
from ..model.fingerprint import fingerprint
from ..sampler.schedule import Schedule
from ._diffusers_schedulers import Clock

try:
    from diffusers.hooks.hooks import BaseState, StateManager
    from diffusers.hooks.hooks import HookRegistry as HookRegistry
    from diffusers.hooks.hooks import ModelHook as ModelHook
except ImportError as error:
    raise ImportError(
        "this host needs diffusers: in the source tree, pip install -e '.[diffusers]'"
    ) from error

#: Arguments that carry the noise level, in a model's own unit.
_TIMES = frozenset({"timestep", "audio_timestep", "sigma", "audio_sigma"})
#: Arguments whose first dimension is the batch.
_BATCHED = _TIMES | frozenset(
    (
        *("hidden_states", "encoder_hidden_states", "encoder_attention_mask"),
        *("encoder_hidden_states_image", "image_embeds", "ofs", "video_coords"),
        *("audio_hidden_states", "audio_encoder_hidden_states", "audio_encoder_attention_mask"),
    )
)
#: Dimension of ``hidden_states`` along which some pipelines append conditioning channels.
_CHANNEL_DIM = {"wan": 1, "cogvideox": 2}
#: Where pipelines keep how far they rescale the guided output.
_RESCALES = ("_guidance_rescale", "_audio_guidance_rescale")
#: Guiders of modular diffusers that weigh the same outputs by the same numbers at every step.
_LINEAR_GUIDERS = frozenset(
    {"AutoGuidance", "ClassifierFreeGuidance", "LTX2Guidance", "PerturbedAttentionGuidance"}
)
#: What the guiders of modular diffusers call what pipelines call by the other name.
_GUIDERS_NAMES = {"pred_cond": "cond", "pred_uncond": "uncond"}


class ContextName(StateManager):
    """Takes note of the name that a pipeline gives a call by ``cache_context``, in each thread."""

    def __init__(self) -> None:
        super().__init__(BaseState)
        self._here = threading.local()

    @property
    def name(self) -> str | None:
        return getattr(self._here, "name", None)

    def set_context(self, context) -> None:
        # A plain string before diffusers 0.42, an object with a name since.
        name = getattr(context, "name", context)
        self._here.name = _GUIDERS_NAMES.get(name, name)


@dataclass(frozen=True)
class Container:
    """Takes the tensors out of a model's output and puts others back."""

    kind: type
    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, output: Any) -> tuple[Container, Tensor] | tuple[None, None]:
        """The container and its payload: the one tensor, or several as ``[B, n]`` side by side.

        ``None`` twice if the output holds anything else than tensors of one batch size.
        """
        names: tuple[str, ...] = ()
        if isinstance(output, dict):
            names, values = tuple(output.keys()), tuple(output.values())
        else:
            values = output if isinstance(output, tuple) else (output,)
        if not all(isinstance(v, Tensor) and len(v) == len(values[0]) for v in values):
            return None, None
        container = cls(type(output), names, tuple(v.shape for v in values))
        payload = torch.cat([v.flatten(1) for v in values], 1) if len(values) > 1 else values[0]
        return container, payload

    @property
    def shape(self) -> tuple[int, ...]:
        if len(self.shapes) == 1:
            return tuple(self.shapes[0])
        return self.shapes[0][0], sum(s[1:].numel() for s in self.shapes)

    def put(self, payload: Tensor) -> Any:
        values = (payload,)
        if len(self.shapes) > 1:
            parts = payload.split([s[1:].numel() for s in self.shapes], dim=1)
            values = tuple(p.reshape(s) for p, s in zip(parts, self.shapes, strict=True))
        if self.names:
            return self.kind(**dict(zip(self.names, values, strict=True)))
        return values if issubclass(self.kind, tuple) else values[0]


def halves_of(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """A transformer's arguments for either half of its batch.

    ``None`` if an argument that is not known to go by batch has its size: it cannot be told apart.
    """
    batch, halves = len(arguments["hidden_states"]), ({}, {})
    for name, value in arguments.items():
        parts = (value, value)
        if isinstance(value, Tensor) and value.ndim and len(value) == batch:
            if name not in _BATCHED:
                return None
            parts = value.chunk(2)
        elif isinstance(value, list | tuple | dict) and _holds_batch(value, batch):
            return None
        for half, part in zip(halves, parts, strict=True):
            half[name] = part
    return halves


def _holds_batch(value: Any, batch: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value
    tensors = [v for v in inner if isinstance(v, Tensor)]
    return any(v.ndim and len(v) == batch for v in tensors)


def at_timestep(arguments: dict[str, Any], timestep: float) -> dict[str, Any]:
    """A call's arguments with its noise level moved to ``timestep``; clean frames keep their 0."""
    moved = dict(arguments)
    for name in _TIMES & arguments.keys():
        value = arguments[name]
        if isinstance(value, Tensor):
            target = timestep if value.is_floating_point() else round(timestep)
            moved[name] = torch.where(value == value.max(), torch.full_like(value, target), value)
        elif value is not None:
            moved[name] = timestep
    return moved


def channel_dim(family: Family) -> int | None:
    """Dimension of the latent that holds its channels; ``None``: it is a list of tokens."""
    return _CHANNEL_DIM.get(family.name)


def noisy_channels(family: Family, module: nn.Module, hidden_states: Tensor) -> Tensor:
    """``hidden_states`` without the mask and image channels of image-to-video models (a view)."""
    channels, dim = getattr(module.config, "out_channels", None), _CHANNEL_DIM.get(family.name)
    return hidden_states if dim is None or not channels else hidden_states.narrow(dim, 0, channels)


def same(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two conditionings are equal; costs a device sync only if they are two tensors."""
    if a is b:
        return True
    return a is not None and b is not None and a.shape == b.shape and torch.equal(a, b)


def nonlinear_guidance(model: Any) -> str | None:
    """Why a pipeline's guidance is no fixed linear combination of the transformer's outputs.

    Args:
        model: a pipeline, in mid-call; of a bare transformer nothing is known.

    Returns:
        Its name, for people; ``None`` if there is no sign of any.
    """
    if any((getattr(model, name, 0) or 0) > 0 for name in _RESCALES):
        return "rescaled guidance"
    for name in ("guider", "guider_2"):
        guider = getattr(model, name, None)
        if guider is None or not getattr(guider, "_enabled", True):
            continue
        if getattr(guider, "guidance_rescale", 0):
            return "rescaled guidance"
        always = (getattr(guider, "_start", 0), getattr(guider, "_stop", 1)) == (0, 1)
        if type(guider).__name__ not in _LINEAR_GUIDERS or not always:
            return type(guider).__name__
    return None


def guidance_of(model: Any, module: nn.Module) -> float:
    """A pipeline's scale of guidance for one of its transformers; 0 if it is not known.

    Args:
        model: a pipeline, in mid-call; of a bare transformer nothing is known.
        module: the transformer.
    """
    second = getattr(model, "transformer_2", None)
    names = ["_guidance_scale"]
    if second is not None and getattr(second, "_orig_mod", second) is module:
        names.insert(0, "_guidance_scale_2")
    guider = getattr(model, "guider", None)
    found = [getattr(model, name, None) for name in names]
    scales = (*found, getattr(guider, "guidance_scale", None))
    return next((float(s) for s in scales if isinstance(s, int | float)), 0.0)


def header_of(
    module: nn.Module,
    family: Family,
    schedule: Schedule | None,
    inputs: tuple[Tensor, ...],
    tap: str,
) -> ProfileHeader:
    """What is known of a run, to be compared with a profile's header."""
    return ProfileHeader(
        family=family.name,
        fingerprint=fingerprint(module),
        sampler=schedule.sampler if schedule else "",
        sigmas=schedule.sigmas[:-1] if schedule else (),
        shape=tuple(n for x in inputs for n in x.shape),
        dtype=str(inputs[0].dtype).removeprefix("torch."),
        tap=tap,
    )


def clocks_of(model: Any, scheduler: Any, num_steps: int | None) -> list[tuple[nn.Module, Clock]]:
    """Transformers of a pipeline (or ``model`` itself) with the timesteps they are asked at."""
    read = None if scheduler is None else lambda: scheduler
    if isinstance(model, nn.Module):
        modules = [model]
    else:
        modules = [getattr(model, name, None) for name in ("transformer", "transformer_2")]
        if scheduler is None and getattr(model, "scheduler", None) is not None:
            read = lambda: model.scheduler  # noqa: E731 - users swap a pipeline's scheduler
    ranges = [(0.0, math.inf)] * 2
    ratio = getattr(getattr(model, "config", None), "boundary_ratio", None)
    if ratio is not None and read is not None:
        boundary = ratio * read().config.num_train_timesteps
        ranges = [(boundary, math.inf), (0.0, boundary)]
    found = []
    for module, (low, high) in zip(modules, ranges[: len(modules)], strict=True):
        if module is None:
            continue
        module = getattr(module, "_orig_mod", module)  # torch.compile's wrapper calls it
        family = family_of(module, lambda row: row.diffusers_classes)
        if family is None:
            known = ", ".join(name for row in FAMILIES.values() for name in row.diffusers_classes)
            raise ValueError(f"unknown transformer {type(module).__name__}; known are {known}")
        if read is None and (num_steps is None or family.prediction != "flow"):
            ways = "scheduler=pipe.scheduler" + (" or num_steps" if num_steps is None else "")
            raise ValueError(f"the noise levels of a bare transformer are not known: pass {ways}")
        if type(getattr(module, "_hf_hook", None)).__name__ == "CpuOffload":
            raise ValueError("attach before enable_model_cpu_offload(), which drops other hooks")
        found.append((module, Clock(family, read, num_steps, low, high)))
    if not found:
        raise ValueError(f"{type(model).__name__} has no transformer to attach to")
    return found
