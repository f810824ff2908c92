"""What one run takes from those before it, and leaves for those after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..forecast.moments import Moments
from ..run.stats import RunReport
from ..run.witness import Observed, Witness
from ..sampler.schedule import Schedule
from .learnt import LearntProfile
from .learnt_store import LearntStore
from .profile import ProfileHeader
from .profile_file import NewerFormat, ProfileError


@dataclass(frozen=True)
class Lesson:
    """One run's dealings with a store.

    Attributes:
        store: where what is learnt lies.
        header: which runs this one is like.
        report: told what cannot be read or written; never raised, for no sample is lost by it.
        known: what such runs have told; ``None``: nothing.
        shut: whether nothing may be added: a newer version has written there.
    """

    store: LearntStore
    header: ProfileHeader
    report: RunReport
    known: LearntProfile | None = None
    shut: bool = False

    @classmethod
    def of(
        cls, store: LearntStore, header: ProfileHeader, schedule: Schedule, report: RunReport
    ) -> Lesson | None:
        """The lesson of a run that begins; ``None`` if the host does not know the checkpoint.

        Args:
            store: where to learn from, and teach.
            header: what the host knows of the run.
            schedule: its noise levels.
            report: of the run.
        """
        if not header.fingerprint:
            return None
        levels = tuple(min(sigma, 1e30) for sigma in schedule.sigmas)
        header = replace(header, sampler=schedule.sampler, sigmas=levels, tap=report.tap)
        lesson = cls(store, header, report)
        try:
            return replace(lesson, known=store.load(header))
        except NewerFormat as error:
            report.say("learn.newer", error=str(error))
            return replace(lesson, shut=True)
        except ProfileError as error:
            report.say("learn.lost", error=str(error))
            return lesson

    @property
    def wants_all(self) -> bool:
        """Whether this run is to be computed in full, for the next ones to know all of it."""
        return self.store.full_first and self.known is None and not self.shut

    def moments(self, prior: Moments, times: Sequence[float]) -> Moments | None:
        """What is known, at the times of this run's rounds; ``None``: nothing."""
        return self.known.moments(prior, times) if self.known else None

    def witness(self) -> Witness | None:
        """Watches this run; ``None`` if it teaches nothing."""
        return None if self.shut else Witness(self.header.guidance, self._add)

    def _add(self, observed: Observed) -> None:
        try:
            self.store.add(self.header, observed)
        except ProfileError as error:
            self.report.say("learn.failed", error=str(error))

    def announce(self) -> None:
        """Say that this run is computed in full."""
        self.report.say("learn.full")
