"""True outputs of a run, by key: what forecasts are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..forecast.reuse import Hold, ReuseRule
from ..types import SAME_TIME, Anchor, Branch, Key, Site, same_time

_HOLD = Hold()


class History:
    """The newest true outputs at every key, as many as the rule of its tap reads.

    Owned by a session, dropped with it.

    Args:
        rules: reuse rule by tap; where a tap has none, its last output is held.
        most_bytes: bound on what is kept; a key that would go beyond it is not kept, and so always
            computed. ``None``: no bound.
    """

    def __init__(self, rules: Mapping[str, ReuseRule], most_bytes: int | None = None) -> None:
        self._rules, self._most = rules, most_bytes
        self._anchors: dict[Key, list[Anchor]] = {}
        self.nbytes = 0
        self.full = False  # whether something could not be kept

    def rule(self, site: Site) -> ReuseRule:
        """The reuse rule at ``site``."""
        return self._rules.get(site.tap, _HOLD).at(site)

    def at(self, key: Key, shape: Sequence[int] | None = None) -> Sequence[Anchor]:
        """True outputs at ``key``, oldest first; none if ``shape`` is asked for and not theirs."""
        kept = self._anchors.get(key, ())
        return () if kept and shape is not None and kept[-1].y.shape != tuple(shape) else kept

    def of(self, site: Site) -> dict[Branch, Sequence[Anchor]]:
        """True outputs at one site by branch."""
        return {key.branch: kept for key, kept in self._anchors.items() if key.site == site}

    def fresh(self, key: Key, since: float) -> bool:
        """Whether the output at ``key`` was computed at time ``since`` or later (``t`` falls)."""
        kept = self.at(key)
        return bool(kept) and kept[-1].t <= since + SAME_TIME

    def anew(self, site: Site, since: float) -> bool:
        """Whether, of the outputs at ``site`` computed at ``since`` or later, one is the only one
        of its branch, though the rule reads more.
        """
        branches = (key for key in self._anchors if key.site == site and self.fresh(key, since))
        return self.rule(site).history > 1 and any(len(self.at(key)) < 2 for key in branches)

    def known(
        self, keys: Sequence[Key], since: float, shape: Sequence[int]
    ) -> list[Sequence[Anchor]] | None:
        """Outputs to forecast a call over ``keys`` from, ``None`` if one of them has none.

        Args:
            keys: of each chunk of the call.
            since: time of the evaluation that all of them must have been part of.
            shape: of one chunk's payload.
        """
        kept = [self.at(key, shape) for key in keys]
        return kept if all(kept) and all(self.fresh(key, since) for key in keys) else None

    def put(self, key: Key, t: float, y: Tensor, dtype=None) -> None:
        """Keep a copy of the true output ``y`` at time ``t``; one at the same time gives way.

        Args:
            key: where it was computed.
            t: time coordinate.
            y: payload ``[B, ...]`` of one branch.
            dtype: of what is kept; ``None``: of ``y``.
        """
        kept = self._anchors.setdefault(key, [])
        if kept and kept[-1].y.shape != y.shape:
            self._drop(kept, len(kept))
        while kept and same_time(kept[-1].t, t):
            self.nbytes -= kept.pop().y.nbytes
        self._drop(kept, len(kept) + 1 - max(1, self.rule(key.site).history))
        dtype = dtype or y.dtype
        if self._most is not None and self.nbytes + y.numel() * dtype.itemsize > self._most:
            self._drop(kept, len(kept))
            del self._anchors[key]
            self.full = True
            return
        kept.append(Anchor(t, y.to(dtype, copy=True)))
        self.nbytes += kept[-1].y.nbytes

    def _drop(self, kept: list[Anchor], count: int) -> None:
        """Forget the ``count`` oldest."""
        for anchor in kept[: max(count, 0)]:
            self.nbytes -= anchor.y.nbytes
        del kept[: max(count, 0)]

    def clear(self) -> None:
        self._anchors.clear()
        self.nbytes = 0
