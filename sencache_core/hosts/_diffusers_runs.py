"""The sampling runs that are open on one transformer, and which of them a call belongs to.

diffusers tells a model nothing of the sample that a call is for. It is told by the latent: a call
belongs to the run whose latent it shows again, or whose trajectory it continues on its list of
timesteps. A call that does neither begins a run, and a run begins with the model's own outputs.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..run.runner import Runner
from ..sampler.schedule import Schedule
from ..sampler.trajectory import Trajectory
from ..types import Decision
from ._diffusers import Container, same
from ._diffusers_schedulers import Clock, nearest

#: Samples that are cached at once on one transformer (ours): each holds a few outputs a branch.
MOST_OPEN = 8
#: Rounds of other samples after which one that no call has continued is given up (ours).
PATIENCE = 8 * MOST_OPEN


@dataclass(frozen=True)
class Asked:
    """What one call shows of the sample that it is for.

    Attributes:
        inputs: noisy latents as the model gets them, of a batched guidance pair one half.
        latent: their sketch, without conditioning channels.
        timestep: the call's largest.
        slack: relative rounding of its dtype.
        name: the pipeline's name for the call, ``None`` without ``cache_context``.
        text: the call's conditioning.
    """

    inputs: tuple[Tensor, ...]
    latent: tuple[Tensor, ...]
    timestep: float
    slack: float
    name: str | None
    text: Tensor | None

    def fits(self, other: tuple[Tensor, ...]) -> bool:
        """Whether ``other`` inputs are of the same shapes, on the same device."""
        mine, theirs = ([(x.shape, x.device) for x in inputs] for inputs in (self.inputs, other))
        return mine == theirs


@dataclass
class Run:
    """One sampling run of one transformer.

    Attributes:
        runner: caches or measures.
        schedule: its noise levels, ``None`` if unknown.
        times: timesteps of its rounds, in order; empty if unknown.
        asked: the call that opened the present round; its inputs are owned copies.
        trajectory: where its latent is.
        place: index of the present round in ``times``.
        calls: how often each (context name, conditioning) was seen in the present round.
        conditions: distinct text conditionings of the run, in order of appearance.
        containers: output container by branch and ``return_dict``.
        thread: that last called.
        turn: of the last round, in rounds of all runs.
        draws_noise: whether its sampler adds fresh noise between steps.
        decision: of the present round.
    """

    runner: Runner
    schedule: Schedule | None
    times: tuple[float, ...]
    asked: Asked
    trajectory: Trajectory
    thread: int
    turn: int
    draws_noise: bool = False
    place: int = 0
    calls: Counter = field(default_factory=Counter)
    conditions: list[Tensor | None] = field(default_factory=list)
    containers: dict[Any, Container | None] = field(default_factory=dict)
    decision: Decision | None = None

    @property
    def all_seen(self) -> bool:
        """Whether all rounds of its schedule were opened; ``False`` if it has none."""
        if self.schedule is None:
            return False
        return len(self.runner.report.steps) >= len(self.times or self.schedule.rounds)

    def knows(self, text: Tensor | None) -> bool:
        return any(same(text, other) for other in self.conditions)

    def is_at(self, asked: Asked, thread: int) -> bool:
        """Whether a call belongs to the present round: equal latent and time, and no name that was
        given to a call with another conditioning before.
        """
        if self.thread != thread or asked.timestep != self.asked.timestep:
            return False
        if not asked.fits(self.asked.inputs):
            return False
        if not all(map(torch.equal, asked.inputs, self.asked.inputs)):
            return False
        texts = [self.conditions[index] for name, index, *_ in self.calls if name == asked.name]
        return asked.name is None or all(same(asked.text, text) for text in texts)

    def next_place(self, asked: Asked) -> int | None:
        """Index of the round that a call at this time would open; ``None`` if there is none."""
        if self.all_seen or not asked.fits(self.asked.inputs):
            return None
        if not self.times:
            return self.place + 1 if asked.timestep < self.asked.timestep else None
        place = nearest(self.times, asked.timestep, asked.slack, self.place + 1)
        # Second-order schedulers ask twice at one time: so might another sample.
        repeated = place is not None and self.times[place] == self.times[self.place]
        return None if repeated and not self.knows(asked.text) else place


class Ended:
    """Runs that have ended, of all transformers of an attachment, and the lock that these share.

    Args:
        note: called with the runner of a run at its end, before another may begin.
        tell: called with it once the lock is free, since it may take its time.
    """

    def __init__(self, note: Callable[[Runner], None], tell: Callable[[Runner], None]) -> None:
        self.lock = threading.RLock()
        self._note, self._tell = note, tell
        self._untold: deque[Runner] = deque()

    def put(self, runner: Runner) -> None:
        with self.lock:
            self._note(runner)
            self._untold.append(runner)

    def tell(self) -> None:
        while self._untold:
            with self.lock:
                runner = self._untold.popleft() if self._untold else None
            if runner is not None:
                self._tell(runner)


class Runs:
    """Open runs of one transformer.

    Args:
        clock: its timesteps.
        start: makes a run's runner, given the schedule (``None``: compute in full), the transformer
            and its noisy inputs.
        ended: where runs go that have ended.
        limit: of open runs. A single one is given up for the next; of several none is.
    """

    def __init__(
        self,
        clock: Clock,
        start: Callable[[Schedule | None, nn.Module, tuple[Tensor, ...]], Runner],
        ended: Ended,
        limit: int = MOST_OPEN,
    ) -> None:
        self.clock, self.limit = clock, limit
        self._start, self._ended, self._lock = start, ended, ended.lock
        self._open: list[Run] = []  # the last called last
        self._full: Run | None = None
        self._listed: Any = None
        self._turn = 0

    def __len__(self) -> int:
        return len(self._open)

    def of(self, asked: Asked, module: nn.Module, opened: Callable[[], None]) -> tuple[Run, bool]:
        """The run that a call belongs to, and whether the call opens a round of it.

        ``opened`` is called before a run begins.
        """
        thread = threading.get_ident()
        with self._lock:
            self._heed_new_list(thread)
            for run in reversed(self._open):
                if run.is_at(asked, thread):
                    return self._called(run, thread), False
            self._turn += 1
            run = self._continued(asked, thread)
            if run is None:
                opened()
                run = self._begun(asked, module, thread)
            run.calls.clear()
            run.asked = Asked(
                tuple(x.clone() for x in asked.inputs),
                *(asked.latent, asked.timestep, asked.slack, asked.name, asked.text),
            )
            run.turn = self._turn
            return self._called(run, thread), True

    def time_of(self, run: Run) -> float:
        """The scheduler's timestep of a run's present round, the call's own if not listed."""
        return run.times[run.place] if run.times else run.asked.timestep

    def tidy(self, thread: int | None = None) -> None:
        """End the runs of a thread that have seen all their rounds or whose list is gone."""
        thread = threading.get_ident() if thread is None else thread
        with self._lock:
            self._heed_new_list(thread)
            for run in list(self._open):
                late = self._turn - run.turn
                if run.all_seen and (run.thread == thread or late > self.limit):
                    self.end(run)
                elif late > PATIENCE:
                    self.end(run)

    def end_last(self) -> None:
        """A pipeline has ended in this thread: so have its run, and all that are complete."""
        thread = threading.get_ident()
        with self._lock:
            mine = [run for run in self._open if run.thread == thread]
            if mine:
                self.end(mine[-1])
            self.tidy(thread)

    def end_all(self) -> None:
        with self._lock:
            for run in list(self._open):
                self.end(run)

    def end(self, run: Run, failed: bool = False) -> None:
        """End one run. It counts as completed if all its rounds were seen."""
        with self._lock:
            if run not in self._open:
                return
            self._open.remove(run)
            if run is self._full:
                self._full = None
            run.runner.finish((run.all_seen or run.schedule is None) and not failed)
            self._ended.put(run.runner)

    def _called(self, run: Run, thread: int) -> Run:
        self._open.remove(run)
        self._open.append(run)
        run.thread = thread
        return run

    def _heed_new_list(self, thread: int) -> None:
        """End this thread's runs if the scheduler has got other timesteps: they were given up."""
        listed = self.clock.listed()
        if listed is self._listed:
            return
        self._listed = listed
        for run in [run for run in self._open if run.thread == thread]:
            self.end(run)

    def _continued(self, asked: Asked, thread: int) -> Run | None:
        """The run whose trajectory a call continues, moved there; ``None`` if there is none."""
        places = [(run, run.next_place(asked)) for run in self._open if run is not self._full]
        places = [(run, place) for run, place in places if place is not None]
        if not places:
            return None
        times = [
            self._time(run.times[place] if run.times else asked.timestep) for run, place in places
        ]
        figures = torch.stack(
            [run.trajectory.distances(asked.latent, t) for (run, _), t in zip(places, times)]
        ).tolist()
        found = []
        for (run, place), t, (moved, independent, missed) in zip(places, times, figures):
            # Fresh noise hides where a latent comes from. The next step of the only run that could
            # be meant is taken for its own.
            hidden = run.draws_noise and len(places) == 1 and place == run.place + 1
            if run.trajectory.continues(moved, independent, t) or (
                hidden and run.knows(asked.text)
            ):
                found.append((missed, run, place, t, moved))
        if len(found) > 1:
            known = [one for one in found if one[1].knows(asked.text)]
            found = known or found
        if not found:
            return None
        # Equally near: the one that has waited longest, as samples that are made in turn do.
        _, run, place, t, moved = min(found, key=lambda one: one[0])
        run.trajectory.advance(asked.latent, t, moved)
        run.place = place
        return run

    def _begun(self, asked: Asked, module: nn.Module, thread: int) -> Run:
        """A new run, or the one that computes in full whatever is beyond the limit."""
        self.tidy(thread)
        if len(self._open) >= self.limit:
            if self.limit == 1:
                self.end(self._open[0])
            else:
                return self._full_run(asked, module, thread)
        times, schedule = self.clock.ahead(asked.timestep, asked.slack)
        runner = self._start(schedule, module, asked.inputs)
        if schedule is None:
            runner.report.say("off.not_listed")
        t = self._time(times[0] if times else asked.timestep)
        trajectory, noisy = Trajectory(asked.latent, t), self.clock.draws_noise()
        run = Run(runner, schedule, times, asked, trajectory, thread, self._turn, noisy)
        self._open.append(run)
        return run

    def _full_run(self, asked: Asked, module: nn.Module, thread: int) -> Run:
        if self._full is None:
            runner = self._start(None, module, asked.inputs)
            runner.report.say("too_many_samples", most=MOST_OPEN)
            trajectory = Trajectory(asked.latent, self._time(asked.timestep))
            self._full = Run(runner, None, (), asked, trajectory, thread, self._turn)
            self._open.append(self._full)
        return self._full

    def _time(self, timestep: float) -> float:
        return self.clock.family.time(self.clock.sigma(timestep))
