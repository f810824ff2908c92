"""How much harder this sample is than the calibration's: the rules of the per-sample correction."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# All three are ours, chosen on the bundled models with care not to do harm: a plan for a clip's own
# moments is hardly better than one for the calibration's, so that only strong surprises may move
# it. ``planned-no-correction`` in benchmarks/RESULTS.md shows what is left to gain.

#: Weight of the newest measurement in the running mean of log(measured / expected error).
MEMORY = 0.3
#: Rounds after which a local surprise has faded to 1/e, as a share of the run.
FADE = 0.1
#: Smallest change of the mean that is worth a new plan, in log units (35 %).
WORTH = 0.3


@dataclass
class Hardness:
    """Running comparison of measured and expected forecast errors.

    A sample that is harder everywhere needs no other plan, only one that is harder *here*: the
    surprise counts in full for the rounds at hand and fades with their distance.

    Attributes:
        rounds: of the run.
        log_ratio: mean of log(measured / expected), 0 at the start.
        planned: its value when the present plan was made.
    """

    rounds: int
    log_ratio: float = 0.0
    planned: float = 0.0

    def learn(self, measured: float, expected: float) -> bool:
        """Take in one pair of relative errors; whether a new plan would differ by enough."""
        if not (measured > 0 and expected > 0) or not math.isfinite(measured * expected):
            return False
        self.log_ratio += MEMORY * (math.log(measured / expected) - self.log_ratio)
        if abs(self.log_ratio - self.planned) < WORTH:
            return False
        self.planned = self.log_ratio
        return True

    def factors(self, now: int) -> np.ndarray:
        """``[rounds]`` factor on squared errors by round, given that ``now`` is the present one."""
        distance = np.maximum(np.arange(self.rounds) - now, 0)
        return np.exp(2 * self.log_ratio * np.exp(-distance / (FADE * self.rounds)))
