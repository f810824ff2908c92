"""The runs of a calibration, in order: each sample once as it is, then once for every probe."""

from __future__ import annotations

from .families import Family
from .probe import Probe
from .profile import Recording
from .recorder import Recorder
from .schedule import Schedule
from .session import Runner

#: Probes of one sample (ours): terminal sensitivity falls smoothly, by about 10 to 1 over a run.
PROBES = 4


class Calibration:
    """Hands out a runner for each run, and keeps what was measured.

    A sample is sampled ``1 + probes`` times from the same noise: once measured, then once for each
    probe, which repeats the first rounds without the model. What has been measured is kept at any
    time; a probe that was interrupted is left out.

    Args:
        probes: of each probed sample, 0 for none.
        probed: samples that are probed, from the first.
    """

    def __init__(self, probes: int = PROBES, probed: int = 3) -> None:
        self.probes, self.probed = probes, probed
        self._recorders: list[Recorder] = []
        self._rounds: list[int] = []

    def runs_of(self, sample: int, rounds: int) -> int:
        """Sampling runs that sample number ``sample`` of that many rounds needs."""
        return 1 + (len(probe_rounds(rounds, self.probes)) if sample < self.probed else 0)

    def evaluations(self, samples: int, rounds: int) -> int:
        """Model evaluations of a whole calibration: what it costs."""
        probing = sum(rounds - 1 - at for at in probe_rounds(rounds, self.probes))
        return samples * (2 * rounds - 1) + min(samples, self.probed) * probing

    def start(
        self,
        family: Family,
        schedule: Schedule,
        tap: str = "output",
        guidance: float | None = None,
    ) -> Runner:
        """The runner of the next run; arguments as for ``Recorder.start``."""
        if self._rounds:
            return self._recorders[-1].probe(self._rounds.pop(0))
        keep = self.runs_of(len(self._recorders), len(schedule.rounds)) > 1
        return Recorder.start(family, schedule, tap, guidance, keep)

    def finished(self, runner: Runner) -> None:
        """A run has ended, completed or not."""
        if isinstance(runner, Probe):
            recorder = self._recorders[-1]
            if (travel := runner.travel()) is not None:
                recorder.travels.append(travel)
        elif runner.report.completed:
            recorder = runner
            if recorder.keep:
                self._rounds = probe_rounds(len(recorder.seen), self.probes)
            self._recorders.append(recorder)
        else:
            return
        if not self._rounds:
            recorder.release()

    @property
    def recordings(self) -> list[Recording]:
        """One a sample measured so far."""
        return [recorder.recording() for recorder in self._recorders]


def probe_rounds(rounds: int, probes: int) -> list[int]:
    """Rounds to err at: evenly spread, each with a round before it and one after."""
    spread = {1 + number * (rounds - 1) // probes for number in range(probes)}
    return sorted(spread & set(range(1, rounds - 1)))
