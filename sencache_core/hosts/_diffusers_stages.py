"""Two transformers of one pipeline that share a clip, and so its budget."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ..run.facts import Part, Stage
from ..run.runner import Runner
from ..sampler.schedule import Schedule, same_level

#: Clips between their two transformers that are remembered (ours).
_MOST = 8


@dataclass(frozen=True)
class Ended:
    """What is kept of a first stage that is complete: figures.

    Attributes:
        sigma: where it ended.
        steps: of it.
        carry: evaluations that the clip's budget has left over.
    """

    sigma: float
    steps: int
    carry: float


class Stages:
    """Which runs of one transformer go on where those of the other have ended."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[Schedule, Stage]] = {}
        self._ended: deque[Ended] = deque(maxlen=_MOST)

    def of(self, schedule: Schedule, rest: Part | None) -> Stage:
        """Where a run lies in its clip.

        Args:
            schedule: of the run.
            rest: what the other transformer is to do after it; ``None``: nothing.
        """
        if rest is not None:
            return Stage(whole=schedule.num_steps + rest.schedule.num_steps, later=(rest,))
        for one in reversed(self._ended):
            if same_level(one.sigma, schedule.sigmas[0]):
                self._ended.remove(one)
                return Stage(one.steps, one.steps + schedule.num_steps, one.carry)
        return Stage()

    def begun(self, runner: Runner, schedule: Schedule, stage: Stage) -> None:
        if stage.later:
            self._open[id(runner)] = schedule, stage

    def ended(self, runner: Runner) -> None:
        schedule, stage = self._open.pop(id(runner), (None, None))
        if stage is not None and runner.report.completed:
            end, left = schedule.sigmas[-1], stage.left(runner.report)
            self._ended.append(Ended(end, schedule.num_steps, left))
