"""One model in one regime and host: its clips, what they are compared with, and settings tried.

Settings are found on calibration clips, with which a method costs what a budget allows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from sencache_core.tiny import calibration_prompts, held_out_prompts

from .host import HOSTS, Host, Shot
from .measures import rms
from .method import Method, Setting, Sweep, describe
from .models import Model, Regime
from .solvers import GOOD, exact
from .store import Kept, Store

#: First seed of calibration clips; test clips count from 0.
CALIBRATION_SEED = 10_000
#: Costs as near to the budget as this count as meeting it.
TOLERANCE = 0.02
#: A search ends early when it is this near.
NEAR = 0.01
#: Test clips whose cost, never their error, says whether a setting costs on them what it did on the
#: calibration clips.
CHECKED = 4
#: Clips in one call of the network, where none of them decides anything.
BATCH = 8


@dataclass(frozen=True)
class Clip:
    """One sampled clip.

    Attributes:
        latent: final latent ``[1, C, F, H, W]``.
        work: arithmetic executed in transformer blocks.
    """

    latent: Tensor
    work: int


@dataclass
class Case:
    """A model in a regime, sampled by one host.

    Attributes:
        model, regime, host: what is sampled, how, and by what.
        tests: prompt and seed of each test clip.
        calibration: prompt and seed of each clip that methods may calibrate on.
        tuning: those of them that settings are tried on.
        store: where clips to compare with are kept.
        prepared: by method name, what its ``prepare`` returned.
    """

    model: Model
    regime: Regime
    host: Host
    tests: tuple[Shot, ...]
    calibration: tuple[Shot, ...]
    tuning: tuple[Shot, ...]
    store: Store
    prepared: dict[str, Any] = field(default_factory=dict)
    _tried: dict[Any, tuple[float, float]] = field(default_factory=dict)

    def clips(
        self, method: Method | None, setting: Setting, shots: Sequence[Shot]
    ) -> Iterator[Clip]:
        """Clips by a method, or uncached, one after the other; in batches where that is the same.

        The method is attached anew for every call of the host.
        """
        size = BATCH if method is None or method.batched else 1
        for start in range(0, len(shots), size):
            with method.attach(self, setting) if method else nullcontext():
                self.host.work.reset()
                latents = self.host.sample(shots[start : start + size])
            work = self.host.work.reset()
            yield from (Clip(one, work // len(latents)) for one in latents.split(1))

    def uncached(self, shots: Sequence[Shot]) -> list[Clip]:
        """Uncached clips of this host, sampled once and kept on disk."""

        def make(missing: Sequence[Shot]) -> Iterator[tuple[int, Tensor, float]]:
            for k, clip in enumerate(self.clips(None, {}, missing)):
                yield k, clip.latent, clip.work

        regime = self.regime
        kind = f"{self.host.name}-{regime.steps}-{regime.shift:g}-{regime.guidance:g}"
        kind += f"-{regime.sampler}" * bool(regime.sampler)
        return [Clip(latent, int(work)) for latent, work in self.store.all(kind, shots, make)]

    @cached_property
    def references(self) -> list[Clip]:
        """The test clips, uncached."""
        return self.uncached(self.tests)

    @cached_property
    def truths(self) -> list[Kept]:
        """The test clips' exact solutions, each with the dB that its own error stays below.

        Only of the diffusers host: the equation does not depend on the host.
        """
        kind = f"exact-{GOOD:g}-{self.regime.guidance:g}"
        return self.store.all(kind, self.tests, lambda missing: exact(self.host, missing))

    def cost(self, clips: Sequence[Clip]) -> float:
        """Mean share of the uncached work, which does not depend on the clip, that these took."""
        return sum(clip.work for clip in clips) / (len(clips) * self.references[0].work)

    def prepare(self, method: Method) -> None:
        """Let the method calibrate, once."""
        if method.prepare is not None and method.name not in self.prepared:
            self.prepared[method.name] = method.prepare(self)

    def try_setting(self, method: Method, setting: Setting) -> tuple[float, float]:
        """Cost and RMS of the final latents' error over the tuning clips, remembered."""
        key = method.name, describe(setting)
        if key not in self._tried:
            clips = list(self.clips(method, setting, self.tuning))
            pairs = zip(clips, self.uncached(self.tuning), strict=True)
            errors = [rms(a.latent - b.latent) for a, b in pairs]
            self._tried[key] = self.cost(clips), sum(errors) / len(errors)
        return self._tried[key]


def make_case(
    model: Model,
    regime: Regime,
    host: str,
    store: Store,
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
        store,
    )


def choose(case: Case, method: Method, budget: float) -> tuple[Setting, list[Clip]]:
    """The setting to run, and the first test clips if they were sampled for that.

    It is found on the calibration clips. Where the first test clips cost another share than those,
    its sweep is searched once more, for a budget moved by the difference, and the setting that
    comes nearer is kept. Test clips give their cost to this, never their error.

    Raises:
        Exception: whatever the method raises where it cannot run.
    """
    setting, sweep = tune(case, method, budget)
    if len(sweep.settings) == 1:
        return setting, []
    clips = list(case.clips(method, setting, case.tests[:CHECKED]))
    cost = case.cost(clips)
    if abs(cost - budget) > TOLERANCE:
        expected, _ = case.try_setting(method, setting)
        other = search(case, method, sweep, budget + expected - cost)
        if other != setting:
            again = list(case.clips(method, other, case.tests[:CHECKED]))
            if abs(case.cost(again) - budget) < abs(cost - budget):
                return other, again
    return setting, clips


def tune(case: Case, method: Method, budget: float) -> tuple[Setting, Sweep]:
    """The best setting on the calibration clips alone, and the sweep it belongs to.

    Each sweep is searched for its setting nearest to the budget, by cost only. Of the sweeps that
    come within :data:`TOLERANCE` the one with the smallest error is taken; if none does, the
    nearest.
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
