"""Compares the rounds that a sampler asks for with those that were expected of it."""

from __future__ import annotations

from ..sampler.pattern import MOST_HEAD, MOST_STAGES, fits, learn, remember
from ..sampler.schedule import Schedule

#: Patterns that one run may show before it counts as having none (ours).
_MOST_PATTERNS = 4


class Watch:
    """Sees every round of one run.

    Attributes:
        puzzled: whether rounds come otherwise than expected, and no pattern is known yet.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule, self._seen = schedule, []
        self._patterns = 0
        # Where only a number of steps is known, noise levels tell nothing; and such samplers have
        # no pattern to be learnt.
        self._blind = not schedule.by_list
        self.puzzled = False
        self._since = 0  # rounds without a pattern

    @property
    def lost(self) -> bool:
        """Whether it has been puzzled for longer than any pattern takes to show."""
        return self.puzzled and self._since > MOST_STAGES + MOST_HEAD

    def see(self, sigma: float) -> Schedule | None:
        """A round at ``sigma`` begins. The schedule that is now expected, once it is another."""
        self._seen.append(sigma)
        if self._blind or not self._schedule.falling:
            return None
        if not self.puzzled and fits(self._schedule, len(self._seen) - 1, sigma):
            return None
        self.puzzled = True
        self._since += 1
        places = learn(self._schedule, self._seen) if self._patterns < _MOST_PATTERNS else None
        if places is None:
            return None
        self.puzzled, self._since, self._patterns = False, 0, self._patterns + 1
        remember(self._schedule.sampler, places)
        self._schedule = self._schedule.asking_at(places)
        return self._schedule
