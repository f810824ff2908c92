"""Go on along a layer's last change, where that was measured to help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from torch import Tensor

from ...types import SAME_TIME, Anchor, Site, same_time
from ..layers import LayerCurves
from .base import Weigh
from .polynomial import MOST_UNDAMPED, Polynomial


@dataclass(frozen=True, eq=False)
class Gradient(Polynomial):
    """``A1 + eta g (A1 - A2)`` of a layer's last two outputs, or ``A1`` where that is nearer.

    Source: Qiu et al., "Accelerating Diffusion Transformer via Gradient-Optimized Cache"
    (arXiv 2503.05156): the gradient is the change per step, so that ``g`` is the way to go over the
    way between the two. Their code takes the difference from what stood in at the step before; that
    is a forecast itself, whose error comes back at the next one with the other sign, times ``eta``
    (``tests/test_goc.py`` has both beside each other). Here both outputs were computed.

    Args:
        eta: of the gradient; 1 is a line.
        curves: of the layers: the last output is repeated where, on uncached runs, going on was
            further from the truth, mean square over the layer (their inflection points); ``None``:
            nowhere.
        held: times at which it is repeated in any case.
        site: the layer; ``None``: none.
    """

    name: ClassVar[str] = "gradient"
    gives: ClassVar[str] = (
        "for layers: the last output and a share of its change a step, where that was measured "
        "to help (GOC)"
    )
    most_weight: ClassVar[float] = MOST_UNDAMPED
    history: int = 2
    eta: float = 1.0
    curves: LayerCurves | None = None
    held: tuple[float, ...] = ()
    site: Site | None = None

    def at(self, site: Site) -> Gradient:
        return replace(self, site=site)

    def _among(self, times: np.ndarray) -> Weigh:
        def weigh(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
            weights = np.zeros((*known.shape[:-1], wanted.shape[-1], known.shape[-1]))
            weights[..., -1] = 1.0
            if known.shape[-1] > 1:
                newer, older = times[known][..., -1:], times[known][..., -2:-1]
                apart = np.abs(older - newer) >= SAME_TIME
                way = np.where(apart, newer - times[wanted], 0.0)
                further = self.eta * way / np.where(apart, older - newer, 1.0)
                weights[..., -1] += further
                weights[..., -2] -= further
            return weights

        return weigh

    def helps(self, older: float, newer: float, t: float) -> bool:
        """Whether it is nearer to the output at ``t`` than the one at ``newer`` is."""
        if any(same_time(t, time) for time in self.held):
            return False
        if self.curves is None or self.site is None:
            return True
        kind = self.site.kind
        own = self.curves.block(kind, self.site.index, self.site.count)
        if own is None:
            return False
        # |A1 + w (A1 - A2) - y|^2 - |A1 - y|^2 = w^2 |A1 - A2|^2 + 2 w <A1 - A2, A1 - y>
        weight = -self.weights([older, newer], t)[0]
        pairs = ((newer, newer), (older, newer), (older, older), (newer, t), (older, t))
        nn, on, oo, ny, oy = (float(own.inner(kind, *pair)[0]) for pair in pairs)
        return weight * (nn - 2 * on + oo) + 2 * (nn - ny - on + oy) < 0  # nan: no

    def predict(self, t: float, anchors: Sequence[Anchor]) -> Tensor:
        if len(anchors) > 1 and self.helps(anchors[-2].t, anchors[-1].t, t):
            return super().predict(t, anchors)
        return anchors[-1].y.clone()
