"""Fill a matrix of inner products of which a run has shown a part: the rounds it computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .moments import fitted_weights

#: Known outputs on either side that one between them is taken to be like (ours).
SIDE = 2
#: Width, in rounds and as a share of them, over which the measured ratio of errors is averaged
#: (ours; the larger rules).
NEAR, NEAR_SHARE = 2.0, 0.08
#: Smallest mean square taken for an error, per mean square of the outputs.
_NOTHING = 1e-14


def completed(gram: np.ndarray, places: Sequence[int], likely: np.ndarray) -> np.ndarray:
    """Inner products of all outputs of a run: its own where it computed, else what is likely.

    An output that was not computed is taken as the affine combination of those around it that
    ``likely`` asks for, plus a rest that is like none of them. How large the rests are ``likely``
    says, times how much larger or smaller the computed outputs show them to be thereabouts: each is
    left out in turn. Sums of inner products are inner products: nothing negative can come of it.

    Args:
        gram: ``[m, m]`` as measured.
        places: of the measured rounds, rising, among all ``n``.
        likely: ``[n, n]`` of a model of the same kind.

    Returns:
        ``[n, n]`` float64.
    """
    places, count = np.asarray(places), len(likely)
    missing = np.setdiff1d(np.arange(count), places)
    spread = np.zeros((count, len(places)))
    spread[places, np.arange(len(places))] = 1.0
    if not len(missing):
        return spread @ gram @ spread.T
    rests = _rests(likely, _around(places, missing), missing)
    for row, place in zip(rests, missing, strict=True):
        spread[place] = -row[places]
    out = spread @ gram @ spread.T
    where, ratios = surprises(gram, places, likely)
    factor = np.exp(np.interp(missing, where, ratios) / 2) if len(where) else 1.0
    out[np.ix_(missing, missing)] += (rests @ likely @ rests.T) * np.outer(factor, factor)
    return out


def surprises(
    gram: np.ndarray, places: Sequence[int], likely: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where, and by how much, outputs were further from those around them than was likely.

    Returns:
        ``[m - 2]`` places of all measured rounds but the ends, and the log of (measured mean square
        of what those around it miss) / (the same by ``likely``).
    """
    places = np.asarray(places)
    inner = places[1:-1]
    if not len(inner):
        return inner, np.zeros(0)
    around = [
        np.delete(places[max(0, j - SIDE) : j + SIDE + 1], min(j, SIDE))
        for j in range(1, len(places) - 1)
    ]
    rests = _rests(likely, around, inner)
    own = rests[:, places]
    measured = np.einsum("kn,nm,km->k", own, gram, own)
    expected = np.einsum("kn,nm,km->k", rests, likely, rests)
    least = _NOTHING * np.diag(gram).mean(), _NOTHING * np.diag(likely).mean()
    return inner, np.log(np.maximum(measured, least[0]) / np.maximum(expected, least[1]))


def fitted_to(likely: np.ndarray, runs: Sequence[tuple[np.ndarray, Sequence[int]]]) -> np.ndarray:
    """``likely`` with its differences as large, round by round, as the runs have shown them to be.

    Args:
        likely: ``[n, n]`` of a model of the same kind.
        runs: inner products and places, as for :func:`completed`, of at least one run.

    Returns:
        ``[n, n]``; its outputs are on average as large as those of the runs.
    """
    count = len(likely)
    found = [surprises(gram, places, likely) for gram, places in runs]
    where, ratios = (np.concatenate(part) for part in zip(*found, strict=True))
    width = max(NEAR, NEAR_SHARE * count)
    near = np.exp(-((np.arange(count)[:, None] - where) ** 2) / (2 * width**2)) + 1e-9
    factor = np.exp(near @ ratios / near.sum(axis=1) / 2)
    # Differences alone matter to forecasts, whose weights sum to 1, and they alone are scaled.
    centred = likely - likely.mean(axis=0) - likely.mean(axis=1)[:, None] + likely.mean()
    size = np.mean([np.diag(gram).mean() for gram, _ in runs])
    scaled = centred * np.outer(factor, factor)
    return scaled + max(size - np.diag(scaled).mean(), 0.0)


def _around(places: np.ndarray, missing: np.ndarray) -> list[np.ndarray]:
    """For each missing round the measured ones on either side of it."""
    after = np.searchsorted(places, missing)
    return [places[max(0, k - SIDE) : k + SIDE] for k in after]


def _rests(likely: np.ndarray, around: Sequence[np.ndarray], wanted: np.ndarray) -> np.ndarray:
    """``[K, n]`` coefficients of (the wanted output) - (what those around it make of it)."""
    out = np.zeros((len(wanted), len(likely)))
    out[np.arange(len(wanted)), wanted] = 1.0
    sizes = np.array([len(known) for known in around])
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        known = np.stack([around[row] for row in rows])
        out[rows[:, None], known] -= fitted_weights(likely, known, wanted[rows][:, None])[:, 0]
    return out
