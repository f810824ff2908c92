"""What SenCache Calibrate shows as it goes: cost, time left, curves, and where the file went.

The payload is sent as the event ``sencache.calibrate`` and kept under ``sencache_calibrate`` of the
node's output: ``{"version", "prompt", "node", "when", "state", "phase", "sample", "samples", "run",
"runs", "spent", "total", "seconds", "left", "curves", "gains", "file", "kept", "levels", "seeds",
"lost", "problem", "blocks"}``. ``state`` is ``running``, ``done``, ``stopped`` or ``failed``.
``curves`` has one ``{"t", "alpha_x", ...}`` a sample, ``gains`` pairs of time and gain, see
``probe.Travel``.
"""

from __future__ import annotations

import time
from pathlib import Path

from ..sencache_core import Profile, ProfileError, RunReport
from ..sencache_core.measure.blocks import ATTENTION, CHANGE, BlockWatch
from ..sencache_core.measure.calibration import Calibration
from .host import Throttle, place, send_event

SHOWN, EVENT, PAYLOAD_VERSION = "sencache_calibrate", "sencache.calibrate", 1
#: Curves that are shown.
_CURVES = ("alpha_x", "alpha_t", "output_rms")
#: Seconds between two events.
_EVERY = 0.5


class Progress:
    """Says what a calibration costs before it begins, and how much of it is left as it goes.

    Args:
        calibration: what is measured.
        known: samples that an earlier calibration has measured.
        samples: that are to come.
        rounds: evaluation rounds of a run.
        node: id of the node that shows it.
        blocks: whether a run for blocks follows.
    """

    def __init__(
        self,
        calibration: Calibration,
        known: int,
        samples: int,
        rounds: int,
        node: str | None,
        blocks: bool = False,
    ) -> None:
        from comfy.utils import ProgressBar

        self.calibration, self.known, self.samples = calibration, known, samples
        self.rounds, self.node = rounds, node
        self.total = calibration.evaluations(samples, rounds) + rounds * blocks
        self._bar = ProgressBar(max(self.total, 1))
        self._throttle = Throttle(_EVERY)
        self._done = self._here = self._sample = self._run = 0
        self._runs = calibration.runs_of(rounds)
        self._phase, self._state = "measuring", "running"
        self._started = time.monotonic()
        self._file, self._kept, self._lost, self._problem = "", 0, "", ""
        self._seeds: list[str] = []
        self._noise_levels = 0
        self._blocks: list[dict] = []

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        from comfy.model_management import InterruptProcessingException

        if error is None:
            self._state, self._here = "done", 0
        elif isinstance(error, InterruptProcessingException):
            self._state = "stopped"
        else:
            self._state, self._problem = "failed", str(error)
        self._send()

    def begin(self, sample: int, run: int) -> None:
        """Run ``run`` of sample ``sample`` (both from 0) begins; 0 measures, the others probe."""
        self._sample, self._run = self.known + sample + 1, run
        self._runs = self.calibration.runs_of(self.rounds)
        self._phase = "probing" if run else "measuring"
        self._send()

    def begin_blocks(self) -> None:
        self._phase = "blocks"
        self._send()

    def evaluated(self, report: RunReport) -> None:
        """One more evaluation round has ended. Where the model ran, a measuring run asks twice."""
        computed = sum(step.decision == "computed" for step in report.steps)
        measuring = report.steps[0].decision == "computed"
        if measuring:
            self.rounds = len(report.steps)
        self._count(2 * computed - 1 if measuring else computed)

    def watched(self, report: RunReport) -> None:
        """One more round of the run for blocks has ended."""
        self._count(len(report.steps))

    def _count(self, evaluations: int) -> None:
        self._here = evaluations
        self._bar.update_absolute(min(self._done + self._here, self.total), self.total)
        if self._throttle.ready():
            self._send()

    def end(self) -> None:
        self._done, self._here = self._done + self._here, 0

    def saved(self, path: Path, profile: Profile, lost: str = "") -> None:
        """What has been measured lies in a file now, unless ``lost`` says why it does not."""
        self._file, self._lost = ("" if lost else path.name), lost
        self._kept, self._noise_levels = profile.header.samples, len(profile.t)
        self._seeds = [str(seed) for seed in profile.header.seeds]  # too large for JavaScript

    def told(self, profile: Profile) -> str:
        """How much was measured, in words."""
        found, count = len(self.calibration.travels), profile.header.samples
        return f"{count} samples, {len(profile.t)} noise levels, {found} probes"

    def found_blocks(self, watch: BlockWatch) -> str:
        """Keep which blocks may be reused, or why that is not known; the list by their change."""
        try:
            profile = watch.profile()
        except ProfileError as error:  # no reason to lose what else was measured
            self._blocks.append({"by": CHANGE, "problem": str(error)})
            return ""
        for by in (CHANGE, ATTENTION):
            try:
                expected = profile.expected(profile.background(by))
                row = {"by": by, "list": profile.listed(by), "expected": expected}
            except ProfileError as error:
                row = {"by": by, "problem": str(error)}
            self._blocks.append(row)
        return self._blocks[0].get("list", "")

    def payload(self) -> dict:
        """See the top of this file."""
        spent, seconds = self._done + self._here, time.monotonic() - self._started
        left = None
        if self._state == "running" and self._done:  # a run has ended: its time tells the rest
            left = seconds / spent * max(self.total - spent, 0)
        return {
            "version": PAYLOAD_VERSION,
            "prompt": place().prompt,
            "node": self.node,
            "when": time.time(),
            "state": self._state,
            "phase": self._phase,
            "sample": self._sample,
            "samples": self.known + self.samples,
            "run": self._run,
            "runs": self._runs,
            "spent": min(spent, self.total),
            "total": self.total,
            "seconds": seconds,
            "left": left,
            "curves": [_plain(*found) for found in self.calibration.curves()],
            "gains": [[_short(found.t), _short(found.gain)] for found in self.calibration.travels],
            "file": self._file,
            "kept": self._kept,
            "levels": self._noise_levels,
            "seeds": self._seeds,
            "lost": self._lost,
            "problem": self._problem,
            "blocks": self._blocks,
        }

    def _send(self) -> None:
        send_event(EVENT, self.payload())


def _plain(times: list[float], curves: dict) -> dict[str, list]:
    found = {name: curves[name] for name in _CURVES if name in curves}
    return {name: [_short(value) for value in row] for name, row in {"t": times, **found}.items()}


def _short(value: float) -> float | None:
    """Four digits, which is more than can be seen; ``None`` for what JSON has no number for."""
    found = float(f"{value:.4g}")
    return found if abs(found) < float("inf") else None
