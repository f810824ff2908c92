"""What every true evaluation tells for nothing: how far a forecast would have erred."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..forecast.reuse import Hold, ReuseRule
from ..types import Anchor, Key, rms, same_time
from .history import History
from .stats import RunReport, StepRecord

#: How many times worse than holding a forecast must have erred before the last output is held
#: instead (ours, chosen on the bundled Wan: well above 1, since on fine schedules a clip whose
#: forecast was once the worse one is ruined by holding from there on).
HOLD_MARGIN = 1.4

#: Relative error from which on a forecast is no nearer to the output than zero is: it says nothing.
NOTHING_KNOWN = 1.0

_HOLD = Hold()


class Trial:
    """Measures the rule's forecasts on the leading branch, and holds where they mislead.

    A forecast pays on smooth trajectories and misleads on coarse or noisy ones. Which of the two
    this sample is, the true evaluation that ends a run of reuse tells, for the cost of one more
    difference.

    Args:
        rule: whose forecasts are measured.
        report: told what came of it.
        mends: whether holding takes their place where they mislead.

    Attributes:
        in_force: the rule, or holding.
        hopeless: whether two forecasts in a row have said nothing about their outputs.
        pending: errors of the newest evaluation, each 0-d on its device, to be read with the next
            device-to-host copy: the rule's, and after a run of reuse also that of holding.
    """

    def __init__(self, rule: ReuseRule, report: RunReport, mends: bool = True) -> None:
        self._rule, self._report, self._mends = rule, report, mends
        self._measured: list[tuple[StepRecord, Tensor]] = []
        self._leader: Key | None = None
        self.in_force: ReuseRule = rule
        self._useless = 0  # forecasts in a row that have said nothing
        self.hopeless = False
        self.pending: tuple[Tensor, ...] = ()

    def leads(self, key: Key, history: History, since: float) -> bool:
        """Whether ``key`` is where errors are measured: the first conditional branch, or the first
        of all until there is one; another once it was not computed at ``since`` or later.
        """
        lead = self._leader
        better = lead is not None and lead.branch.role != "cond" and key.branch.role == "cond"
        if lead is None or better or not history.fresh(lead, since):
            self._leader = key
        return key == self._leader

    def measure(
        self,
        y: Tensor,
        t: float,
        kept: Sequence[Anchor],
        record: StepRecord,
        reused: bool,
    ) -> None:
        """Compare a true output with the forecast that would have stood in for it.

        Args:
            y: payload ``[B, ...]``.
            t: its time coordinate.
            kept: earlier outputs of the same key.
            record: of the round; it gets the error once that has been read.
            reused: whether a run of reuse ends here.
        """
        if not kept or same_time(kept[-1].t, t):
            return
        truth = y.float()
        size = rms(truth).clamp_min(1e-12)
        error = rms(self._rule.predict(t, kept).float() - truth) / size
        self._measured.append((record, error))
        self.pending = (error,)
        if reused and len(kept) > 1:
            self.pending = error, rms(kept[-1].y.float() - truth) / size

    def learn(self, errors: Sequence[float]) -> float:
        """What :attr:`pending` held, now read; the rule's error, ``nan`` if there was none."""
        self.pending = ()
        if errors:
            self._useless = self._useless + 1 if errors[0] >= NOTHING_KNOWN else 0
            self.hopeless |= self._useless > 1
        if len(errors) > 1:
            forecast, held = errors
            misled = self._mends and forecast > HOLD_MARGIN * held
            self.in_force = _HOLD if misled else self._rule
            if misled:
                self._report.say("held", rule=self._rule.name)
        return errors[0] if errors else float("nan")

    def settle(self) -> None:
        """Write every error into its record, and drop the tensors."""
        for record, error in self._measured:
            record.error = float(error)
        self._measured.clear()
        self.pending = ()
