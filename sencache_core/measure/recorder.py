"""Measure a profile on the trajectory that the sampler really takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..forecast.moments import Moments
from ..model.families import Family
from ..policies import Prior, RunInfo, TeaCache
from ..policies.threshold import relative_change
from ..run.rounds import RoundLog
from ..run.runner import EvaluateAt, read_round, sketch_latent
from ..run.stats import RunReport, StepRecord
from ..sampler.schedule import Schedule
from ..sampler.solver import transitions
from ..types import (
    ALL,
    SAME_TIME,
    WHOLE,
    Anchor,
    Branch,
    Decision,
    Key,
    Reason,
    rms,
    same_time,
    sketch,
)
from .layers import LayerWatch
from .probe import Probe, Seen, Travel, guided
from .profile import CHANGES, CURVES, Recording


class _Round(NamedTuple):
    x: tuple[Tensor, ...]
    sigma: float
    t: float
    moved: float


class Recorder:
    """A runner that never reuses. Costs one extra evaluation of the leading branch per round.

    Between the rounds (x0, t0) and (x1, t1) it also asks for f(x1, t0). Then, in RMS,
    ``alpha_x = |f(x1, t0) - f(x0, t0)| / |x1 - x0|`` and
    ``alpha_t = |f(x1, t1) - f(x1, t0)| / |t1 - t0|``: the paper's directional secants, with the
    sampler's own step as the direction and one extra evaluation instead of three.
    """

    measures = True

    def __init__(
        self,
        run: RunInfo,
        report: RunReport,
        guidance: float | None = None,
        keep: bool = False,
        looks: bool = False,
    ) -> None:
        self.run, self.report, self.guidance, self.keep = run, report, guidance, keep
        self.awaits, self._signal = "", TeaCache().signal(run.family) if looks else ""
        self._looked: list[Tensor] = []  # the signal of this round and of the one before
        self.seen: list[Seen] = []
        self.travels: list[Travel] = []
        self._log = RoundLog(report)
        self._layers = LayerWatch()
        self._sketches: dict[Branch, Tensor] = {}
        self._outputs: dict[Branch, Tensor] = {}
        self._leader: Branch | None = None
        self._past: Anchor | None = None
        self._previous: _Round | None = None
        self._now: _Round | None = None
        self._rows: list[tuple[float, dict[str, Tensor]]] = []

    @classmethod
    def start(
        cls,
        family: Family,
        schedule: Schedule,
        tap: str = "output",
        guidance: float | None = None,
        keep: bool = False,
        looks: bool = False,
    ) -> Recorder:
        """A recorder for one run; see ``CacheConfig.start`` for its counterpart.

        Args:
            family: the model's row.
            schedule: the sampler's noise levels.
            tap: ``"output"`` or ``"stack"``: what the host hands over.
            guidance: scale of the cond/uncond pair, ``None`` if unknown: moments are then those of
                the conditional output.
            keep: keep all outputs in main memory, for :meth:`probe`.
            looks: also measure how what TeaCache looks at changes from round to round.
        """
        report = RunReport(family.name, "calibration", "none", tap, schedule.num_steps)
        return cls(RunInfo(family, schedule, Prior(family)), report, guidance, keep, looks)

    def begin(self, x: Sequence[Tensor], sigma: float | Tensor) -> Decision:
        self._close_round()
        sketches = sketch_latent(x, self.run.family)
        before = self._previous.x if self._previous else None
        sigma, moved = read_round(sigma, sketches, before)
        self._log.tick()
        self.awaits = self._signal
        t = self.run.family.time(sigma)
        self._now = _Round(sketches, sigma, t, moved)
        ordinal = len(self.report.steps)
        step = self.run.schedule.step_of(sigma, ordinal)
        self._log.open(StepRecord(ordinal, step, sigma, t, "computed", "calibration", cost=1.0))
        return Decision(ALL, Reason.OFF)

    def predict(self, keys: Sequence[Key], shape: Sequence[int]) -> None:
        return None

    def saw(self, branches: Sequence[Branch], value: Tensor | None) -> None:
        self.awaits = ""
        if value is None:
            self._signal, self._looked = "", []
            return
        lead = next((k for k, b in enumerate(branches) if b.role == "cond"), 0)
        count = len(branches) if len(value) % len(branches) == 0 else 1
        part = value.chunk(count)[lead if count > 1 else 0]
        self._looked = [*self._looked[-1:], part.clone()]

    def branches_changed(self) -> None:
        """Of no account: nothing is forecast."""

    def called(self, branches: Sequence[Branch], share: float) -> None:
        self._log.called(branches, share)

    def observe(
        self, keys: Sequence[Key], y: Tensor, evaluate_at: EvaluateAt | None = None
    ) -> None:
        branches, site = [key.branch for key in keys], keys[0].site
        if self._leader is None:
            self._leader = next((b for b in branches if b.role == "cond"), None)
        leads, chunks = self._leader in branches, len(branches)
        position = branches.index(self._leader) if leads else 0
        if site not in WHOLE:
            if leads:
                self._layers.observe(site, self._now.t, y.chunk(chunks)[position])
            return
        for branch, part in zip(branches, y.chunk(chunks), strict=True):
            self._sketches[branch] = sketch(part)
            if self.keep:
                self._outputs[branch] = part.to("cpu", copy=True)
        if not leads:
            return
        now, previous = self._now, self._previous
        truth = y.chunk(chunks)[position].clone()
        past = self._past
        if (
            previous
            and past is not None
            and same_time(past.t, previous.t)
            and past.y.shape == truth.shape
        ):
            dt = abs(now.t - previous.t)
            if dt > SAME_TIME and now.moved > 0 and evaluate_at is not None:
                between = evaluate_at(previous.sigma).chunk(chunks)[position].float()
                self._log.called((), 1.0)
                self._rows.append((previous.t, self._curves(truth, between, dt)))
        self._past = Anchor(now.t, truth)

    def _curves(self, truth: Tensor, between: Tensor, dt: float) -> dict[str, Tensor]:
        before, now, moved = self._past.y.float(), truth.float(), self._now.moved
        size = rms(now).clamp_min(1e-12)
        pair = {}
        if len({look.shape for look in self._looked}) == 1 and len(self._looked) > 1:
            changes = relative_change(*self._looked), relative_change(before, now)
            pair = dict(zip(CHANGES, changes, strict=True))
        return pair | {
            "alpha_x": rms(between - before) / moved,
            "alpha_t": rms(now - between) / dt,
            "speed": torch.full_like(size, moved / dt),
            "output_rms": size,
            "ratio": size / rms(before).clamp_min(1e-12),
        }

    def _close_round(self) -> None:
        now = self._now
        if now is not None:
            self._log.close()
            output = guided(self._sketches, self.guidance)
            lead = self._sketches.get(self._leader)
            self.seen.append(Seen(now.x, now.sigma, now.t, output, lead, self._outputs))
            self._sketches, self._outputs = {}, {}
            self._previous, self._now = now, None

    def probe(self, mask: Sequence[bool], travels: Sequence[Travel] = ()) -> Probe:
        """A runner that repeats this run under ``mask``. The recorder must have been kept.

        Args:
            mask: see :class:`~sencache_core.measure.probe.Probe`.
            travels: what probes have found before; their response serves hindsight.
        """
        family, schedule, tap = self.run.family, self.run.schedule, self.report.tap
        steps = transitions(family, schedule) if tap == "output" else None
        run = replace(self.run, moments=self._moments(travels), transitions=steps)
        report = RunReport(family.name, "calibration", "none", tap, schedule.num_steps)
        return Probe(run, self.seen, self.guidance, mask, report)

    def _moments(self, travels: Sequence[Travel]) -> Moments | None:
        """Moments of this one run; ``None`` if its outputs were not seen."""
        rounds = sorted(self._visited(), key=lambda seen: seen.t)
        gram = _gram([seen.guided for seen in rounds])
        if gram is None:
            return None
        t = np.array([seen.t for seen in rounds])
        if not travels:
            return Moments(t, gram[None])
        answered, which, count = np.unique(
            [travel.answered for travel in travels], return_inverse=True, return_counts=True
        )
        sums = np.bincount(which, [travel.response for travel in travels])
        response = np.interp(t, answered, sums / count)
        return Moments(t, gram[None], np.ones((1, len(t))), response[None])

    def release(self) -> None:
        """Drop the outputs kept for probes."""
        self.seen = [round_._replace(outputs={}) for round_ in self.seen]

    def finish(self, completed: bool) -> RunReport:
        if not self.report.ended:
            self._close_round()
            self._log.finish(completed)
            self._layers.clear()
            self._previous = self._past = None
            self._looked = []
        return self.report

    def curves(self) -> tuple[list[float], dict[str, np.ndarray]]:
        """Times in the order of the run, and ``[T]`` values by the curve's name, as far as it has
        come. One device-to-host copy per curve."""
        names = [n for n in CURVES if self._rows and all(n in row for _, row in self._rows)]
        curves = {}
        for name in names:
            curves[name] = torch.stack([row[name] for _, row in self._rows]).cpu().double().numpy()
        times = [t for t, _ in self._rows]
        keep = _first_visits(times)
        return [times[k] for k in keep], {n: c[keep] for n, c in curves.items()}

    def recording(self) -> Recording:
        """What was measured, as plain arrays."""
        times, curves = self.curves()
        visited = self._visited()
        grams = (_gram([r.guided for r in visited]), _gram([r.lead for r in visited]))
        if any(gram is None for gram in grams):
            visited, grams = [], (None, None)
        gap = _gram([r.guided - r.lead for r in visited]) if visited else None
        return Recording(
            tuple(times),
            curves,
            tuple(r.t for r in visited),
            *grams,
            gap if gap is not None and gap.any() else None,
            tuple(self.travels),
            self._layers.curves(),
        )

    def _visited(self) -> list[Seen]:
        """Rounds whose outputs were seen, each time once."""
        whole = [seen for seen in self.seen if seen.guided is not None and seen.lead is not None]
        return [whole[k] for k in _first_visits([seen.t for seen in whole])]


def _first_visits(times: Sequence[float]) -> list[int]:
    """Where each time stands first: samplers that go back up visit some twice."""
    kept: list[int] = []
    for index, t in enumerate(times):
        if not any(same_time(t, times[k]) for k in kept):
            kept.append(index)
    return kept


def _gram(outputs: Sequence[Tensor]) -> np.ndarray | None:
    """``[N, N]`` inner products per entry; ``None`` if there are none or shapes differ."""
    if len({y.shape for y in outputs}) != 1:
        return None
    # A forecast's error is a small difference of these; and not every device knows float64.
    flat = torch.stack([y.reshape(-1) for y in outputs]).cpu().double()
    return (flat @ flat.T / flat.shape[1]).numpy()
