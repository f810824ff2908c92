"""Guidance pairs: rebuild an unconditional output from the conditional one of the same round.

The difference of the two changes far less over a run than either of them (Lv et al., FasterCache,
arXiv 2410.19355, section 3.3). So an evaluation may run the conditional branch alone, for half the
price: the other output is that one minus a forecast of the difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..types import Anchor, Branch, same_time
from .reuse import ReuseRule


class Pairs:
    """Differences of the guidance pairs of one run. Owned by a session, dropped with it.

    Args:
        rule: forecasts a difference from those of the last full evaluations.
        wanted: whether anybody asks for them; if not, nothing is kept.
    """

    def __init__(self, rule: ReuseRule, wanted: bool = True) -> None:
        self._rule, self.wanted = rule, wanted
        self._gaps: dict[tuple[Branch, Branch], list[Anchor]] = {}
        self._alone: dict[Branch, Tensor] = {}

    @property
    def known(self) -> bool:
        """Whether a pair was computed in full at the last full evaluation."""
        return bool(self._gaps)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        gaps = sum(anchor.y.nbytes for gaps in self._gaps.values() for anchor in gaps)
        return gaps + sum(y.nbytes for y in self._alone.values())

    def keep(self, t: float, history: Mapping[Branch, Sequence[Anchor]]) -> None:
        """Note the differences of a full evaluation at ``t``; pairs that it did not run go.

        Args:
            t: time coordinate of the evaluation.
            history: true outputs by branch, the newest last.
        """
        if not self.wanted:
            return
        newest = {b: anchors[-1] for b, anchors in history.items() if anchors}
        here = {b: anchor.y for b, anchor in newest.items() if same_time(anchor.t, t)}
        gaps = {}
        for branch, y in here.items():
            partner = _partner(branch, here)
            if partner is None or here[partner].shape != y.shape:
                continue
            pair = branch, partner
            kept = (a for a in self._gaps.get(pair, ()) if not same_time(a.t, t))
            before = [a for a in kept if a.y.shape == y.shape]
            gaps[pair] = [*before, Anchor(t, here[partner] - y)][-self._rule.history :]
        self._gaps = gaps

    def alone(self, branch: Branch, y: Tensor) -> None:
        """A conditional output ``[B, ...]`` of a round that runs no other. It is copied."""
        if self.wanted and branch.role == "cond":
            self._alone[branch] = y.clone()

    def rebuild(
        self, branches: Sequence[Branch], t: float, shape: Sequence[int]
    ) -> list[Tensor] | None:
        """The unconditional outputs of the present round, each of ``shape``, in their dtypes.

        ``None`` where a partner has not been answered in this round, or is not known for sure, or
        is another than at the last full evaluation (a prompt schedule).
        """
        outputs = []
        for branch in branches:
            partner = _partner(branch, self._alone)
            gaps = self._gaps.get((branch, partner))
            if not gaps or not gaps[-1].y.shape == self._alone[partner].shape == tuple(shape):
                return None
            outputs.append(self._alone[partner] - self._rule.predict(t, gaps))
        return outputs

    def forget(self) -> None:
        """Drop what belongs to the present round only."""
        self._alone.clear()

    def clear(self) -> None:
        """Drop every tensor."""
        self._alone.clear()
        self._gaps.clear()


def _partner(branch: Branch, among: Mapping[Branch, Tensor]) -> Branch | None:
    """The one conditional branch that shares the pass of an unconditional one."""
    if branch.role != "uncond":
        return None
    found = [other for other in among if other.role == "cond" and other.shared == branch.shared]
    return found[0] if len(found) == 1 else None
