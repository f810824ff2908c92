"""RA-CFGCache: a branch's score, weighed by what guidance and the rest of the run make of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ..forecast.reuse import Hold, ReuseRule
from ..model.families import Family
from ..model.signals import TIME_PROJECTION
from ..types import STACK, Step
from ..words import Message
from .accumulating import PLACE, Accumulated, Accumulating
from .base import Guards, Preset, Prior, RunInfo
from .easycache import RULE, EasyCache
from .seacache import SeaCache
from .teacache import AUTO, TeaCache

#: Scale of guidance where nobody tells it: the authors' on Wan 2.1.
GUIDANCE = 5.0
#: Likeness of both branches' changes where it was not measured (ours): the bundled models', from
#: the second tenth of a run on, lie at 0.72 to 0.99.
LIKENESS = 0.9
#: Published weights of steps, ``A x^alpha + b`` over their mean, by model: A, alpha, b.
WEIGHTS = {"Wan 2.1 1.3B": (1.214, 3.832, 0.2463), "CogVideoX 2B": (2.185, 3.449, 0.213)}
_OF_FAMILY = {"wan": "Wan 2.1 1.3B", "cogvideox": "CogVideoX 2B"}
MEASURED, EVEN = "measured", "none"
#: Longest run of the presets: RA-CFGCache has no limit of its own.
_ANY = 10_000


def guided_error(cond: float, uncond: float, likeness: float, scale: float) -> float:
    """Error of the guided output ``(1 - s) u + s c``, given those of its branches.

    RA-CFGCache (arXiv 2609.36433): ``sqrt((1 - s)^2 e_u^2 + s^2 e_c^2 + 2 s (1 - s) rho e_u e_c)``.

    Args:
        cond, uncond: ``e_c`` and ``e_u``.
        likeness: ``rho``, cosine between the two.
        scale: ``s``.
    """
    own = ((1 - scale) * uncond) ** 2 + (scale * cond) ** 2
    return math.sqrt(max(0.0, own + 2 * scale * (1 - scale) * likeness * uncond * cond))


def step_weights(model: str, count: int) -> list[float]:
    """By step: error of the final clip per error of the guided output there, over their mean."""
    factor, power, least = WEIGHTS[model]
    raw = [factor * ((count - 1 - k) / max(count - 1, 1)) ** power + least for k in range(count)]
    return [weight * count / sum(raw) for weight in raw]


@dataclass
class RiskState(Accumulated):
    """Run state of :class:`RACFGCache`.

    Attributes:
        inner: state of the score inside, as the last true evaluation has left it.
        rounds: ``[n]`` time coordinates of the expected rounds.
        likeness: ``[n, n]`` by the rounds of an evaluation and of its reuse; ``None``: one for all.
        weights: by step.
        scale: of guidance.
    """

    inner: Any = None
    rounds: Sequence[float] = ()
    likeness: np.ndarray | None = None
    weights: Sequence[float] = ()
    scale: float = 1.0

    def place(self, t: float) -> int:
        """The expected round that is nearest to ``t``."""
        return int(np.abs(np.subtract(self.rounds, t)).argmin())


@dataclass(frozen=True)
class RACFGCache(Accumulating):
    """Reuse while ``sum g(t) d(t) < threshold``: errors of the guided output, by what they lead to.

    Source: RA-CFGCache (arXiv 2609.36433; formulas and constants of its repository). ``d`` composes
    the errors of both branches as guidance does (:func:`guided_error`), ``g`` is how much an error
    at that step shows in the clip. A branch's error is what another score says has changed since
    the last true evaluation: theirs is TeaCache's, rescaled by its polynomial; SeaCache's and
    EasyCache's do as well.

    All three look at what both branches share, so that ``e_c = e_u = e`` and
    ``d = e sqrt(1 + 2 s (s - 1) (1 - rho))``: with TeaCache on Wan and CogVideoX one schedule for
    all clips. ``rho(a, t)``, the cosine between the branches' changes from the evaluation at ``a``
    to ``t``, follows from the moments of a profile or of the bundled models: of their outputs
    (theirs: of outputs less latents, in tables of their own). Measured ``g`` is the moments' gain
    times the step's length.

    Unlike the repository's: a polynomial is kept to its range (there its negative values count as
    0, its largest as they are); on CogVideoX the residual is held (there the last feature).

    Args:
        threshold: largest accumulated risk; 0 computes everything.
        inner: whose score tells a branch's error.
        model: TeaCache's polynomial, see there.
        projection: TeaCache looks at the time projection, whatever its polynomial was fitted to.
            The repository does so on Wan, with a polynomial of the time embedding.
        guidance: ``s``; 0: the run's own.
        likeness: ``rho``; 0: measured.
        weight: whose ``g``; ``"auto"``: the family's, else measured.
        place: what is kept: the stack's residual, as theirs, or the model's output.
    """

    name: ClassVar[str] = "ra_cfgcache"
    title: ClassVar[str] = "RA-CFGCache (risk of the guided output)"
    decides: ClassVar[str] = (
        "what guidance makes of a branch's change, by TeaCache's, SeaCache's or EasyCache's score, "
        "and how much an error at that step shows in the clip, accumulated since the last true "
        "evaluation, under a budget or a threshold (RA-CFGCache). It keeps the block stack's "
        "residual"
    )
    opening: ClassVar[float] = 0.0
    threshold: float = field(
        default=0.4,
        metadata={
            "strictest": 0.0,
            "loose": 1.0,
            "min": 0.0,
            "max": 10.0,
            "step": 0.05,
            "help": "Largest accumulated risk. Higher reuses more. The authors': Wan 0.4 and 0.6, "
            "CogVideoX 0.6 and 1.4.",
        },
    )
    inner: str = field(
        default=TeaCache.name,
        metadata={
            "choices": (TeaCache.name, SeaCache.name, EasyCache.name),
            "help": "Whose score tells how far each branch would be off. teacache is the authors'.",
        },
    )
    model: str = field(
        default=AUTO,
        metadata={
            "choices": TeaCache.__dataclass_fields__["model"].metadata["choices"],
            "help": "Which model's polynomial rescales TeaCache's changes; auto goes by family and "
            "width. Without a meaning for the other scores.",
        },
    )
    projection: bool = field(
        default=False,
        metadata={
            "help": "Look at the time projection with whatever polynomial, as the authors' code "
            "does on Wan. Off: at what the polynomial was fitted to."
        },
    )
    guidance: float = field(
        default=0.0,
        metadata={
            "min": 0.0,
            "max": 30.0,
            "step": 0.1,
            "help": "Scale of guidance to weigh both branches by. 0: the one that the clip is "
            "sampled with, or 5 where that is not known. Higher reuses less.",
        },
    )
    likeness: float = field(
        default=0.0,
        metadata={
            "min": 0.0,
            "max": 1.0,
            "step": 0.01,
            "help": "How alike both branches change, 1 being the same. 0: as the connected profile "
            "or the bundled models have it. Higher reuses more.",
        },
    )
    weight: str = field(
        default=AUTO,
        metadata={
            "choices": (AUTO, *WEIGHTS, MEASURED, EVEN),
            "help": "How much errors count by step. auto: as published for the family, else "
            "measured; measured: by the profile or the bundled models; none: all alike.",
        },
    )
    place: str = field(default=STACK.tap, metadata=PLACE)

    def __post_init__(self) -> None:
        if self.threshold < 0 or self.guidance < 0:
            raise ValueError("threshold and guidance must not be negative")
        if not 0 <= self.likeness <= 1:
            raise ValueError(f"likeness must lie in 0..1, not {self.likeness}")
        self.check_choices()

    @classmethod
    def presets(cls) -> Mapping[str, Preset]:
        wan = {"model": "Wan 2.1 T2V 1.3B", "weight": "Wan 2.1 1.3B"}
        cog = {"model": "CogVideoX 2B", "weight": "CogVideoX 2B"}
        points = {
            "Wan 2.1 1.3B": ("wan", wan | {"projection": True}, 0.4, 0.6),
            "Wan 2.1 1.3B, matched": ("wan", wan, 0.4, 0.6),
            "CogVideoX 2B": ("cogvideox", cog, 0.6, 1.4),
        }
        found = {}
        for name, (family, settings, *thresholds) in points.items():
            for speed, threshold in zip(("slow", "fast"), thresholds, strict=True):
                note = f"RA-CFGCache, repository, {name}: {threshold:g}; rho as measured here."
                policy, guards = cls(threshold, **settings), Guards(1, 0, _ANY)
                found[f"RA-CFGCache {name} {speed}"] = Preset(family, policy, Hold(), guards, note)
        return found

    @property
    def score_inside(self) -> Accumulating:
        """The policy whose score it is."""
        if self.inner == TeaCache.name:
            return TeaCache(model=self.model)
        return SeaCache() if self.inner == SeaCache.name else EasyCache(payload=RULE)

    @property
    def tap(self) -> str:
        return self.place

    @property
    def looks(self) -> bool:
        return self.score_inside.looks

    @property
    def enters(self) -> bool:
        return self.score_inside.enters

    @property
    def reads_outputs(self) -> bool:
        return self.score_inside.reads_outputs

    @property
    def rules(self) -> Mapping[str, ReuseRule]:
        return {STACK.tap: Hold()}

    def signal(self, family: Family) -> str:
        own = self.score_inside.signal(family)
        instead = self.projection and self.inner == TeaCache.name and family.name == "wan"
        return TIME_PROJECTION if instead else own

    def misfit(self, run: RunInfo) -> Message | None:
        return self.score_inside.misfit(run)

    def start(self, run: RunInfo) -> RiskState:
        moments, likeness = run.moments, None
        if moments is not None and not self.likeness:
            likeness = moments.likeness_at(run.times)
        profiled = moments is not None and not isinstance(run.slopes, Prior)
        known = moments.guidance if profiled else 0.0
        scale = self.guidance or run.guidance or known or GUIDANCE
        return RiskState(
            run,
            inner=self.score_inside.start(run),
            rounds=run.times,
            likeness=likeness,
            weights=self._weights(run),
            scale=scale if run.guided else 1.0,
        )

    def _weights(self, run: RunInfo) -> Sequence[float]:
        """By step."""
        count, known = run.schedule.num_steps, run.moments is not None
        name = self.weight
        if name == AUTO:
            name = _OF_FAMILY.get(run.family.name, MEASURED if known else EVEN)
        if name in WEIGHTS:
            return step_weights(name, count)
        if name == EVEN or not known:
            return [1.0] * count
        times = [run.family.time(sigma) for sigma in run.schedule.sigmas]
        ways = [abs(a - b) for a, b in zip(times[:-1], times[1:], strict=True)]
        raw = [run.moments.gain_at(t) * way for t, way in zip(times[:-1], ways, strict=True)]
        return [weight * count / sum(raw) for weight in raw]

    def grown(self, step: Step, last: Step, state: RiskState) -> float:
        """What reusing ``last``'s outputs at ``step`` adds to the risk."""
        error = self.score_inside.grown(step, last, copy(state.inner))
        if not math.isfinite(error):
            return math.inf
        state.added(error, abs(step.t - last.t))
        return error * self._risk(state.place(last.t), state.place(step.t), step.index, state)

    def _risk(self, known: int, wanted: int, index: int, state: RiskState) -> float:
        """Risk per error of a branch: at round ``wanted``, step ``index``, by outputs of ``known``.

        Both rounds are expected ones.
        """
        likeness = self.likeness or LIKENESS
        if state.likeness is not None:
            likeness = float(state.likeness[known, wanted])
        weight = state.weights[min(index, len(state.weights) - 1)]
        return weight * guided_error(1.0, 1.0, likeness, state.scale)

    def observe(self, step: Step, state: RiskState) -> RiskState:
        state.inner = self.score_inside.observe(step, state.inner)
        state.total = 0.0
        return state

    def expected(self, last_t: float, t: float, state: RiskState) -> float:
        known, steps = state.place(last_t), state.run.schedule.steps()
        between = [k for k, time in enumerate(state.rounds) if last_t > time >= t]
        ways = (last_t - state.rounds[k] for k in between)
        risks = (self._risk(known, k, steps[k], state) for k in between)
        total = sum(way * risk for way, risk in zip(ways, risks, strict=True))
        return (state.rate or 1.0) * total
