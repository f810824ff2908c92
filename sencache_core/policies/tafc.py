"""TAFC: extrapolate while the line's own error, measured and controlled, stays within bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import ClassVar

import torch
from torch import Tensor

from ..forecast.reuse import ReuseRule, Tangent
from ..types import OUTPUT, STACK, Step, same_time
from .accumulating import PLACE
from .base import Guards, Preset, RunInfo
from .threshold import Threshold

# All constants: TAFC's repository, in which Wan, HunyuanVideo and FLUX share them.
#: Threshold on the curvature and longest run, as multiples of their setting and of 1: at the start
#: of a run, and how much they grow to its end.
EARLY, GROWS, CAP, CAP_GROWS = 0.7, 1.3, 1.0, 6.0
#: Error of a forecast that is allowed before, and aimed at after, in errors of one step ahead.
REJECT, TOLERATED = 3.0, 2.5
#: The controller's proportional, integral and derivative gains, and its bounds.
KP, KI, KD, LEAST_GAIN, MOST_GAIN, MOST_INTEGRAL = 0.4, 0.05, 0.2, 0.3, 3.0, 2.0
#: How hard a rising curvature brakes, and by how much at most.
BRAKE, LEAST_BRAKE = 2.0, 0.3
#: One-step errors remembered, and what keeps quotients finite.
WINDOW, TINY = 8, 1e-8
#: Longest run of the presets: TAFC's own cap rules.
_ANY = 10_000


@dataclass
class TafcState:
    """Run state of :class:`Tafc`.

    Attributes:
        run: what is known of the run.
        newest, before: sketches ``[B, n]`` of the leading branch's last two true payloads.
        t: time coordinate of the newest.
        way: distance in time between the two; 0: there is one.
        ordinal: round of the newest.
        curvature: of the last two.
        slope: relative change of the payload per unit of time.
        bent, bent_at, growth: the curvature that was last decided by, its round, and by how much it
            had grown a step since the one before.
        before_errors, after_errors: expected and measured errors of forecasts one step ahead.
        free: round that the policy, not a guard, was last asked about with all of this known.
        log_gain, integral, error: of the controller.
    """

    run: RunInfo
    newest: Tensor | None = None
    before: Tensor | None = None
    t: float = 0.0
    way: float = 0.0
    ordinal: int = -1
    curvature: float = 0.0
    slope: float = 0.0
    bent: float | None = None
    bent_at: int = -1
    growth: float = 0.0
    before_errors: tuple[float, ...] = ()
    after_errors: tuple[float, ...] = ()
    free: int = -1
    log_gain: float = 0.0
    integral: float = 0.0
    error: float | None = None

    @property
    def loose(self) -> float:
        """What limits are multiplied with: the controller's gain, braked where curvature rises."""
        brake = max(LEAST_BRAKE, 1 / (1 + BRAKE * max(0.0, self.growth)))
        return math.exp(self.log_gain) * brake

    @property
    def allowed(self) -> float:
        """Relative error that a forecast may be expected to have."""
        return median(self.before_errors) * REJECT * self.loose


@dataclass(frozen=True)
class Tafc(Threshold):
    """Reuse while the curvature, the way of the forecast and the run of reuse are within bounds.

    Source: TAFC, "Target-Anchored Flow Caching" (bijiw515/TAFC, repository, September 2026). Of the
    last two true residuals ``a`` and ``b`` of the block stack, whose line goes on (``Tangent``), at
    share ``s`` of the steps: the curvature ``| |b| - |a| | / |a| + 2 (1 - cos(a, b))`` must stay
    below ``threshold (0.7 + 1.3 s) G``, the forecast's expected relative change ``mean|b - a| /
    mean|b| * h / (t_a - t_b)`` over the way ``h`` below ``3 m G``, and fewer than ``1 + 6 s``
    rounds have been reused. ``m`` is the median of that change one step ahead, taken at the first
    steps, which are computed. ``G`` is a gain times a brake: after each run of reuse a PID
    controller moves the gain's logarithm by the logarithm of 2.5 times the median error one step
    ahead over the measured error; the brake is ``1 / (1 + 2 g)``, at least 0.3, where the curvature
    has grown by ``g`` a step.

    The score is the curvature, or ``threshold`` times the worst of the other two shares of their
    bounds, if larger: a budget scales all three together.

    Unlike the repository's: the leading branch decides for all, and has the only controller (there
    each branch has one, and what either wants computed is); figures are taken over a sketch of the
    residual; where forecasts have measured worse than holding, the last residual is held.

    Args:
        threshold: largest curvature, before it is scaled; 0 computes everything.
        place: what is kept: the stack's residual, as theirs, or the model's output.
    """

    name: ClassVar[str] = "tafc"
    title: ClassVar[str] = "TAFC (curvature and measured error)"
    decides: ClassVar[str] = (
        "how much the block stack's residual turns, how far its line would go on, and how well "
        "that has worked so far, by a controller, under a budget or a threshold (TAFC). It keeps "
        "the last two residuals"
    )
    #: The first evaluation alone; those that it takes its measures at it asks for itself.
    opening: ClassVar[float] = 0.0
    learns: ClassVar[bool] = True
    reads_outputs: ClassVar[bool] = True
    threshold: float = field(
        default=0.05,
        metadata={
            "strictest": 0.0,
            "loose": 0.3,
            "min": 0.0,
            "max": 3.0,
            "step": 0.01,
            "help": "Largest curvature of the residuals' course, early in a run; late ones may be "
            "three times as large. Higher reuses more. The authors': Wan 0.03 and 0.15.",
        },
    )
    place: str = field(default=STACK.tap, metadata=PLACE)

    def __post_init__(self) -> None:
        if self.threshold < 0:
            raise ValueError(f"threshold must not be negative, as {self.threshold} is")
        self.check_choices()

    @classmethod
    def presets(cls) -> Mapping[str, Preset]:
        note = "TAFC, repository, Wan 2.1: threshold {:g}."
        return {
            f"TAFC Wan 2.1 {speed}": Preset(
                "wan", cls(threshold), Tangent(), Guards(1, 1, _ANY), note.format(threshold)
            )
            for speed, threshold in {"slow": 0.03, "fast": 0.15}.items()
        }

    @property
    def tap(self) -> str:
        return self.place

    @property
    def rules(self) -> Mapping[str, ReuseRule]:
        return {STACK.tap: Tangent(), OUTPUT.tap: Tangent()}

    def with_tolerance(self, tolerance: float) -> Tafc:
        return replace(self, threshold=tolerance)

    def start(self, run: RunInfo) -> TafcState:
        return TafcState(run)

    def limit(self, share: float) -> float:
        return self.threshold

    def score(self, step: Step, last: Step, state: TafcState) -> float:
        if same_time(step.t, last.t):
            return 0.0
        if not state.before_errors:
            return math.inf
        state.free = step.ordinal
        if state.bent_at != state.ordinal:
            if state.bent is not None:
                grown = (state.curvature - state.bent) / max(state.bent, TINY)
                state.growth = grown / max(1, state.ordinal - state.bent_at)
            state.bent, state.bent_at = state.curvature, state.ordinal
        return self._score(step.index, step.streak, abs(step.t - state.t), state)

    def expected(self, last_t: float, t: float, state: TafcState) -> float:
        if not state.before_errors:
            return abs(t - last_t)
        times = state.run.times
        since = [k for k, time in enumerate(times) if last_t > time >= t]
        index = state.run.schedule.steps()[since[-1]] if since else 0
        return self._score(index, max(len(since) - 1, 0), abs(t - last_t), state)

    def _score(self, index: int, streak: int, way: float, state: TafcState) -> float:
        """The score at step ``index``, after ``streak`` reuses, ``way`` from the newest payload."""
        share = index / max(1, state.run.schedule.num_steps - 1)
        turned = state.curvature / (EARLY + GROWS * share) / state.loose
        gone = state.slope * way / max(state.allowed, TINY)
        return max(turned, self.threshold * max(gone, streak / (CAP + CAP_GROWS * share)))

    def observe(self, step: Step, state: TafcState) -> TafcState:
        now, known, gap = step.output, state.newest, step.ordinal - state.ordinal
        if now is None or (known is not None and known.shape != now.shape):
            return TafcState(state.run)
        way = abs(step.t - state.t)
        if known is not None and same_time(step.t, state.t):
            return state
        if known is not None:
            figures = _figures(state.before, known, now, way / state.way if state.way else 0.0)
            state.curvature, change, ahead, error = figures
            forced = state.free != step.ordinal
            if state.before is not None and gap == 1 and forced:
                state.before_errors = (*state.before_errors, max(ahead, TINY))[-WINDOW:]
                state.after_errors = (*state.after_errors, max(error, TINY))[-WINDOW:]
            elif state.before is not None and gap > 1:
                self._control(error, state)
            state.slope = change / way
            state.way = way
        state.before, state.newest = known, now
        state.t, state.ordinal = step.t, step.ordinal
        return state

    def _control(self, error: float, state: TafcState) -> None:
        """Move the gain by the measured ``error`` of a forecast that was used."""
        if not state.after_errors or not math.isfinite(error):
            return
        off = math.log(TOLERATED * median(state.after_errors) / max(error, 1e-12))
        rise = 0.0 if state.error is None else off - state.error
        integral = state.integral + off
        wanted = state.log_gain + KP * off + KI * integral + KD * rise
        state.log_gain = min(max(wanted, math.log(LEAST_GAIN)), math.log(MOST_GAIN))
        if state.log_gain == wanted:  # at a bound the integral would wind up
            state.integral = min(max(integral, -MOST_INTEGRAL), MOST_INTEGRAL)
        state.error = off


def _figures(
    before: Tensor | None, known: Tensor, now: Tensor, ahead: float
) -> tuple[float, float, float, float]:
    """What the newest payload shows, each ``[B, n]`` float32. One device sync.

    Args:
        before, known, now: the last three payloads, the oldest may be missing.
        ahead: way from ``known`` to ``now`` over that from ``before`` to ``known``.

    Returns:
        Curvature from ``known`` to ``now``; their relative change; what a forecast from the two
        before would have changed ``known`` by, relative to it, and erred by, relative to ``now``.
    """
    sizes = known.norm(dim=1) + TINY, now.norm(dim=1) + TINY
    cosine = ((known * now).sum(dim=1) / (sizes[0] * sizes[1] + TINY)).clamp(-1, 1)
    bent = ((sizes[1] - sizes[0]).abs() / sizes[0]).mean() + 2 * (1 - cosine).mean()
    size = now.abs().mean() + TINY
    line = torch.zeros_like(known) if before is None else (known - before) * ahead
    change = (now - known).abs().mean() / size
    moved = line.abs().mean() / (known.abs().mean() + TINY)
    error = (now - known - line).abs().mean() / size
    return tuple(torch.stack([bent, change, moved, error]).tolist())
