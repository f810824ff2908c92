"""A plan as a value: which rounds to compute, how that is written, what a budget comes to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Which rounds to compute.

    Attributes:
        mask: ``True`` where the model runs, one entry a round.
        error: expected RMS error of the final latent, by the planner's first-order model;
            geometric mean over the calibration samples.
        errors: expected RMS of (forecast - truth) / RMS of truth, on the leading branch, of a
            forecast for each round from the evaluations before it; ``nan`` where there are none.
        half: rounds of ``mask`` that run the conditional branch alone.
        skipping: what of ``error`` is due to what is skipped; the rest the sampler itself misses of
            the exact solution, where that is what the plan heads for.
    """

    mask: tuple[bool, ...]
    error: float = float("nan")
    errors: tuple[float, ...] = ()
    half: frozenset[int] = frozenset()
    skipping: float = float("nan")

    @classmethod
    def parse(cls, text: str) -> Plan:
        """A plan from its string: ``C``, ``1`` and ``x`` compute, ``h`` computes the conditional
        branch alone, ``.``, ``0``, ``r`` and ``-`` reuse.

        White space and commas are skipped.

        Raises:
            ValueError: another character, no character at all, or a first round that is not
                computed in full.
        """
        letters = [c for c in text.lower() if not c.isspace() and c != ","]
        if bad := sorted(set(letters) - set("c1xh.0r-")):
            raise ValueError(
                "a mask is written with C (compute), h (conditional branch alone) and . (reuse), "
                f"not {' '.join(bad)}: {text!r}"
            )
        if not letters or letters[0] not in "c1x":
            raise ValueError("a mask must begin with C: the first evaluation has nothing to reuse")
        half = frozenset(k for k, letter in enumerate(letters) if letter == "h")
        return cls(tuple(letter in "c1xh" for letter in letters), half=half)

    @property
    def evaluations(self) -> int:
        return sum(self.mask)

    @property
    def cost(self) -> float:
        """Evaluations, those of the conditional branch alone counted by half."""
        return sum(self.mask) - len(self.half) / 2

    def __str__(self) -> str:
        """``C`` for an evaluation, ``h`` for one of the conditional branch, ``.`` for reuse."""
        return "".join(
            "." if not compute else "h" if k in self.half else "C"
            for k, compute in enumerate(self.mask)
        )


def evaluations_of(budget: float, rounds: int, carry: float = 0.0) -> int:
    """Evaluations that ``budget``, a share of ``rounds``, comes to: halves go up, at least one.

    ``carry`` is added: what earlier stages of the same clip have left over.
    """
    return max(1, math.floor(budget * rounds + carry + 0.5 + 1e-9))


def longest_run(mask: Sequence[bool]) -> int:
    """Most reuses in a row."""
    return max(spacing(mask)[2]) - 1


def spacing(mask: Sequence[bool]) -> tuple[list[int], list[int], list[int]]:
    """Every evaluation of a mask, its distance from the one before and to the next, or the end."""
    done = [i for i, compute in enumerate(mask) if compute]
    backs = [0, *(b - a for a, b in zip(done[:-1], done[1:], strict=True))]
    return done, backs, [*backs[1:], len(mask) - done[-1]]
