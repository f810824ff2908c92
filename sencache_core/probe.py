"""Measure how an error made at one round travels to the end of a run: replay, perturb, run on."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .families import Family
from .session import EvaluateAt, read_round, sketch_latent
from .stats import RunReport, StepRecord
from .types import Branch, Decision, Reason, rms, sketch

#: RMS by which a probe displaces the latent, of a latent of RMS 1 (ours): large against rounding
#: in 16 bits, small against the curvature of the trajectory.
DISPLACEMENT = 0.02


class Seen(NamedTuple):
    """One round of a recorded run.

    Attributes:
        x: sketch of the latent, per modality.
        sigma, t: noise level and time coordinate.
        guided: sketch of the guided output ``[B, n]`` float32, ``None`` if none was seen.
        lead: the same of the leading branch's.
        outputs: payload by branch in main memory, empty unless the run was kept for probes.
    """

    x: tuple[Tensor, ...]
    sigma: float
    t: float
    guided: Tensor | None
    lead: Tensor | None
    outputs: dict[Branch, Tensor]


class Travel(NamedTuple):
    """What one probe found at the round after its error.

    Attributes:
        t: time coordinate there.
        gain: RMS of the change of the final latent per RMS of the latent's displacement there.
        response: change of the guided output along the displacement, per unit of it.
    """

    t: float
    gain: float
    response: float


def guided(outputs: dict, guidance: float | None):
    """Guided output of one value per role: ``u + g (c - u)``, or ``c`` without a pair or ``g``."""
    roles = {branch.role: value for branch, value in reversed(outputs.items())}
    cond, uncond = roles.get("cond"), roles.get("uncond")
    if cond is None:
        return None
    if uncond is None or guidance is None or uncond.shape != cond.shape:
        return cond
    return uncond + guidance * (cond - uncond)


class Probe:
    """A runner that repeats a recorded run up to ``at``, errs there, and lets the model go on.

    The error points where a forecast would have erred: the half-damped line through the two guided
    outputs before, minus the true one. Every branch errs alike, so the guided output does too.
    Costs the evaluations after ``at``.

    Args:
        family: the model's row.
        seen: the rounds of the recorded run, outputs kept.
        guidance: its guidance scale, ``None`` if unknown.
        at: round to err at, with at least one round after it.
        report: filled as the run goes.
    """

    def __init__(
        self,
        family: Family,
        seen: Sequence[Seen],
        guidance: float | None,
        at: int,
        report: RunReport,
    ) -> None:
        self.family, self.guidance, self.at, self.report = family, guidance, at, report
        self._seen = seen
        self._error = self._direction()
        self._x: tuple[Tensor, ...] = ()
        self._displaced: Tensor | None = None
        self._response: Tensor | None = None
        self._outputs: dict[Branch, Tensor] = {}
        self._same = True
        self._started = time.perf_counter()

    def _direction(self) -> Tensor:
        past = [
            guided({b: y.float() for b, y in self._seen[k].outputs.items()}, self.guidance)
            for k in range(max(0, self.at - 2), max(self.at, 1) + 1)
        ]
        truth = past[-1]
        error = past[0] - truth if len(past) < 3 else past[1] + (past[1] - past[0]) / 2 - truth
        now, after = self._seen[self.at], self._seen[self.at + 1]
        moved = _norm(_flat(after.x) - _flat(now.x)) / math.sqrt(_flat(now.x).numel())
        size = DISPLACEMENT * float(rms(truth)) / max(float(moved), 1e-12)
        return error * (size / max(float(rms(error)), 1e-12))

    @property
    def _ordinal(self) -> int:
        return len(self.report.steps) - 1

    def begin(self, x: Sequence[Tensor], sigma: float | Tensor) -> Decision:
        self._close_round()
        self._x = sketch_latent(x, self.family)
        sigma, _ = read_round(sigma, self._x, None)
        now = time.perf_counter()
        if self.report.steps:
            self.report.steps[-1].seconds = now - self._started
        self._started = now
        ordinal = len(self.report.steps)
        replay = ordinal <= self.at
        record = StepRecord(
            ordinal=ordinal,
            step=ordinal,
            sigma=sigma,
            t=self.family.time(sigma),
            decision="reused" if replay else "computed",
            reason="calibration",
        )
        self.report.steps.append(record)
        if ordinal < len(self._seen):
            here, there = _flat(self._x), _flat(self._seen[ordinal].x)
            self._same &= here.shape == there.shape
            offset = here - there if here.shape == there.shape else torch.zeros_like(here)
            if replay:
                self._same &= bool(_norm(offset) <= 1e-2 * DISPLACEMENT * math.sqrt(len(offset)))
            elif self._displaced is None:
                self._displaced = offset
        return Decision(replay, Reason.OFF)

    def predict(self, branches: Sequence[Branch], shape: Sequence[int]) -> Tensor | None:
        if self._ordinal > self.at:
            return None
        known = self._seen[self._ordinal].outputs if self._ordinal < len(self._seen) else {}
        chunk = (shape[0] // len(branches), *shape[1:])
        if any(branch not in known or known[branch].shape != chunk for branch in branches):
            self._same = False
            return None
        parts = [known[branch] for branch in branches]
        if self._ordinal == self.at:
            parts = [(part.float() + self._error).to(part.dtype) for part in parts]
        self.report.calls_saved += 1
        return torch.cat(parts).to(self._x[0].device)

    def observe(
        self, branches: Sequence[Branch], y: Tensor | None, evaluate_at: EvaluateAt
    ) -> None:
        self.report.count_call()
        if self._ordinal == self.at:
            self._same = False  # the host could not take the perturbed output
        if y is not None:
            for branch, part in zip(branches, y.chunk(len(branches)), strict=True):
                self._outputs[branch] = sketch(part)

    def _close_round(self) -> None:
        if self._ordinal == self.at + 1 and self._response is None:
            base, now = self._seen[self.at + 1].guided, guided(self._outputs, self.guidance)
            seen = self._same and now is not None and base is not None
            if seen and now.numel() == self._displaced.numel():
                change = (now - base).reshape(-1)
                along = self._displaced
                self._response = (change @ along) / (along @ along).clamp_min(1e-24)

    def finish(self, completed: bool) -> RunReport:
        self._close_round()
        self.report.completed = completed
        if self.report.steps:
            self.report.steps[-1].seconds = time.perf_counter() - self._started
        return self.report

    def travel(self) -> Travel | None:
        """What was found; ``None`` if the run ended early or did not repeat the recorded one."""
        if not self.report.completed or not self._same or len(self.report.steps) < len(self._seen):
            return None
        end = self._seen[-1]
        moved = _final(self.family, end.t, end.sigma, self._x, guided(self._outputs, self.guidance))
        moved = moved - _final(self.family, end.t, end.sigma, end.x, end.guided)
        gain = float(_norm(moved) / _norm(self._displaced).clamp_min(1e-24))
        response = 0.0 if self._response is None else float(self._response)
        return Travel(self._seen[self.at + 1].t, gain, response)


def _flat(x: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in x])


def _norm(value: Tensor) -> Tensor:
    return value.square().sum().sqrt()


def _final(family: Family, t: float, sigma: float, x: Sequence[Tensor], y: Tensor | None) -> Tensor:
    """The clean latent that the last round leads to; the latent itself where ``y`` is no output."""
    latent = _flat(x)
    if y is None or y.numel() != latent.numel():
        return latent
    if family.prediction == "flow":
        return latent - sigma * y.reshape(-1)
    return math.cos(t * math.pi / 2) * latent - math.sin(t * math.pi / 2) * y.reshape(-1)
