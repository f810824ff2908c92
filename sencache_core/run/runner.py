"""The step has one owner: a runner. ``Session`` caches, ``Recorder`` and ``Probe`` measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..model.families import Family
from ..types import Branch, Decision, displacement, rms, sketch
from .stats import RunReport

#: The host's promise: the payload of this very call, computed at another noise level.
EvaluateAt = Callable[[float], Tensor]


class Runner(Protocol):
    """What every host drives: one ``begin`` a round, then one ``predict`` a model call.

    A host that gets ``None`` from ``predict`` runs the model and hands the payload to ``observe``.
    ``finish`` is called once, in ``finally``.
    """

    report: RunReport

    def begin(self, x: Sequence[Tensor], sigma: float | Tensor) -> Decision:
        """Open an evaluation round.

        Args:
            x: noisy latent, one tensor ``[B, ...]`` per modality; read, never kept or written.
            sigma: noise level; a tensor's first entry is read, together with all else that the
                decision needs, in one device-to-host copy.
        """

    def predict(self, branches: Sequence[Branch], shape: Sequence[int]) -> Tensor | None:
        """Payload ``[n B, ...]`` of a call over ``n`` branches, or ``None``: run the model.

        Args:
            branches: key of each equal chunk of dim 0.
            shape: what the payload must look like.
        """

    def observe(
        self, branches: Sequence[Branch], y: Tensor | None, evaluate_at: EvaluateAt
    ) -> Tensor | None:
        """Take note of a true payload ``[n B, ...]``. It is read; what is kept is copied.

        ``None`` says that the model ran but no payload could be had: the call is only counted.

        Returns:
            What to hand on in the payload's place (see ``hindsight.py``), of its shape and dtype;
            ``None``: the payload itself.
        """

    def finish(self, completed: bool) -> RunReport:
        """Close the run, drop every tensor, return the report."""


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
    values = [displacement(now, before)] if comparable else []
    on_device = isinstance(sigma, Tensor)
    asked = [sigma.reshape(-1)[0]] if on_device else []
    tensors = [value.to(now[0].device, torch.float32) for value in (*asked, *values, *more)]
    floats = torch.stack(tensors).tolist() if tensors else []
    level = floats.pop(0) if on_device else float(sigma)
    moved = floats.pop(0) if comparable else float("nan")
    return [level, moved, *floats]
