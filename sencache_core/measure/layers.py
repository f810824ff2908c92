"""Watch the layers of a model along an uncached run: how each changes from step to step."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..forecast.layers import LayerCurve, LayerCurves
from ..types import Site, same_time, sketch

#: Steps back that outputs are compared with (ours): a third of the usual 50; SmoothCache looks 3
#: ahead, other numbers of steps make more of them.
LAGS = 16
#: Entries of an output that are compared (ours): relative errors of 1 / sqrt(2 n), 1 %.
SIZE = 4096


class LayerWatch:
    """Keeps sketches of the newest outputs of every layer, and what their comparison gave."""

    def __init__(self) -> None:
        self._times: dict[Site, list[float]] = {}
        self._kept: dict[Site, deque[Tensor]] = {}
        self._rows: dict[Site, list[Tensor]] = {}

    def observe(self, site: Site, t: float, y: Tensor) -> None:
        """Take note of the leading branch's output ``[B, ...]`` of a layer at time ``t``.

        Of several at one time the first counts; one of another shape than before is passed over.
        """
        times = self._times.setdefault(site, [])
        if any(same_time(t, other) for other in times):
            return
        kept = self._kept.setdefault(site, deque(maxlen=LAGS))
        now = sketch(y, SIZE).flatten()
        if kept and kept[0].shape != now.shape:
            return
        numbers = now.new_zeros(2 + 2 * LAGS)
        numbers[0], numbers[1] = now.square().mean(), now.mean()
        if kept:
            past = torch.stack([*kept])
            change = (past - now).abs().mean(dim=1) / now.abs().mean().clamp_min(1e-30)
            numbers[2 : 2 + len(past)] = change
            numbers[2 + LAGS : 2 + LAGS + len(past)] = (past * now).mean(dim=1)
        times.append(t)
        kept.appendleft(now)
        self._rows.setdefault(site, []).append(numbers)

    def clear(self) -> None:
        """Drop the outputs."""
        self._kept.clear()

    def curves(self) -> LayerCurves | None:
        """What was measured; ``None`` if nothing was, or not of all layers at the same times."""
        times = next(iter(self._times.values()), [])
        falling = all(b < a for a, b in zip(times, times[1:], strict=False))
        if not times or not falling or any(t != times for t in self._times.values()):
            return None
        kinds: dict[str, list[Site]] = {}
        for site in sorted(self._rows, key=lambda site: site.index):
            kinds.setdefault(site.kind, []).append(site)
        if any([site.index for site in s] != [*range(s[0].count)] for s in kinds.values()):
            return None
        curves = {kind: _curve([self._rows[site] for site in s]) for kind, s in kinds.items()}
        return LayerCurves(np.array(times[::-1], dtype=np.float64), curves)


def _curve(rows: Sequence[Sequence[Tensor]]) -> LayerCurve:
    """Of the layers of one kind; rows by block, in the order of the run."""
    found = torch.stack([torch.stack([*own]) for own in rows]).cpu().double().numpy()
    found = np.moveaxis(found[:, ::-1], 1, 2)  # [depth, numbers, T], ascending in time
    lags = min(LAGS, max(found.shape[2] - 1, 1))
    change, inner = found[:, 2 : 2 + lags], found[:, 2 + LAGS : 2 + LAGS + lags]
    return LayerCurve(change.copy(), inner.copy(), found[:, 0].copy(), found[:, 1].copy())


def average(samples: Sequence[LayerCurves | None]) -> LayerCurves | None:
    """Mean over samples of one schedule; ``None`` where one of them has no such curves."""
    first = samples[0]
    if first is None:
        return None
    for other in samples[1:]:
        if (
            other is None
            or len(other.t) != len(first.t)
            or other.kinds.keys() != first.kinds.keys()
        ):
            return None
    kinds = {}
    for kind, curve in first.kinds.items():
        parts = {
            name: np.mean([getattr(sample.kinds[kind], name) for sample in samples], axis=0)
            for name in vars(curve)
        }
        kinds[kind] = LayerCurve(**parts)
    return LayerCurves(first.t, kinds)
