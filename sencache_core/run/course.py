"""The course of a run: where it is, and what the policy wants of each round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from ..policies import Policy, RunInfo
from ..sampler.schedule import Schedule
from ..types import ALL, Decision, Look, Reason, Step
from ..words import about
from .foresee import foresee
from .stats import RunReport
from .watch import Watch

#: What a sampler that asks otherwise than expected is met with: the policy, and what is known of
#: the run, under the schedule that has shown.
Replan = Callable[[Schedule], tuple[Policy, RunInfo]]


class Course:
    """Knows where the run is, asks the policy, and tells it what the evaluations have shown.

    Owned by a session, dropped with it.

    Args:
        policy: decides; ask it through ``Guarded``.
        run: family, schedule and what is known of the model.
        report: told what the user should know of the course.
        replan: see :class:`~sencache_core.run.session.Session`.

    Attributes:
        policy, run: as they hold now; others once the sampler has shown that it asks otherwise.
        last: the round of the last evaluation, ``None`` before the first.
        full_t: time coordinate of the last one in full.
        streak: rounds reused since the last evaluation.
        extra: evaluations' worth of calls that ran although they were to be spared.
    """

    def __init__(
        self, policy: Policy, run: RunInfo, report: RunReport, replan: Replan | None = None
    ) -> None:
        self.policy, self.run = policy, run
        self._report, self._replan = report, replan
        self._watch = Watch(run.schedule)
        self._state: Any = policy.start(run)
        self._computed: list[Step] = []  # in full, without their latents
        self.last: Step | None = None
        self.full_t = 0.0
        self.streak = 0
        self.extra = 0.0
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Say what the run is to come to, as far as that can be said before it."""
        if self.run.schedule.adaptive:
            return
        plan = self.policy.ahead(self._state) or foresee(self.policy, self.run)
        self._report.planned = "" if plan is None else str(plan)
        self._report.expected = None if plan is None else plan.skipping
        self._report.rounds = len(self.run.schedule.rounds)

    @property
    def signal(self) -> str:
        """Name of what has to be seen of a round before it is decided; empty: nothing."""
        return self.policy.signal(self.run.family)

    def begin(
        self,
        told: float,
        x: tuple[Tensor, ...],
        moved: float,
        error: float,
        paired: bool,
        anew: bool,
    ) -> Step:
        """The round that begins.

        Args:
            told: noise level that the sampler tells the model.
            x: sketches of its latent, see :class:`Step`.
            moved: RMS by which they differ from those of the last evaluation.
            error: of the newest forecast that was measured.
            paired: whether differences of guidance pairs are known.
            anew: whether some branch has one output only.
        """
        ordinal = len(self._report.steps)
        sigma = self._level(told, ordinal)
        schedule = self.run.schedule
        return Step(
            x=x,
            moved=moved,
            sigma=sigma,
            t=self.run.family.time(sigma),
            index=schedule.step_of(sigma, ordinal),
            num_steps=schedule.num_steps,
            ordinal=ordinal,
            streak=self.streak,
            error=error,
            paired=paired,
            extra=self.extra,
            anew=anew,
            work=self._report.work,
        )

    def _level(self, told: float, ordinal: int) -> float:
        """Noise level of the round ``ordinal``, which the sampler says is ``told``."""
        sigma = self.run.schedule.level(told, ordinal)
        if self._replan is not None and self.policy.asked is not None:
            another = self._watch.see(sigma)
            if another is not None:
                self._change(another)
        return sigma

    def _change(self, schedule: Schedule) -> None:
        """Go on under another schedule: the sampler has shown where it asks."""
        self.policy, self.run = self._replan(schedule)
        self._state = self.policy.resume(self.run, self._computed)
        self._look_ahead()
        asked = self.policy.asked
        figures = {"times": len(schedule.places[-1]), "total": len(schedule.rounds)}
        if asked is None:
            self._report.say("asks_often", **figures)
        else:
            self._report.say("asks_often_of_budget", **figures, asked=about(asked, 6))

    def decide(self, step: Step, hopeless: bool) -> Decision:
        """What is to run in the round ``step``.

        Args:
            step: the round at hand.
            hopeless: whether forecasts say nothing about the outputs.
        """
        last = self.last
        if last is None:
            return Decision(ALL, Reason.FIRST)
        if [s.shape for s in step.x] != [s.shape for s in last.x]:
            return Decision(ALL, Reason.CHANGED)
        if self._watch.lost:
            self._report.say("no_pattern")
        if self._watch.puzzled:
            return Decision(ALL, Reason.UNEXPECTED)
        if hopeless and self.policy.asked is not None and not self.run.guided:
            self._report.say("off_rest")
            return Decision(ALL, Reason.HOPELESS)
        decision, self._state = self.policy.decide(step, last, self._state)
        if (plan := self.policy.ahead(self._state)) is not None:
            self._report.planned = str(plan)  # it follows what the run shows
        return decision

    def reused(self, cost: float) -> None:
        """A round was reused, and cost as much more of an evaluation than it was to."""
        self.streak += 1
        self.extra += cost

    def evaluated(self, step: Step, full: bool) -> None:
        """The round ``step`` was computed; ``full``: all of it."""
        self.last, self.streak = replace(step, look=None, output=None), 0
        if full:
            self.full_t = step.t
            self._computed.append(replace(step, x=(), look=None, output=None))
            self._state = self.policy.observe(step, self._state)

    def nbytes(self, seen: Look | None) -> int:
        """Memory held, in bytes, with the newest look and what the policy keeps of others."""
        sketches = sum(part.nbytes for part in self.last.x) if self.last else 0
        looks = set(_tensors(self._state if self.policy.looks else None)) | set(_tensors(seen))
        return sketches + sum(value.nbytes for value in looks)

    def end(self) -> None:
        """Drop what the policy has kept, and every tensor."""
        self._state = self._replan = self.last = None


def _tensors(thing: Any) -> Iterator[Tensor]:
    """Those in a policy's state or a look."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, tuple):
        for part in thing:
            yield from _tensors(part)
    elif is_dataclass(thing) and not isinstance(thing, RunInfo):
        for one in fields(thing):
            yield from _tensors(getattr(thing, one.name))
