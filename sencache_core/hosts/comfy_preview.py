"""What ComfyUI shows of the clean latent while forecasts are taken back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..run.runner import Runner
from ..sampler.solver import Clean
from ..types import Key


class Mended:
    """Stands around the callback of a sampling call, and shows it the clean latent as it is.

    An output that carries a correction (see ``hindsight.py``) stands for another clean latent than
    the one that the corrected sample is on its way to. Previews and the ``denoised_output`` of
    ComfyUI's sampler nodes are made from it.

    Args:
        runner: of the run; one that corrects nothing has nothing to mend.
        clean: how the sampler sees the clean latent.
        guidance: scale of the plain guider.
        callback: ``(step, x0, x, total_steps)``.
    """

    def __init__(
        self, runner: Runner, clean: Clean, guidance: float, callback: Callable[..., Any]
    ) -> None:
        self._runner, self._clean, self._guidance = runner, clean, guidance
        keep = getattr(runner, "keep_offsets", None)
        self._offsets: dict[Key, tuple[Tensor | None, Tensor]] = keep() if keep is not None else {}
        self._callback = callback

    def __call__(self, step: int, x0: Any, *args: Any, **kwargs: Any) -> Any:
        missing = self._missing()
        if isinstance(x0, Tensor) and missing is not None and missing.shape == x0.shape:
            x0 = x0 + missing.to(x0)
        return self._callback(step, x0, *args, **kwargs)

    def _missing(self) -> Tensor | None:
        """What the clean latent of the present round lacks, ``None``: nothing, or not known."""
        if not self._offsets:
            return None
        p, q = self._clean(self._runner.report.steps[-1].sigma)
        roles = {
            key.branch.role: more * q if off is None else off * p + more * q
            for key, (off, more) in self._offsets.items()
        }
        if len(roles) != len(self._offsets) or not roles.keys() <= {"cond", "uncond"}:
            return None
        cond, uncond = roles.get("cond"), roles.get("uncond")
        if cond is None or uncond is None:
            return cond
        return uncond + self._guidance * (cond - uncond)
