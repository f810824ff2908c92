"""Compares the rounds that a sampler asks for with those that were expected of it."""

from __future__ import annotations

from ..sampler.pattern import fits, learn, remember
from ..sampler.schedule import OWN_GRID, Schedule

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
        self._blind = schedule.assumed or schedule.adaptive or schedule.comes_back
        self._blind |= schedule.sampler in OWN_GRID
        self.puzzled = False

    def see(self, sigma: float) -> Schedule | None:
        """A round at ``sigma`` begins. The schedule that is now expected, once it is another."""
        self._seen.append(sigma)
        if self._blind or not self._schedule.falling:
            return None
        if not self.puzzled and fits(self._schedule, len(self._seen) - 1, sigma):
            return None
        self.puzzled = True
        places = learn(self._schedule, self._seen) if self._patterns < _MOST_PATTERNS else None
        if places is None:
            return None
        self.puzzled, self._patterns = False, self._patterns + 1
        remember(self._schedule.sampler, places)
        self._schedule = self._schedule.asking_at(places)
        return self._schedule
