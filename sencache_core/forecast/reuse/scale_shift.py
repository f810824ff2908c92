"""Repeat a layer's last output, scaled and shifted as its outputs were measured to change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from torch import Tensor

from ...types import Anchor, Site
from ..layers import LayerCurves
from .polynomial import Hold

#: Largest scale (ours): outputs of a layer do not double from one step to the next few.
LARGEST_SCALE = 2.0


@dataclass(frozen=True, eq=False)
class ScaleShift(Hold):
    """``a y + b``: the affine function of the last output ``y`` that was nearest on average.

    Least squares over the entries of a layer's outputs at two times of uncached runs:
    ``a = cov(y_i, y_j) / var(y_i)`` and ``b = mean(y_j) - a mean(y_i)``, the latter kept relative
    to the RMS of ``y_i``; without the shift ``a = <y_i, y_j> / <y_i, y_i>``. In closed form what
    Block Caching (Wimbauer et al., arXiv 2312.03209, section 3.3) trains by channel. Where nothing
    was measured the output is repeated as it is.

    Args:
        curves: of the layers.
        shift: whether ``b`` is added.
        margin: share of the measured mean square error of repeating the output by which scaling
            must lower it; else it is repeated. 0: always scaled.
        site: the layer; ``None``: none, and so outputs are repeated.
    """

    name: ClassVar[str] = "scale_shift"
    gives: ClassVar[str] = (
        "for layers: the last output, scaled and shifted as it was measured to change (Block "
        "Caching, EOC)"
    )
    curves: LayerCurves | None = None
    shift: bool = True
    margin: float = 0.0
    site: Site | None = None

    def at(self, site: Site) -> ScaleShift:
        return replace(self, site=site)

    def fit(self, before: float, t: float) -> tuple[float, float]:
        """Scale, and shift per RMS of the output at ``before``, for the time ``t``."""
        own, site = None, self.site
        if self.curves is not None and site is not None:
            own = self.curves.block(site.kind, site.index, site.count)
        if own is None:
            return 1.0, 0.0
        pairs = ((before, before), (before, t), (t, t))
        size, inner, later = (float(own.inner(site.kind, *pair)[0]) for pair in pairs)
        means = (float(own.mean(site.kind, time)[0]) for time in (before, t))
        first, last = means if self.shift else (0.0, 0.0)
        spread, along = size - first * first, inner - first * last
        if not np.isfinite(inner) or spread <= 1e-12 * size or size <= 0:
            return 1.0, 0.0
        scale = min(max(along / spread, 0.0), LARGEST_SCALE)
        shift = (last - scale * first) / math.sqrt(size)
        held, left = size + later - 2 * inner, later - last * last - along * along / spread
        if self.margin and left > (1 - self.margin) * held:
            return 1.0, 0.0
        return scale, shift

    def predict(self, t: float, anchors: Sequence[Anchor]) -> Tensor:
        newest = anchors[-1]
        scale, shift = self.fit(newest.t, t)
        if (scale, shift) == (1.0, 0.0):
            return newest.y.clone()
        y = newest.y.float()
        made = y * scale
        if shift:
            made += shift * y.square().mean(dim=tuple(range(1, y.ndim)), keepdim=True).sqrt()
        return made.to(newest.y.dtype)
