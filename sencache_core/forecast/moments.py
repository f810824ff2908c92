"""Second moments of a model's outputs along its trajectory: what every linear forecast errs by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

#: Added to the normal equations, relative to their diagonal: measured moments are an average over a
#: few samples, and near-collinear outputs must not turn that into large weights (ours).
RIDGE = 1e-4


@dataclass(frozen=True, eq=False)
class Moments:
    """Inner products of the guided outputs of a run, and how errors travel to its end.

    For a linear forecast with weights ``w`` that sum to 1 the mean square error is the quadratic
    form ``c G c`` with ``c = w - (1 at the wanted time)``: one matrix holds the error of every
    forecast from every set of past outputs. Kriging (Matheron 1963) calls this a covariance.

    Attributes:
        t: ``[T]`` float64, strictly rising.
        gram: ``[S, T, T]``, for each sample the mean over entries of ``y(t) y(s)``.
        gain: ``[S', T]``, RMS by which the final latent is off per RMS by which forecasts leave
            the latent off at ``t``. Positive.
        response: ``[S', T]``, change of the output along a displacement of the latent, per unit of
            it (a signed Rayleigh quotient of the Jacobian), outputs per latent. Both ``None`` if
            no error was followed: gain 1 and response 0 are taken.
        lead: ``[T, T]``, as ``gram``, of the conditional output alone, on which a session measures
            its errors; mean over samples.
        gap: ``[T, T]``, as ``gram``, of what guidance adds to the conditional output,
            ``(g - 1)(cond - uncond)``; mean over samples. ``None`` without a guidance pair.
        guidance: ``g``; 0: not known, or not one of all these.
    """

    t: np.ndarray
    gram: np.ndarray
    gain: np.ndarray | None = None
    response: np.ndarray | None = None
    lead: np.ndarray | None = None
    gap: np.ndarray | None = None
    guidance: float = 0.0

    def __post_init__(self) -> None:
        t, gram = self.t, self.gram
        if np.ndim(t) != 1 or not len(t) or (np.diff(t) <= 0).any():
            raise ValueError("the times of moments must be one strictly rising list")
        if np.ndim(gram) != 3 or gram.shape[1:] != (len(t), len(t)):
            raise ValueError(f"moments of {len(t)} times need matrices of that size")
        if (self.gain is None) != (self.response is None):
            raise ValueError("gain and response are measured together")
        curves = [] if self.gain is None else [self.gain, self.response]
        if any(np.ndim(c) != 2 or np.shape(c)[1] != len(t) for c in curves):
            raise ValueError(f"gain and response must be {len(t)} values long for each sample")
        for more in (self.lead, self.gap):
            if more is None:
                continue
            if np.shape(more) != gram.shape[1:]:
                raise ValueError(f"moments of {len(t)} times need matrices of that size")
            curves.append(more)
        if not all(np.isfinite(a).all() for a in (t, gram, *curves)):
            raise ValueError("moments must be finite")

    @cached_property
    def mean(self) -> np.ndarray:
        """``[T, T]``, averaged over samples."""
        return self.gram.mean(axis=0)

    @cached_property
    def _log_gain(self) -> np.ndarray:
        """``[S', T]``; one row of zeros if no error was followed."""
        gain = np.ones((1, len(self.t))) if self.gain is None else self.gain
        return np.log(np.maximum(gain, 1e-6))

    def at(self, times: Sequence[float]) -> np.ndarray:
        """``[S, n, n]`` at other times: outputs are taken as linear between measured ones."""
        return self._between(self.gram, times)

    def mean_at(self, times: Sequence[float]) -> np.ndarray:
        """``[n, n]``, averaged over samples."""
        return self._between(self.mean, times)

    def lead_at(self, times: Sequence[float]) -> np.ndarray:
        """``[n, n]`` of the leading branch; of the guided output where that is all there is."""
        return self._between(self.mean if self.lead is None else self.lead, times)

    def of_gap(self) -> Moments | None:
        """Those of the difference that guidance adds, for a rule to be bound to."""
        return None if self.gap is None else Moments(self.t, self.gap[None])

    def likeness_at(self, times: Sequence[float]) -> np.ndarray | None:
        """``[n, n]`` cosine between the changes of both branches' outputs from one time to another.

        Where nothing changes it is 1. ``None`` where the pairs are not known.
        """
        if self.lead is None or self.gap is None or self.guidance in (0.0, 1.0):
            return None

        def change(gram: np.ndarray) -> np.ndarray:
            own = gram.diagonal()
            return own[:, None] + own - gram - gram.T

        # The conditional output c and the gap d = (g - 1)(c - u) make the guided output c + d.
        scale = 1 / (self.guidance - 1)
        guided, lead, gap = (
            change(self._between(gram, times)) for gram in (self.mean, self.lead, self.gap)
        )
        both = (guided - lead - gap) / 2
        product, other = lead - scale * both, lead - 2 * scale * both + scale**2 * gap
        size = np.sqrt(np.maximum(lead, 0) * np.maximum(other, 0))
        known = size > 1e-12
        return np.where(known, np.clip(product / np.where(known, size, 1), -1, 1), 1.0)

    def gain_at(self, t: float) -> float:
        """Terminal sensitivity at ``t``: geometric mean over samples, linear in log between."""
        return float(np.exp(np.interp(t, self.t, self._log_gain.mean(axis=0))))

    def gains_at(self, times: Sequence[float]) -> np.ndarray:
        """``[S, n]`` for each sample: its own where it was probed, else :meth:`gain_at`."""
        samples, own = len(self.gram), list(self._log_gain)
        curves = [*own, *[self._log_gain.mean(axis=0)] * (samples - len(own))][:samples]
        return np.exp([np.interp(times, self.t, curve) for curve in curves])

    def response_at(self, t: float) -> float:
        """Mean response at ``t``, linear between measured times."""
        if self.response is None:
            return 0.0
        return float(np.interp(t, self.t, self.response.mean(axis=0)))

    def _between(self, matrix: np.ndarray, times: Sequence[float]) -> np.ndarray:
        """``[..., n, n]`` of ``[..., T, T]``."""
        spread = self._spread(times)
        return spread @ matrix @ spread.T

    def _spread(self, times: Sequence[float]) -> np.ndarray:
        """``[n, T]`` weights of linear interpolation, held outside the measured range."""
        wanted = np.clip(np.asarray(times, dtype=np.float64), self.t[0], self.t[-1])
        above = np.clip(np.searchsorted(self.t, wanted), 1, max(len(self.t) - 1, 1))
        spread = np.zeros((len(wanted), len(self.t)))
        if len(self.t) == 1:
            return spread + 1.0
        rows = np.arange(len(wanted))
        share = (wanted - self.t[above - 1]) / (self.t[above] - self.t[above - 1])
        spread[rows, above - 1], spread[rows, above] = 1 - share, share
        return spread


def fitted_weights(gram: np.ndarray, known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Weights of the affine forecasts with the least mean square error.

    A forecast is the newest known output plus multiples of the steps between known ones, so that
    its weights sum to 1: with two known outputs it is the linear forecast, damped as the moments
    ask for; with ``known`` on both sides of ``wanted`` it interpolates.

    Args:
        gram: ``[n, n]`` moments.
        known: ``[..., m]`` rows of the known outputs, the newest last.
        wanted: ``[..., K]`` rows of the outputs that are asked for, all from the same known ones.

    Returns:
        ``[..., K, m]`` float64.
    """
    count = known.shape[-1]
    hold = np.zeros((*wanted.shape, count))
    hold[..., -1] = 1.0
    if count == 1:
        return hold
    inner = gram[known[..., :, None], known[..., None, :]]
    target = gram[known[..., None, :], wanted[..., :, None]] - inner[..., None, :, -1]
    steps = np.eye(count)[1:] - np.eye(count)[:-1]  # each known output minus the one before it
    normal = steps @ inner @ steps.T
    size = np.diagonal(normal, axis1=-2, axis2=-1)
    floor = RIDGE * size + 1e-12 * inner[..., -1, -1][..., None] + 1e-300  # nothing moved: hold
    slopes = np.linalg.solve(
        normal + floor[..., None] * np.eye(count - 1), np.swapaxes(target @ steps.T, -1, -2)
    )
    return hold + np.swapaxes(slopes, -1, -2) @ steps
