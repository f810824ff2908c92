"""Measure a profile on the trajectory that the sampler really takes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .policies import RunInfo
from .profile import Recording
from .reuse import Hold, Linear, Quadratic
from .session import EvaluateAt
from .stats import RunReport, StepRecord
from .types import Anchor, Branch, Decision, Reason, displacement, rms, sketch

#: Longest distance in rounds at which forecast errors are measured.
MAX_LAG = 4
_RULES = {"error_hold": Hold(), "error_linear": Linear(), "error_quadratic": Quadratic()}


class Recorder:
    """A runner that never reuses. Costs one extra evaluation of the leading branch per round.

    Between the rounds (x0, t0) and (x1, t1) it also asks for f(x1, t0). Then, in RMS,
    ``alpha_x = |f(x1,t0) - f(x0,t0)| / |x1 - x0|`` and ``alpha_t = |f(x1,t1) - f(x1,t0)| / |t1-t0|``:
    the paper's directional secants, with the sampler's own step as the direction and one extra
    evaluation instead of three.
    """

    def __init__(self, run: RunInfo, report: RunReport) -> None:
        self.run, self.report = run, report
        self._leader: Branch | None = None
        # Three anchors MAX_LAG apart are the most that any rule at any lag reads.
        self._past: deque[Anchor] = deque(maxlen=2 * MAX_LAG + MAX_LAG)
        self._previous: tuple[tuple[Tensor, ...], float, float] | None = None
        self._now: tuple[tuple[Tensor, ...], float, float] | None = None
        self._rows: list[tuple[float, dict[str, Tensor | list]]] = []
        self._started = 0.0

    def begin(self, x: Sequence[Tensor], sigma: float) -> Decision:
        self._close_round()
        family = self.run.family
        sketches = tuple(sketch(part) for part in x)
        if family.scale_free:
            sketches = tuple(s / rms(s).clamp_min(1e-12) for s in sketches)
        t = family.time(sigma)
        self._now = (sketches, sigma, t)
        record = StepRecord(
            ordinal=len(self.report.steps),
            step=self.run.schedule.locate(sigma),
            sigma=sigma,
            t=t,
            decision="computed",
            reason="calibration",
        )
        self.report.steps.append(record)
        self._started = time.perf_counter()
        return Decision(False, Reason.OFF)

    def predict(self, branches: Sequence[Branch], shape: Sequence[int]) -> None:
        return None

    def observe(self, branches: Sequence[Branch], y: Tensor, evaluate_at: EvaluateAt) -> None:
        self.report.calls += 1
        self.report.steps[-1].calls += 1
        if self._leader is None:
            self._leader = next((b for b in branches if b.role == "cond"), None)
        if self._leader not in branches:
            return
        x1, _, t1 = self._now
        position = list(branches).index(self._leader)
        chunks = len(branches)
        truth = y.chunk(chunks)[position].clone()
        if self._previous is not None:
            x0, sigma0, t0 = self._previous
            dx = displacement(x1, x0)
            dt = abs(t1 - t0)
            if dt > 1e-9 and dx > 0 and self._past[-1].y.shape == truth.shape:
                between = evaluate_at(sigma0).chunk(chunks)[position].float()
                self.report.calls += 1
                before, now = self._past[-1].y.float(), truth.float()
                size = rms(now).clamp_min(1e-12)
                curves: dict[str, Tensor | list] = {
                    "alpha_x": rms(between - before) / dx,
                    "alpha_t": rms(now - between) / dt,
                    "speed": torch.as_tensor(dx / dt, device=size.device),
                    "output_rms": size,
                    "ratio": size / rms(before).clamp_min(1e-12),
                }
                for name, rule in _RULES.items():
                    curves[name] = [self._error(rule, lag, now, t1, size) for lag in _lags()]
                self._rows.append((t0, curves))
        if self._past and abs(self._past[-1].t - t1) < 1e-9:
            self._past.pop()
        self._past.append(Anchor(t1, truth))

    def _error(self, rule, lag: int, truth: Tensor, t: float, size: Tensor) -> Tensor:
        """Relative error of a forecast over ``lag`` rounds from outputs ``lag`` rounds apart."""
        picked = list(self._past)[::-1][lag - 1 :: lag][: rule.history][::-1]
        if len(picked) < rule.history:
            return torch.full_like(size, float("nan"))
        return rms(rule.predict(t, picked).float() - truth) / size

    def _close_round(self) -> None:
        if self._now is not None:
            self.report.steps[-1].seconds = time.perf_counter() - self._started
            self._previous, self._now = self._now, None

    def finish(self, completed: bool) -> RunReport:
        self._close_round()
        self._past.clear()
        self._previous = None
        self.report.completed = completed
        return self.report

    def recording(self) -> Recording:
        """What was measured, as plain arrays. One device-to-host copy per curve."""
        names = self._rows[0][1] if self._rows else ()
        curves = {}
        for name in names:
            rows = [row[name] for _, row in self._rows]
            stacked = [torch.stack(r) if isinstance(r, list) else r for r in rows]
            curves[name] = torch.stack(stacked).double().cpu().numpy()
        times = [t for t, _ in self._rows]
        # Samplers that go back up visit a time twice; a table needs each once: the first visit.
        keep = np.sort(np.unique(np.round(times, 9), return_index=True)[1]) if times else []
        return Recording(
            tuple(times[k] for k in keep), {n: c[keep] for n, c in curves.items()}
        )


def _lags() -> range:
    return range(1, MAX_LAG + 1)
