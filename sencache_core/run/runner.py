"""The step has one owner: a runner. ``Session`` caches, ``Recorder`` and ``Probe`` measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from ..model.families import Family
from ..types import OUTPUT, WHOLE, Branch, Decision, Key, Site, displacement, rms, sketch
from .stats import RunReport

#: The host's promise: the payload of this very call, computed at another noise level.
EvaluateAt = Callable[[float], Tensor]


class Runner(Protocol):
    """What every host drives: ``begin`` once a round, then one :class:`Call` a model call.

    ``finish`` is called in ``finally``; calling it again changes nothing.
    """

    report: RunReport
    measures: bool  # whether it asks for payloads at other noise levels
    awaits: str  # name of the signal that the present round has yet to see; empty: none

    def begin(self, x: Sequence[Tensor], sigma: float | Tensor) -> Decision:
        """Open an evaluation round.

        Args:
            x: noisy latent, one tensor ``[B, ...]`` per modality; read, never kept or written.
            sigma: noise level; a tensor's first entry is read, together with all else that the
                decision needs, in one device-to-host copy.
        """

    def saw(self, branches: Sequence[Branch], value: Tensor | None) -> None:
        """What it awaits was seen in a call over ``branches``; the round is decided by it.

        Args:
            branches: of each equal chunk of dim 0.
            value: the signal ``[n B, ...]``, read only; ``None``: this model does not have it.
        """

    def branches_changed(self) -> None:
        """The present round asks for other branches than the one before; said before its calls.

        Half a guidance pair must not be corrected without the other, and the first of them is
        handed on before the last is seen.
        """

    def predict(self, keys: Sequence[Key], shape: Sequence[int]) -> Tensor | None:
        """Payload ``[n B, ...]`` at one site over ``n`` branches, or ``None``: compute it.

        Args:
            keys: of each equal chunk of dim 0.
            shape: what the payload must look like.
        """

    def observe(
        self, keys: Sequence[Key], y: Tensor, evaluate_at: EvaluateAt | None = None
    ) -> Tensor | None:
        """Take note of a true payload ``[n B, ...]``. It is read; what is kept is copied.

        Returns:
            What to hand on in the payload's place (see ``hindsight.py``), of its shape and dtype;
            ``None``: the payload itself.
        """

    def called(self, branches: Sequence[Branch], share: float) -> None:
        """A model call over ``branches`` has been answered; ``share`` of its block work, 0..1, ran.

        Every call is booked, whether or not its payload could be had.
        """

    def finish(self, completed: bool) -> RunReport:
        """Close the run, drop every tensor, return the report."""


class Call:
    """One model call, as its host and the taps inside the model see it.

    A context manager: when it ends without an error, the runner is told what the call cost.

    Args:
        runner: owner of the step.
        branches: of each equal chunk of the call's batch.
        evaluate_at: for runners that measure; ``None`` where none is wanted.
        inside: whether the model is entered: as ``evaluate_at`` runs that very model, the runner is
            shown the whole payload once the call has ended.
        lock: held while the runner is asked, for hosts that call from several threads.
    """

    def __init__(
        self,
        runner: Runner,
        branches: Sequence[Branch],
        evaluate_at: EvaluateAt | None = None,
        inside: bool = False,
        lock: AbstractContextManager | None = None,
    ) -> None:
        self._runner, self._branches, self._evaluate_at = runner, tuple(branches), evaluate_at
        self._lock = lock or nullcontext()
        self._later: list[tuple[Site, Tensor]] | None = [] if inside and evaluate_at else None
        self._ran = 1.0
        self.seen = False  # whether a payload of it reached the runner, or came from there

    @property
    def awaits(self) -> str:
        """Name of the signal that has to be seen before the runner can answer; empty: none."""
        with self._lock:
            return self._runner.awaits

    def saw(self, value: Tensor | None) -> None:
        """What is awaited was seen in this call, ``[n B, ...]``; ``None``: it is not there."""
        with self._lock:
            self._runner.saw(self._branches, value)

    def skip(self, site: Site, shape: Sequence[int], share: float = 1.0) -> Tensor | None:
        """What stands in for the output at ``site``, ``None`` if it is to be computed.

        Args:
            site: the place.
            shape: of its payload.
            share: of the model's block work that lies there.
        """
        with self._lock:
            self._runner.report.work[site] = share
            y = self._runner.predict(self._keys(site), shape)
        if y is not None:
            self._ran -= share
            self.seen = True
        return y

    def ran(self, site: Site, y: Tensor) -> Tensor | None:
        """The output at ``site`` has been computed; what to hand on instead, ``None``: ``y``."""
        self.seen = True
        if self._later is not None and site in WHOLE:
            self._later.append((site, y))
            return None
        return self._show(site, y)

    def _show(self, site: Site, y: Tensor) -> Tensor | None:
        with self._lock:
            return self._runner.observe(self._keys(site), y, self._evaluate_at)

    def _keys(self, site: Site) -> list[Key]:
        return [Key(branch, site) for branch in self._branches]

    def __enter__(self) -> Call:
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            for site, y in self._later or ():
                self._show(site, y)
            with self._lock:  # shares of blocks add up to 1 but for rounding
                self._runner.called(self._branches, self._ran if self._ran > 1e-9 else 0.0)


class Ahead:
    """A call's visit at the output tap where the model is entered for a look.

    Args:
        call: the call.
        shape: of the model's output; ``None``: unknown, and so it is computed.

    Attributes:
        answer: what stands in for the model's output, ``None``: it was computed.
    """

    def __init__(self, call: Call, shape: Sequence[int] | None) -> None:
        self._call, self._shape = call, shape
        self.answer: Tensor | None = None

    @property
    def awaits(self) -> str:
        return self._call.awaits

    def saw(self, value: Tensor | None) -> None:
        self._call.saw(value)

    def skip(self, site: Site, shape: Sequence[int], share: float = 1.0) -> Tensor | None:
        if self._shape is not None:
            self.answer = self._call.skip(OUTPUT, self._shape)
        return self.answer

    def ran(self, site: Site, y: Tensor) -> None:
        """The host itself shows the call what the model has answered."""


def runs_first(decision: Decision, branch: Branch) -> bool:
    """Whether a branch's output is computed in a partial round, so that others may need it."""
    return decision.compute.test(Key(branch, OUTPUT))


def sketch_latent(x: Sequence[Tensor], family: Family) -> tuple[Tensor, ...]:
    """Sketch of each modality, relative to its own RMS where the family asks for it."""
    sketches = tuple(sketch(part) for part in x)
    if family.scale_free:
        return tuple(s / rms(s).clamp_min(1e-12) for s in sketches)
    return sketches


def read_round(
    sigma: float | Tensor,
    now: tuple[Tensor, ...],
    before: tuple[Tensor, ...] | None,
    *more: Tensor,
) -> list[float]:
    """Noise level, RMS displacement (``nan`` if nothing comparable came before) and ``more``.

    Everything on a device comes over in one copy, in float32: not every device knows float64.
    """
    comparable = before is not None and [a.shape for a in now] == [b.shape for b in before]
    values = [displacement(now, before)] if comparable and now else []
    on_device = isinstance(sigma, Tensor)
    asked = [sigma.reshape(-1)[0]] if on_device else []
    tensors = [*asked, *values, *more]
    device = now[0].device if now else None
    tensors = [value.to(device, torch.float32) for value in tensors]
    floats = torch.stack(tensors).tolist() if tensors else []
    level = floats.pop(0) if on_device else float(sigma)
    moved = floats.pop(0) if values else float("nan")
    return [level, moved, *floats]
