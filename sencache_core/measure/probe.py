"""Measure how far errors of reuse travel: repeat a run, reuse in one part of it, run on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..forecast.reuse import Fitted
from ..model.families import Family
from ..policies import Guards, Planned, RunInfo
from ..policies.plan import Plan
from ..policies.planned import rounds_of
from ..policies.planner import Planner
from ..run.rounds import RoundLog
from ..run.runner import EvaluateAt, read_round, sketch_latent
from ..run.session import Session
from ..run.stats import RunReport, StepRecord
from ..types import ALL, NONE, WHOLE, Branch, Decision, Key, Reason, sketch

#: Largest RMS by which a repeated run's latent may differ from the recorded one, of a latent of
#: RMS 1 (ours; not tuned): more than rounding does to it, less than what a probe displaces.
SAME = 2e-4


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
    """What one probe found.

    Attributes:
        t: time coordinate at which the forecasts displaced the latent: mean over them.
        gain: RMS of the final latent's error per RMS by which the planner expects the forecasts to
            leave the latent off, after hindsight if the session takes them back.
        answered: time coordinate at which the model first ran again.
        response: change of its guided output along the displacement, per unit of it.
    """

    t: float
    gain: float
    answered: float
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
    """A runner that repeats a recorded run under a mask which reuses in one part of it.

    It is the very session of a cached run, with the forecast of the default rule and with hindsight
    where the sampler allows: what is measured is what will happen. The rounds before the first that
    is reused are answered from memory. Costs the evaluations after it that the mask computes.

    Args:
        run: of the recorded run, with its moments, and transitions if forecasts are to be taken
            back.
        seen: the rounds of the recorded run, outputs kept.
        guidance: its guidance scale, ``None`` if unknown.
        mask: of the whole run; the last round is computed.
        report: filled as the run goes.
    """

    measures = False
    awaits = ""

    def __init__(
        self,
        run: RunInfo,
        seen: Sequence[Seen],
        guidance: float | None,
        mask: Sequence[bool],
        report: RunReport,
    ) -> None:
        self.run, self.guidance, self.mask, self.report = run, guidance, tuple(mask), report
        self._seen = seen
        self._first = self.mask.index(False)
        self._again = self.mask.index(True, self._first)
        rule = Fitted().bound(run.moments)
        inner = RunReport(report.family, report.policy, rule.name, report.tap, report.num_steps)
        self._session = Session(Planned(mask=str(Plan(self.mask))), {report.tap: rule}, run, inner)
        self._log = RoundLog(report)
        self._x: tuple[Tensor, ...] = ()
        self._displaced: Tensor | None = None
        self._response: Tensor | None = None
        self._outputs: dict[Branch, Tensor] = {}
        self._handed: dict[Branch, Tensor] = {}
        self._same = True

    @property
    def _ordinal(self) -> int:
        return len(self.report.steps) - 1

    def _reuses(self, ordinal: int) -> bool:
        return ordinal < len(self.mask) and not self.mask[ordinal]

    def begin(self, x: Sequence[Tensor], sigma: float | Tensor) -> Decision:
        self._close_round()
        self._x = sketch_latent(x, self.run.family)
        level, _ = read_round(sigma, self._x, None)
        self._log.tick()
        ordinal = len(self.report.steps)
        free = ordinal < self._first or self._reuses(ordinal)  # repeated from memory, or reused
        decision, t = "reused" if free else "computed", self.run.family.time(level)
        record = StepRecord(ordinal, ordinal, level, t, decision, "calibration", cost=1.0 - free)
        self._log.open(record)
        if ordinal < len(self._seen):
            here, there = _flat(self._x), _flat(self._seen[ordinal].x)
            self._same &= here.shape == there.shape
            offset = here - there if here.shape == there.shape else torch.zeros_like(here)
            if ordinal <= self._first:
                self._same &= bool(_norm(offset) <= SAME * math.sqrt(len(offset)))
            elif ordinal == self._again:
                self._displaced = offset
        self._session.begin(x, sigma)
        return Decision(NONE if free else ALL, Reason.OFF)

    def predict(self, keys: Sequence[Key], shape: Sequence[int]) -> Tensor | None:
        if keys[0].site not in WHOLE:
            return None
        if self._ordinal < self._first:
            return self._replay(keys, shape)
        return self._session.predict(keys, shape)

    def _replay(self, keys: Sequence[Key], shape: Sequence[int]) -> Tensor | None:
        known = self._seen[self._ordinal].outputs
        branches = [key.branch for key in keys]
        chunk = (shape[0] // len(branches), *shape[1:])
        if any(branch not in known or known[branch].shape != chunk for branch in branches):
            self._same = False
            return None
        y = torch.cat([known[branch] for branch in branches]).to(self._x[0].device)
        self._session.observe(keys, y)
        return y

    def saw(self, branches: Sequence[Branch], value: Tensor | None) -> None:
        pass

    def branches_changed(self) -> None:
        self._session.branches_changed()

    def called(self, branches: Sequence[Branch], share: float) -> None:
        self._log.called(branches, share)
        # To the session inside, what is repeated from memory is an evaluation like any other.
        self._session.called(branches, 1.0 if self._ordinal < self._first else share)

    def observe(
        self, keys: Sequence[Key], y: Tensor, evaluate_at: EvaluateAt | None = None
    ) -> Tensor | None:
        if keys[0].site not in WHOLE:
            return None
        if self._reuses(self._ordinal):
            self._same = False  # the host could not take what was reused
        handed = self._session.observe(keys, y, evaluate_at)
        chunks = y.chunk(len(keys)), (y if handed is None else handed).chunk(len(keys))
        for key, part, given in zip(keys, *chunks, strict=True):
            self._outputs[key.branch], self._handed[key.branch] = sketch(part), sketch(given)
        return handed

    def _close_round(self) -> None:
        if self.report.steps:
            self._log.close()
        if self._ordinal == self._again and self._response is None:
            base, now = self._seen[self._again].guided, guided(self._outputs, self.guidance)
            seen = self._same and now is not None and base is not None
            if seen and now.numel() == self._displaced.numel():
                change = (now - base).reshape(-1)
                along = self._displaced
                self._response = (change @ along) / (along @ along).clamp_min(1e-24)

    def finish(self, completed: bool) -> RunReport:
        if not self.report.ended:
            self._close_round()
            self._session.finish(completed)
            self._log.finish(completed)
        return self.report

    def travel(self) -> Travel | None:
        """What was found; ``None`` if the run ended early or did not repeat the recorded one."""
        if not self.report.completed or not self._same or len(self.report.steps) < len(self._seen):
            return None
        if self.run.moments is None:
            return None
        end, family = self._seen[-1], self.run.family
        moved = _final(family, end.t, end.sigma, self._x, guided(self._handed, self.guidance))
        moved = moved - _final(family, end.t, end.sigma, end.x, end.guided)
        rounds = zip(self._seen[1:], self.mask[:-1], strict=True)
        displaced = [after.t for after, compute in rounds if not compute]
        response = 0.0 if self._response is None else float(self._response)
        gain = float(_norm(moved)) / math.sqrt(moved.numel()) / max(self._expected(), 1e-12)
        where = sum(displaced) / len(displaced)
        return Travel(where, gain, self._seen[self._again].t, response)

    def _expected(self) -> float:
        """RMS by which a planner that knows no gain expects the final latent to be off."""
        plain = replace(self.run.moments, gain=None, response=None)
        rounds = rounds_of(self.run, Guards(cooldown=0))
        planner = Planner(rounds, plain, 1, self.run.transitions is not None)
        return float(planner.expected(self.mask)[0])


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
