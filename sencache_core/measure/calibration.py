"""The runs of a calibration, in order: each sample once as it is, then once for every probe."""

from __future__ import annotations

import numpy as np

from ..model.families import Family
from ..run.runner import Runner
from ..sampler.schedule import Schedule
from .probe import Probe, Travel
from .profile import Recording
from .recorder import Recorder

#: Probes of one sample (ours): terminal sensitivity falls smoothly over a run, but differs between
#: samples as much as along it; better few probes of each than many of some.
PROBES = 3


class Calibration:
    """Hands out a runner for each run, and keeps what was measured.

    A sample is sampled ``1 + probes`` times from the same noise: once measured, then once for each
    probe, which repeats the first rounds without the model. What has been measured is kept at any
    time; a probe that was interrupted is left out.

    Args:
        probes: of each sample, 0 for none.
    """

    def __init__(self, probes: int = PROBES) -> None:
        self.probes = probes
        self._recorders: list[Recorder] = []
        self._masks: list[tuple[bool, ...]] = []
        self._measuring: Recorder | None = None  # the run that goes on, unless it probes

    def runs_of(self, rounds: int) -> int:
        """Sampling runs that a sample of that many rounds needs."""
        return 1 + len(probe_masks(rounds, self.probes))

    def evaluations(self, samples: int, rounds: int) -> int:
        """Model evaluations of a whole calibration: what it costs."""
        masks = probe_masks(rounds, self.probes)
        probing = sum(sum(mask[mask.index(False) :]) for mask in masks)
        return samples * (2 * rounds - 1 + probing)

    def start(
        self,
        family: Family,
        schedule: Schedule,
        tap: str = "output",
        guidance: float | None = None,
        looks: bool = False,
    ) -> Runner:
        """The runner of the next run; arguments as for ``Recorder.start``."""
        self._measuring = None
        if self._masks:
            found = [travel for recorder in self._recorders[:-1] for travel in recorder.travels]
            return self._recorders[-1].probe(self._masks.pop(0), found)
        keep = self.runs_of(len(schedule.rounds)) > 1
        self._measuring = Recorder.start(family, schedule, tap, guidance, keep, looks)
        return self._measuring

    def finished(self, runner: Runner) -> None:
        """A run has ended, completed or not."""
        self._measuring = None
        if isinstance(runner, Probe):
            recorder = self._recorders[-1]
            if (travel := runner.travel()) is not None:
                recorder.travels.append(travel)
        elif runner.report.completed:
            recorder = runner
            if recorder.keep and len(recorder.seen) == len(recorder.run.schedule.rounds):
                self._masks = probe_masks(len(recorder.seen), self.probes)
            self._recorders.append(recorder)
        else:
            return
        if not self._masks:
            recorder.release()

    def curves(self) -> list[tuple[list[float], dict[str, np.ndarray]]]:
        """Times and curves of every sample as far as it has come, see ``Recorder.curves``."""
        going = [] if self._measuring is None else [self._measuring]
        return [recorder.curves() for recorder in (*self._recorders, *going)]

    @property
    def travels(self) -> list[Travel]:
        """What all probes have found so far."""
        return [travel for recorder in self._recorders for travel in recorder.travels]

    @property
    def recordings(self) -> list[Recording]:
        """One a sample measured so far."""
        return [recorder.recording() for recorder in self._recorders]


def probe_masks(rounds: int, probes: int) -> list[tuple[bool, ...]]:
    """Masks that reuse every other round of one part of the run; the parts share it evenly.

    Two rounds come before the first part, for a forecast to be made from, and one after the last.
    A short run has fewer parts.
    """
    parts = min(probes, (rounds - 2) // 2)
    edges = [2 + number * (rounds - 3) // parts for number in range(parts + 1)] if parts > 0 else []
    return [
        tuple(not (a <= k < b and (k - a) % 2 == 0) for k in range(rounds))
        for a, b in zip(edges[:-1], edges[1:], strict=True)
    ]
