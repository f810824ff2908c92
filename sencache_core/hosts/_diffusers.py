"""What the diffusers host translates: timesteps, output containers, where a model keeps both."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..measure.profile import ProfileHeader
from ..model.families import FAMILIES, Family, family_of
from ..model.fingerprint import fingerprint
from ..sampler.schedule import Schedule, as_floats, flow_sigmas

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
#: What k-diffusion and ComfyUI call the samplers of these schedulers.
_SAMPLERS = {
    "CogVideoXDDIMScheduler": "ddim",
    "CogVideoXDPMScheduler": "dpmpp_2m_sde",
    "FlowMatchEulerDiscreteScheduler": "euler",
    "UniPCMultistepScheduler": "uni_pc",
}


@dataclass(frozen=True)
class Clock:
    """Timesteps of one transformer, which is asked within ``low <= timestep < high``."""

    family: Family
    scheduler: Callable[[], Any] | None
    num_steps: int | None
    low: float = 0.0
    high: float = math.inf

    def sigma(self, timestep: float) -> float:
        if self.family.prediction == "flow":
            return timestep / self._train_steps()
        alpha = float(self.scheduler().alphas_cumprod[round(timestep)])
        return math.sqrt((1 - alpha) / max(alpha, 1e-12))

    def timestep(self, sigma: float) -> float:
        """Timestep of ``sigma``; for the v family the trained one whose sigma is nearest."""
        if self.family.prediction == "flow":
            return sigma * self._train_steps()
        alphas = self.scheduler().alphas_cumprod.double().clamp_min(1e-12)
        angles = torch.atan(((1 - alphas) / alphas).sqrt())
        return int((angles - math.atan(sigma)).abs().argmin())

    def schedule(self, first: float) -> Schedule | None:
        """Noise levels from timestep ``first`` on; ``None`` if the scheduler does not list it."""
        if self.scheduler is None:
            start = self.sigma(first)
            return Schedule(tuple(s * start for s in flow_sigmas(self.num_steps)), assumed=True)
        scheduler = self.scheduler()
        every = as_floats(scheduler.timesteps)
        known = [t for t in every if self.low <= t < self.high]
        ahead = [t for t in known if t <= first * (1 + 1e-4)]
        if not ahead or not math.isclose(ahead[0], first, rel_tol=1e-4):
            return None
        name = type(scheduler).__name__
        end = max(map(self.sigma, (t for t in every if t < self.low)), default=0.0)
        name = _SAMPLERS.get(name, name)
        if getattr(scheduler.config, "stochastic_sampling", False):
            name = f"{name}_ancestral"
        return Schedule((*map(self.sigma, ahead), end), name)

    def _train_steps(self) -> int:
        if self.scheduler is None:
            return 1000
        return getattr(self.scheduler().config, "num_train_timesteps", 1000)


class ContextName(StateManager):
    """Takes note of the name that a pipeline gives a call by ``cache_context``."""

    def __init__(self) -> None:
        super().__init__(BaseState)
        self.name: str | None = None

    def set_context(self, context) -> None:
        # A plain string before diffusers 0.42, an object with a name since.
        self.name = getattr(context, "name", context)


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


def noisy_channels(family: Family, module: nn.Module, hidden_states: Tensor) -> Tensor:
    """``hidden_states`` without the mask and image channels of image-to-video models (a view)."""
    channels, dim = getattr(module.config, "out_channels", None), _CHANNEL_DIM.get(family.name)
    return hidden_states if dim is None or not channels else hidden_states.narrow(dim, 0, channels)


def same(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two conditionings are equal; costs a device sync only if they are two tensors."""
    if a is b:
        return True
    return a is not None and b is not None and a.shape == b.shape and torch.equal(a, b)


def header_of(
    module: nn.Module, family: Family, schedule: Schedule | None, inputs: tuple[Tensor, ...]
) -> ProfileHeader:
    """What is known of a run, to be compared with a profile's header."""
    return ProfileHeader(
        family=family.name,
        fingerprint=fingerprint(module),
        sampler=schedule.sampler if schedule else "",
        sigmas=schedule.sigmas[:-1] if schedule else (),
        shape=tuple(n for x in inputs for n in x.shape),
        dtype=str(inputs[0].dtype).removeprefix("torch."),
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
