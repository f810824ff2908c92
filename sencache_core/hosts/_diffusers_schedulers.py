"""What diffusers' schedulers say: timesteps, noise levels, kind of prediction and sampler."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..model.families import Family
from ..sampler.schedule import Schedule, as_floats, flow_sigmas

#: What k-diffusion and ComfyUI call the samplers of these schedulers.
_SAMPLERS = {
    "CogVideoXDDIMScheduler": "ddim",
    "CogVideoXDPMScheduler": "dpmpp_2m_sde",
    "FlowMatchEulerDiscreteScheduler": "euler",
    "UniPCMultistepScheduler": "uni_pc",
}
#: How the names of schedulers begin that are for flow models only and say no prediction type.
_FLOW = ("FlowMatch", "LTXEulerAncestralRF")
#: Relative distance within which a timestep counts as one of the scheduler's list (ours).
ON_THE_LIST = 1e-4


def nearest(times: Sequence[float], time: float, slack: float, first: int = 0) -> int | None:
    """Index from ``first`` on of the listed time next to ``time``, the first of equal ones."""
    near = [k for k in range(first, len(times)) if math.isclose(times[k], time, rel_tol=slack)]
    return min(near, key=lambda k: abs(times[k] - time), default=None)


def prediction_of(scheduler: Any) -> str:
    """What a scheduler takes the model's output for: a ``Family.prediction``, ``"epsilon"``,
    ``"sample"`` (the denoised latent), or ``"unknown"``.
    """
    said = getattr(scheduler.config, "prediction_type", None)
    if said is None and any(map(type(scheduler).__name__.startswith, _FLOW)):
        return "flow"
    known = {"flow_prediction": "flow", "v_prediction": "v", "epsilon": "epsilon"}
    return {**known, "sample": "sample"}.get(said, "unknown")


def draws_noise(scheduler: Any) -> bool:
    """Whether a scheduler's name or options say that it adds fresh noise between steps."""
    config, name = scheduler.config, type(scheduler).__name__
    said = f"{name} {getattr(config, 'algorithm_type', '')} {_SAMPLERS.get(name, '')}".lower()
    listed = any(word in said for word in ("ancestral", "sde", "lcm"))
    return listed or bool(getattr(config, "stochastic_sampling", False))


def sampler_of(scheduler: Any) -> str:
    """Name of a scheduler's sampler, as k-diffusion has it where it has it.

    Timesteps of second-order schedulers hold every evaluation already: they keep their own names.
    """
    name = type(scheduler).__name__
    name = _SAMPLERS.get(name, name)
    return f"{name}_ancestral" if getattr(scheduler.config, "stochastic_sampling", False) else name


@dataclass(frozen=True)
class Clock:
    """Timesteps of one transformer, which is asked within ``low <= timestep < high``."""

    row: Family
    scheduler: Callable[[], Any] | None
    num_steps: int | None
    low: float = 0.0
    high: float = math.inf

    @property
    def family(self) -> Family:
        """The transformer's row, with the prediction that its scheduler takes its output for."""
        if self.scheduler is None:
            return self.row
        prediction = prediction_of(self.scheduler())
        return (
            self.row
            if prediction == self.row.prediction
            else replace(self.row, prediction=prediction)
        )

    def sigma(self, timestep: float) -> float:
        alphas = self._alphas()
        if alphas is None:
            return timestep / self._train_steps()
        alpha = float(alphas[round(timestep)])
        return math.sqrt((1 - alpha) / max(alpha, 1e-12))

    def timestep(self, sigma: float) -> float:
        """Timestep of ``sigma``; of variance-preserving noise the trained one that is nearest."""
        alphas = self._alphas()
        if alphas is None:
            return sigma * self._train_steps()
        alphas = alphas.double().clamp_min(1e-12)
        angles = torch.atan(((1 - alphas) / alphas).sqrt())
        return int((angles - math.atan(sigma)).abs().argmin())

    def listed(self) -> Any:
        """The scheduler's list of timesteps, another object whenever they were set anew; ``None``
        if there is none to be told by.
        """
        scheduler = self.scheduler() if self.scheduler is not None else None
        times = getattr(scheduler, "timesteps", None)
        return times if times is getattr(scheduler, "timesteps", None) else None

    def ahead(
        self, first: float, slack: float = ON_THE_LIST
    ) -> tuple[tuple[float, ...], Schedule | None]:
        """Timesteps from ``first`` on, as listed, and their noise levels.

        Args:
            first: a timestep that the transformer is asked at.
            slack: relative rounding of it.

        Returns:
            No timesteps if only their number is known; also no schedule if ``first`` is not listed.
        """
        if self.scheduler is None:
            start = self.sigma(first)
            return (), Schedule(tuple(s * start for s in flow_sigmas(self.num_steps)), assumed=True)
        scheduler = self.scheduler()
        every = as_floats(scheduler.timesteps) if scheduler.timesteps is not None else ()
        known = [t for t in every if self.low <= t < self.high]
        begin = nearest(known, first, slack)
        if begin is None:
            return (), None
        end = max(map(self.sigma, (t for t in every if t < self.low)), default=0.0)
        times = tuple(known[begin:])
        return times, Schedule((*map(self.sigma, times), end), sampler_of(scheduler))

    def rest(self) -> Schedule | None:
        """Noise levels below :attr:`low`, where another transformer is asked; ``None``: none."""
        listed = self.scheduler().timesteps if self.scheduler is not None else None
        below = [t for t in as_floats(listed) if t < self.low] if listed is not None else []
        if not below:
            return None
        return Schedule((*map(self.sigma, below), 0.0), sampler_of(self.scheduler()))

    def _alphas(self) -> Tensor | None:
        """``alphas_cumprod`` of variance-preserving noise, ``None`` for a flow's."""
        if self.scheduler is None or prediction_of(self.scheduler()) == "flow":
            return None
        return getattr(self.scheduler(), "alphas_cumprod", None)

    def draws_noise(self) -> bool:
        return self.scheduler is not None and draws_noise(self.scheduler())

    def _train_steps(self) -> int:
        if self.scheduler is None:
            return 1000
        return getattr(self.scheduler().config, "num_train_timesteps", 1000)
