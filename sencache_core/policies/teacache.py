"""TeaCache: reuse while the accumulated change of what enters the blocks is small."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from ..forecast.reuse import Hold, ReuseRule
from ..model.families import GENERIC, Family
from ..model.signals import MODULATED_INPUT, TIME_EMBEDDING, TIME_PROJECTION
from ..types import STACK, Look, Step
from ..words import Message
from .accumulating import PLACE, Accumulated, Accumulating
from .base import Guards, Policy, Preset, RunInfo
from .threshold import change_of_looks

#: Largest change that a polynomial stands for: a whole output.
_WHOLE = 1.0
#: Degree of the polynomials (repository).
DEGREE = 4
#: Longest run of the presets: TeaCache has no limit of its own.
_ANY = 10_000


@dataclass(frozen=True)
class Fit:
    """A polynomial from the change of a signal to the expected change of the output.

    Attributes:
        family: key in ``FAMILIES``.
        signal: that it was fitted to.
        powers: coefficients, the highest power first.
        low, high: changes between which it is not negative, which is taken for the range of what it
            was fitted to; no upper end where it never falls.
        slow, fast: thresholds that its authors recommend.
        width: of the model, by which it is told from others of the family; 0: by name only.
        least, most: values that it is kept to.
        scaled: below its range it falls to 0 in proportion, rather than at once.
    """

    family: str
    signal: str
    powers: tuple[float, ...]
    low: float
    high: float
    slow: float
    fast: float
    width: int = 0
    least: float = 0.0
    most: float = _WHOLE
    scaled: bool = False

    def __call__(self, change: float) -> float:
        """Expected change of the output, 0..1.

        Below its range a published one is 0, as it is negative there; above it the largest value
        within. The authors' code adds whatever comes out: below 0 it reuses without an end.
        """
        if change < self.low:
            return self._kept(self.low) * change / self.low if self.scaled else 0.0
        return self._largest if change > self.high else self._kept(change)

    def _kept(self, change: float) -> float:
        return min(max(self._value(change), self.least), self.most)

    def _value(self, change: float) -> float:
        value = 0.0
        for power in self.powers:
            value = value * change + power
        return value

    @property
    def _largest(self) -> float:
        inside = (self.low + (self.high - self.low) * k / 200 for k in range(201))
        return max(map(self._kept, inside))

    @classmethod
    def to(cls, family: Family, signal: Sequence[float], output: Sequence[float]) -> Fit:
        """The polynomial of degree 4, or less, that fits measured changes best, within their range.

        Section 3.3 of the paper: least squares over the steps of uncached runs (there some 70
        prompts). What lies below the smallest measured change is scaled from it.

        Args:
            family: of the model.
            signal, output: changes from each step to the next.
        """
        signal, output = np.asarray(signal, dtype=float), np.asarray(output, dtype=float)
        degree = min(DEGREE, len(np.unique(signal)) - 1)
        fitted = np.polynomial.Polynomial.fit(signal, output, degree) if degree > 0 else None
        powers = fitted.convert().coef[::-1] if fitted is not None else [output.mean()]
        ends = (float(signal.min()), float(signal.max()))
        bounds = (float(output.min()), min(float(output.max()), _WHOLE))
        looked = TeaCache().signal(family)
        return cls(
            family.name, looked, tuple(map(float, powers)), *ends, 0.0, 0.0, 0, *bounds, True
        )


def _wan(signal, powers, low, high, slow, fast, width=0) -> Fit:
    return Fit("wan", signal, powers, low, high, slow, fast, width)


def _cog(powers, low, high, fast=0.2) -> Fit:
    return Fit("cogvideox", TIME_EMBEDDING, powers, low, high, 0.1, fast)


_E, _E0, _FREE = TIME_EMBEDDING, TIME_PROJECTION, math.inf
# Coefficients and thresholds: the repository of TeaCache, but for Wan 2.2 TI2V-5B: LightX2V.
# Ranges: where they are not negative, by their real roots.
#: By the names that people pick.
FITS: dict[str, Fit] = {
    "Wan 2.1 T2V 1.3B": _wan(
        _E,
        (2.39676752e3, -1.31110545e3, 2.01331979e2, -8.29855975, 1.37887774e-1),
        *(0.0, 0.1849, 0.05, 0.08, 1536),
    ),
    "Wan 2.1 T2V 14B": _wan(
        _E,
        (-5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404),
        *(0.1296, 0.4061, 0.14, 0.20, 5120),
    ),
    "Wan 2.1 I2V 14B 480p": _wan(
        _E,
        (-3.02331670e2, 2.23948934e2, -5.25463970e1, 5.87348440, -2.01973289e-1),
        *(0.0568, 0.4365, 0.13, 0.26),
    ),
    "Wan 2.1 I2V 14B 720p": _wan(
        _E,
        (-114.36346466, 65.26524496, -18.82220707, 4.91518089, -0.23412683),
        *(0.0583, 0.3962, 0.18, 0.30),
    ),
    "Wan 2.2 TI2V 5B": _wan(
        _E,
        (1.57472669e5, -1.15702395e5, 3.10761669e4, -3.83116651e3, 2.21608777e2, -4.81179567),
        *(0.0569, 0.2053, 0.26, 0.26, 3072),
    ),
    "Wan 2.1 T2V 1.3B, retention": _wan(
        _E0,
        (-5.21862437e4, 9.23041404e3, -5.28275948e2, 1.36987616e1, -4.99875664e-2),
        *(0.0043, 0.1019, 0.05, 0.10, 1536),
    ),
    "Wan 2.1 T2V 14B, retention": _wan(
        _E0,
        (-3.03318725e5, 4.90537029e4, -2.65530556e3, 5.87365115e1, -3.15583525e-1),
        *(0.0077, 0.0816, 0.10, 0.20, 5120),
    ),
    "Wan 2.1 I2V 14B 480p, retention": _wan(
        _E0,
        (2.57151496e5, -3.54229917e4, 1.40286849e3, -1.35890334e1, 1.32517977e-1),
        *(0.0, _FREE, 0.20, 0.30),
    ),
    "Wan 2.1 I2V 14B 720p, retention": _wan(
        _E0,
        (8.10705460e3, 2.13393892e3, -3.72934672e2, 1.66203073e1, -4.17769401e-2),
        *(0.0027, _FREE, 0.20, 0.30),
    ),
    "CogVideoX 2B": _cog(
        (-3.10658903e1, 2.54732368e1, -5.92380459, 1.75769064, -3.61568434e-3), 0.0021, 0.6606
    ),
    "CogVideoX 5B": _cog(
        (-1.53880483e3, 8.43202495e2, -1.34363087e2, 7.97131516, -5.23162339e-2), 0.0075, 0.33
    ),
    "CogVideoX 1.5 5B": _cog(
        (2.50210439e2, -1.65061612e2, 3.57804877e1, -7.81551492e-1, 3.58559703e-2), 0.0, _FREE, 0.3
    ),
    "CogVideoX 1.5 5B I2V": _cog(
        (1.22842302e2, -1.04088754e2, 2.62981677e1, -3.06009921e-1, 3.71213220e-2), 0.0, _FREE, 0.3
    ),
    "LTX-Video": Fit(
        "ltx",
        MODULATED_INPUT,
        (2.14700694e1, -1.28016453e1, 2.31279151, 7.92487521e-1, 9.69274326e-3),
        *(0.0, _FREE, 0.03, 0.05),
    ),
}
_RETAINED = ", retention"
AUTO, PLAIN, MEASURED = "auto", "none", "measured"
#: Where width does not tell: all CogVideoX have time embeddings of 512 channels.
_OF_FAMILY = {"cogvideox": "CogVideoX 5B", "ltx": "LTX-Video"}


@dataclass
class TeaState(Accumulated):
    """Run state of :class:`TeaCache`.

    Attributes:
        seen: what was seen in the round before, computed or not.
        refitted: polynomial of the connected profile; ``None``: it is not asked for.
    """

    seen: Look | None = None
    refitted: Fit | None = None


@dataclass(frozen=True)
class TeaCache(Accumulating):
    """Reuse while ``sum P(mean|m_t - m_t-1| / mean|m_t-1|) < threshold`` since the last evaluation.

    Source: Liu et al., "Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model"
    (arXiv 2411.19108), section 3.3; details as in its repository. ``m`` is the time embedding (Wan,
    CogVideoX), its projection (Wan with retention) or the modulated input of the first block
    (LTX-Video); ``P`` a polynomial fitted to a model (:data:`FITS`), kept to its range. ``m_t-1``
    is that of the round before, reused or not. On Wan and CogVideoX it depends on the noise levels
    alone, so that every clip gets the same schedule.

    Unlike the repository's: one decision a round, on the branch that leads (there: each branch for
    itself, or both halves of a batch together); means are taken in float32; LTX-Video's last norm
    and modulation run at every step (there they are part of what is reused).

    Args:
        threshold: largest expected relative change of the output; 0 computes everything.
        model: whose polynomial; ``"auto"``: by family and width; ``"none"``: the change as it is;
            ``"measured"``: fitted to the connected profile's runs, see :meth:`Fit.to`.
        retention: the authors' ``ret_steps``: the first tenth of the steps is computed and no last
            one; on Wan it goes by the time projection.
        place: what is kept: the stack's residual, as theirs, or the model's output.
    """

    name: ClassVar[str] = "teacache"
    title: ClassVar[str] = "TeaCache (accumulated change)"
    decides: ClassVar[str] = (
        "the change of the time embedding, or of what enters the first block, rescaled by a "
        "polynomial fitted to the model and accumulated since the last true evaluation, under a "
        "budget or a threshold (TeaCache). It keeps the block stack's residual"
    )
    looks: ClassVar[bool] = True
    threshold: float = field(
        default=0.1,
        metadata={
            "strictest": 0.0,
            "loose": 0.5,
            "min": 0.0,
            "max": 1.0,
            "step": 0.01,
            "help": "Largest accumulated change. Higher reuses more. The authors': Wan 1.3B 0.05 "
            "to 0.08, Wan 14B 0.14 to 0.2, CogVideoX 0.1 to 0.2, LTX-Video 0.03 to 0.05.",
        },
    )
    model: str = field(
        default=AUTO,
        metadata={
            "choices": (
                AUTO,
                PLAIN,
                MEASURED,
                *(name for name in FITS if not name.endswith(_RETAINED)),
            ),
            "help": "Which model's polynomial rescales the changes. auto goes by family and width; "
            "none takes them as they are, which models without a polynomial get, too; measured "
            "fits one to the connected profile's runs.",
        },
    )
    retention: bool = field(
        default=False,
        metadata={
            "help": "The authors' ret_steps mode: the first tenth of the steps is computed, the "
            "last one need not be, and Wan goes by another signal. Better on Wan 14B.",
        },
    )
    place: str = field(default=STACK.tap, metadata=PLACE)

    def __post_init__(self) -> None:
        if self.threshold < 0:
            raise ValueError(f"threshold must not be negative, as {self.threshold} is")
        self.check_choices()

    @classmethod
    def presets(cls) -> Mapping[str, Preset]:
        found = {}
        for name, fit in FITS.items():
            retention = name.endswith(_RETAINED)
            guards = Guards(5, 0, _ANY) if retention else Guards(1, 1, _ANY)
            for speed, threshold in {fit.fast: "fast", fit.slow: "slow"}.items():
                policy = cls(speed, name.removesuffix(_RETAINED), retention)
                note = f"TeaCache, repository, {name}: threshold {speed:g}."
                title = f"TeaCache {name} {threshold}"
                found[title] = Preset(fit.family, policy, Hold(), guards, note)
        return found

    @property
    def tap(self) -> str:
        return self.place

    @property
    def opening(self) -> float:
        return Policy.opening if self.retention else 0.0

    @property
    def rules(self) -> Mapping[str, ReuseRule]:
        return {STACK.tap: Hold()}

    def signal(self, family: Family) -> str:
        fit = self._fit(family)
        if fit is not None:
            return fit.signal
        if family.name == "wan" and self.retention and self.model != MEASURED:
            return TIME_PROJECTION
        return TIME_EMBEDDING if family.name in ("wan", "cogvideox") else MODULATED_INPUT

    def _fit(self, family: Family, width: int = 0) -> Fit | None:
        """The polynomial for a model of ``family`` whose signal has ``width`` channels."""
        if self.model in (PLAIN, MEASURED):
            return None
        if self.model != AUTO:
            return FITS.get(self.model + _RETAINED * self.retention, FITS[self.model])
        if family.name in _OF_FAMILY:
            return FITS[_OF_FAMILY[family.name]]
        fits = (f for name, f in FITS.items() if name.endswith(_RETAINED) == self.retention)
        return next((fit for fit in fits if fit.width == width != 0), None)

    def misfit(self, run: RunInfo) -> Message | None:
        fit = self._fit(run.family)
        if run.family.name == GENERIC.name:
            return Message.of("off.unknown_family", title="TeaCache")
        if fit is not None and fit.family != run.family.name:
            fitted = {"model": self.model, "family": run.family.title}
            return Message("off.polynomial_of_another", fitted)
        if self.model == MEASURED and run.slopes.changes() is None:
            return Message.of("off.polynomial_unmeasured")
        return None

    def own_guards(self, guards: Guards, default: Guards) -> Guards:
        if self.retention and guards.cooldown == default.cooldown:
            return replace(guards, cooldown=0)
        return guards

    def start(self, run: RunInfo) -> TeaState:
        known = run.slopes.changes() if self.model == MEASURED else None
        return TeaState(run, refitted=known and Fit.to(run.family, *known))

    def observe(self, step: Step, state: TeaState) -> TeaState:
        if step.look is not state.seen or step.look is None:
            self.grown(step, step, state)
        state.total = 0.0
        return state

    def grown(self, step: Step, last: Step, state: TeaState) -> float:
        """Expected change of the output since the round before."""
        before, now, t = state.seen, step.look, state.t
        state.seen, state.t = now, step.t
        change = change_of_looks(before, now)
        if change == math.inf:
            return change
        fit = state.refitted or self._fit(state.run.family, now.value.shape[-1])
        grown = min(change, _WHOLE) if fit is None else fit(change)
        state.added(grown, abs(step.t - t))
        return grown
