"""An even schedule: what is robust where nothing is known of a model."""

from __future__ import annotations

from collections.abc import Sequence


def even_mask(forced: Sequence[bool], evaluations: int) -> tuple[bool, ...]:
    """``evaluations`` evaluations, the forced ones among them, spread as evenly as those allow.

    Args:
        forced: rounds that must be computed.
        evaluations: of the whole run; at least the forced ones are computed.
    """
    mask = list(forced)
    stretches = _free_stretches(forced)
    shares = [0] * len(stretches)
    for _ in range(min(evaluations, len(mask)) - sum(mask)):
        gaps = [len(s) / (n + 1) if n < len(s) else 0 for s, n in zip(stretches, shares)]
        shares[gaps.index(max(gaps))] += 1
    for stretch, count in zip(stretches, shares):
        for k in range(count):
            mask[stretch[(k + 1) * (len(stretch) + 1) // (count + 1) - 1]] = True
    return tuple(mask)


def _free_stretches(forced: Sequence[bool]) -> list[list[int]]:
    """Rounds between forced ones, stretch by stretch."""
    out: list[list[int]] = [[]]
    for number, must in enumerate(forced):
        if must:
            out.append([])
        else:
            out[-1].append(number)
    return [stretch for stretch in out if stretch]
