"""What an ordinary run tells of its model: likeness of its true outputs, as a small value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from torch import Tensor

from ..types import Branch, same_time, sketch
from .stats import RunReport

#: Entries of an output, and batch item, that likeness is measured on (ours): an RMS over so many is
#: known to 1 %, where clips differ by 10 %, and a hundred outputs take 3 MB.
WITNESSED = 8192
#: Most outputs of one run that are told of (ours); of more, an even selection.
MOST_OUTPUTS = 128
#: Fewest that tell anything: a forecast from two, and what it missed.
FEWEST_OUTPUTS = 3


@dataclass(frozen=True, eq=False)
class Observed:
    """Inner products of the true outputs of one completed run.

    Attributes:
        t: ``[N]`` time coordinates of the rounds that were computed in full, strictly rising.
        gram: ``[N, N]``, mean over entries of ``y(t) y(s)``, of the guided outputs; of the
            conditional ones where the guidance is not known.
        lead: ``[N, N]``, the same of the conditional outputs.
        rounds: of the run, those that were reused among them.
        error: median relative error of the run's forecasts, ``nan`` if none was measured.
    """

    t: np.ndarray
    gram: np.ndarray
    lead: np.ndarray
    rounds: int
    error: float = float("nan")

    @property
    def complete(self) -> bool:
        """Whether every round of the run was computed."""
        return len(self.t) == self.rounds


class Witness:
    """Watches the true outputs of one run, on sketches. Owned by a session, dropped with it.

    Args:
        guidance: scale of the cond/uncond pair, 0 if unknown.
        learn: called with what a completed run has told.
    """

    def __init__(self, guidance: float, learn: Callable[[Observed], None]) -> None:
        self._guidance, self._learn = guidance, learn
        self._round: dict[Branch, Tensor] = {}
        self._kept: list[tuple[float, Tensor, Tensor]] = []

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        pairs = ((y.nbytes, 0 if lead is y else lead.nbytes) for _, y, lead in self._kept)
        return sum(map(sum, pairs))

    def observe(self, branches: Sequence[Branch], outputs: Sequence[Tensor]) -> None:
        """True outputs ``[B, ...]`` of the present round; they are read."""
        for branch, y in zip(branches, outputs, strict=True):
            self._round[branch] = sketch(y, WITNESSED)

    def close(self, t: float, computed: bool) -> None:
        """The present round, at time ``t``, has ended; ``computed``: in full."""
        seen, self._round = self._round, {}
        roles = [branch.role for branch in seen]
        if not computed or "cond" not in roles or any(same_time(t, old) for old, *_ in self._kept):
            return
        lead = y = next(out for branch, out in seen.items() if branch.role == "cond")
        if self._guidance and sorted(roles) == ["cond", "uncond"]:
            other = next(out for branch, out in seen.items() if branch.role == "uncond")
            if other.shape == lead.shape:
                y = other + self._guidance * (lead - other)
        self._kept.append((t, y, lead))

    def finish(self, completed: bool, report: RunReport) -> None:
        """The run has ended: hand on what it has told, if that is something, and drop the rest."""
        kept, self._kept, self._round = self._kept, [], {}
        if completed and (observed := _observed(kept, report)) is not None:
            self._learn(observed)


def _observed(kept: list[tuple[float, Tensor, Tensor]], report: RunReport) -> Observed | None:
    if len(kept) < FEWEST_OUTPUTS or len({y.shape for _, y, _ in kept}) > 1:
        return None
    kept = sorted(kept, key=lambda one: one[0])
    if len(kept) > MOST_OUTPUTS:
        places = np.linspace(0, len(kept) - 1, MOST_OUTPUTS).round().astype(int)
        kept = [kept[k] for k in places]
    t = np.array([one[0] for one in kept], dtype=np.float64)
    gram = _gram([y for _, y, _ in kept])
    lead = gram if all(y is lead for _, y, lead in kept) else _gram([one[2] for one in kept])
    if not (np.isfinite(gram).all() and np.isfinite(lead).all() and (np.diag(gram) > 0).all()):
        return None
    errors = [record.error for record in report.steps if record.error is not None]
    rounds = len(report.steps) - report.idle
    return Observed(t, gram, lead, rounds, median(errors) if errors else float("nan"))


def _gram(outputs: Sequence[Tensor]) -> np.ndarray:
    # A forecast's error is a small difference of these; and not every device knows float64.
    flat = torch.stack([y.reshape(-1) for y in outputs]).cpu().double()
    return (flat @ flat.T / flat.shape[1]).numpy()
