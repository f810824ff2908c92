"""One model in one regime and host: its prompts, its uncached clips, and settings that are tried.

Settings are found on calibration clips, with which a method costs what a budget allows.
"""

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
from .method import Method, Setting, Sweep, describe
from .models import Model, Regime

#: First seed of calibration clips; test clips count from 0.
CALIBRATION_SEED = 10_000
#: Costs as near to the budget as this count as meeting it.
TOLERANCE = 0.02
#: A search ends early when it is this near.
NEAR = 0.01


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


def tune(case: Case, method: Method, budget: float) -> tuple[Setting, Sweep]:
    """The setting to run, found on the calibration clips alone, and the sweep it belongs to.

    Each sweep is searched for its setting nearest to the budget, by cost only. Of the sweeps that
    come within :data:`TOLERANCE` the one with the smallest error is taken; if none does, the
    nearest.

    Raises:
        Exception: whatever the method raises where it cannot run.
    """
    case.prepare(method)
    sweeps = method.sweeps(case, budget)
    if len(sweeps) == len(sweeps[0].settings) == 1:
        return sweeps[0].settings[0], sweeps[0]
    found = [(search(case, method, sweep, budget), sweep) for sweep in sweeps]
    results = [(*case.try_setting(method, pair[0]), pair) for pair in found]
    meeting = [r for r in results if abs(r[0] - budget) <= TOLERANCE + 1e-9]
    if meeting:
        return min(meeting, key=lambda r: r[1])[2]
    return min(results, key=lambda r: abs(r[0] - budget))[2]


def run_tuned(case: Case, method: Method, budget: float) -> tuple[Setting, list[Clip]]:
    """The test clips at the budget, and the setting that made them.

    Where a method spends more or less on the test clips than on the calibration clips, its sweep is
    searched once more, for a budget moved by the difference, and the nearer result is kept. The
    test clips give their cost to this, never their error.
    """
    setting, sweep = tune(case, method, budget)
    clips = [case.clip(method, setting, *test) for test in case.tests]
    cost = case.cost(clips)
    if len(sweep.settings) > 1 and abs(cost - budget) > TOLERANCE:
        expected, _ = case.try_setting(method, setting)
        other = search(case, method, sweep, budget + expected - cost)
        if other != setting:
            again = [case.clip(method, other, *test) for test in case.tests]
            if abs(case.cost(again) - budget) < abs(cost - budget):
                return other, again
    return setting, clips


def search(case: Case, method: Method, sweep: Sweep, budget: float) -> Setting:
    """The sweep's setting whose cost is nearest to the budget, by bisection; of two, the dearer."""
    low, high, seen = 0, len(sweep.settings) - 1, {}
    while low <= high:
        middle = (low + high) // 2
        cost, _ = case.try_setting(method, sweep.settings[middle])
        seen[middle] = cost
        if abs(cost - budget) <= NEAR:
            break
        if cost > budget:
            low = middle + 1
        else:
            high = middle - 1
    return sweep.settings[min(seen, key=lambda k: (round(abs(seen[k] - budget), 6), -seen[k]))]
