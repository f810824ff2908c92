"""What a policy that looks into the model has yet to see of a round, and what it has seen."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..model.signals import NOISY_LATENT
from ..types import Branch, Look
from .stats import RunReport

_ALL_BRANCHES = Branch("all")  # whose latent is one


class Looks:
    """Owned by a session, dropped with it.

    Args:
        report: told of what cannot be seen, once.

    Attributes:
        awaits: the signal that the present round has yet to be decided by; empty: none.
        seen: the newest look.
    """

    def __init__(self, report: RunReport) -> None:
        self._report = report
        self.awaits = ""
        self.seen: Look | None = None

    def begin(self, signal: str, x: Sequence[Tensor]) -> Look | None:
        """A round that is decided by ``signal`` begins at ``x``: what is seen at once."""
        self.awaits = "" if signal == NOISY_LATENT else signal
        return Look(_ALL_BRANCHES, x[0]) if signal == NOISY_LATENT else None

    def saw(self, branches: Sequence[Branch], value: Tensor | None) -> Look | None:
        """See ``Runner.saw``. The branch that was looked at before leads on; then the first
        conditional one.
        """
        signal, self.awaits = self.awaits, ""
        if not signal:
            return None
        if value is None:
            self._report.say("unseen", policy=self._report.policy, signal=signal)
            return None
        last = self.seen.branch if self.seen else None
        lead = min(branches, key=lambda branch: (branch != last, branch.role != "cond"))
        count = len(branches) if len(value) % len(branches) == 0 else 1
        part = value.chunk(count)[branches.index(lead) if count > 1 else 0]
        self.seen = Look(lead, part.clone())
        return self.seen

    def close(self, undecided: bool) -> None:
        """The round has ended; ``undecided``: although the model was asked."""
        if undecided and self.awaits:
            self._report.say("unseen", policy=self._report.policy, signal=self.awaits)
        self.awaits = ""

    def end(self) -> None:
        self.seen = None
