"""One model in one regime and host: its prompts, uncached clips, and the settings tried so far."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from sencache_core.tiny import calibration_prompts, held_out_prompts

from .host import HOSTS, Host
from .measures import rms
from .method import Method, Setting, describe
from .models import Model, Regime

#: First seed of calibration clips; test clips count from 0.
CALIBRATION_SEED = 10_000


@dataclass(frozen=True)
class Clip:
    """One sampled clip.

    Attributes:
        latent: final latent ``[1, C, F, H, W]``.
        work: arithmetic executed in transformer blocks.
        seconds: wall-clock time.
    """

    latent: Tensor
    work: int
    seconds: float


@dataclass
class Case:
    """A model in a regime, sampled by one host.

    Attributes:
        model, regime, host: what is sampled, how, and by what.
        tests: prompt and seed of each test clip.
        calibration: prompt and seed of each clip that methods may calibrate on.
        tuning: those of them that settings are tried on.
        prepared: by method name, what its ``prepare`` returned.
    """

    model: Model
    regime: Regime
    host: Host
    tests: tuple[tuple[str, int], ...]
    calibration: tuple[tuple[str, int], ...]
    tuning: tuple[tuple[str, int], ...]
    prepared: dict[str, Any] = field(default_factory=dict)
    _tried: dict[Any, tuple[float, float]] = field(default_factory=dict)

    def sample(self, prompt: str, seed: int) -> Tensor:
        """The final latent of a clip, with whatever is attached at the time."""
        return self.host.sample(prompt, seed)

    def clip(self, method: Method | None, setting: Setting, prompt: str, seed: int) -> Clip:
        """A clip by a method; ``None``: uncached."""
        with method.attach(self, setting) if method else nullcontext():
            self.host.work.reset()
            started = time.perf_counter()
            latent = self.sample(prompt, seed)
            return Clip(latent, self.host.work.reset(), time.perf_counter() - started)

    @cached_property
    def uncached(self) -> tuple[Clip, ...]:
        """The test clips' references."""
        return tuple(self.clip(None, {}, *test) for test in self.tests)

    @cached_property
    def _uncached_tuning(self) -> tuple[Clip, ...]:
        return tuple(self.clip(None, {}, *one) for one in self.tuning)

    @cached_property
    def full_work(self) -> int:
        """Arithmetic of one uncached clip, which does not depend on its contents."""
        works = {clip.work for clip in self.uncached}
        if len(works) != 1:
            raise RuntimeError(f"uncached clips differ in work: {sorted(works)}")
        return works.pop()

    def cost(self, clips: Sequence[Clip]) -> float:
        """Mean share of the uncached work that these clips took."""
        return sum(clip.work for clip in clips) / (len(clips) * self.full_work)

    def prepare(self, method: Method) -> None:
        """Let the method calibrate, once."""
        if method.prepare is not None and method.name not in self.prepared:
            self.prepared[method.name] = method.prepare(self)

    def try_setting(self, method: Method, setting: Setting) -> tuple[float, float]:
        """Cost and RMS of the final latents' error over the tuning clips, remembered."""
        key = method.name, describe(setting)
        if key not in self._tried:
            clips = [self.clip(method, setting, *one) for one in self.tuning]
            pairs = zip(clips, self._uncached_tuning, strict=True)
            errors = [rms(a.latent - b.latent) for a, b in pairs]
            self._tried[key] = self.cost(clips), sum(errors) / len(errors)
        return self._tried[key]


def make_case(
    model: Model,
    regime: Regime,
    host: str,
    samples: int,
    tune_samples: int,
    calibration_samples: int,
) -> Case:
    """A case with its prompts. Those of tests and of calibration have nothing in common.

    Raises:
        ValueError: a number of clips is below 1, or the host is unknown.
    """
    if min(samples, tune_samples, calibration_samples) < 1:
        raise ValueError("need at least one clip to test, to tune and to calibrate on")
    if host not in HOSTS:
        raise ValueError(f"host {host!r} is not one of {', '.join(HOSTS)}")
    most = max(24, calibration_samples, tune_samples)
    held_out, known = held_out_prompts(), calibration_prompts(most)
    assert not set(held_out) & set(known), "a calibration prompt is among the test prompts"
    regime = model.regime(regime)
    return Case(
        model,
        regime,
        HOSTS[host](model, regime),
        tuple((held_out[k % len(held_out)], k) for k in range(samples)),
        tuple((known[k], CALIBRATION_SEED + k) for k in range(calibration_samples)),
        tuple((known[k], CALIBRATION_SEED + k) for k in range(tune_samples)),
    )
