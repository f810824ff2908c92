"""A plain sampler over any callable: the reference host, for tests and for planning."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..model.families import Places
from ..model.taps import Tap, tapped
from ..run.runner import Call, Runner
from ..sampler.schedule import Schedule
from ..types import OUTPUT, STACK, Branch

#: ``model(x, sigma, condition) -> output``: all ``[B, ...]``; the output is a velocity or a v.
Model = Callable[[Tensor, float, Any], Tensor]
#: ``look(name, x, sigma, condition) -> signal``, see ``model/signals.py``.
Look = Callable[[str, Tensor, float, Any], Tensor | None]


@dataclass(frozen=True)
class Tapped:
    """A network with a tap inside, in the place of a model.

    Args:
        network: called as :data:`Model` is.
        places: where its blocks are found.
        tap: what is answered and watched in there; one that does not stand for the whole model.
    """

    network: nn.Module
    places: Places
    tap: Tap

    def __call__(self, x: Tensor, sigma: float, condition: Any) -> Tensor:
        return self.network(x, sigma, condition)


def sample(
    model: Model,
    x: Tensor,
    schedule: Schedule,
    conditions: Mapping[str, Any],
    guidance: float = 1.0,
    runner: Runner | None = None,
    prediction: str = "flow",
    look: Look | None = None,
) -> Tensor:
    """Sample with Euler (flow) or DDIM (v), one model call per condition and step.

    Args:
        model: the denoiser.
        x: starting noise ``[B, ...]``; not written to.
        schedule: noise levels.
        conditions: by role; ``"cond"`` alone, or ``"cond"`` and ``"uncond"``.
        guidance: classifier-free guidance scale, used when ``"uncond"`` is given.
        runner: caches or measures; ``None`` runs the model plainly.
        look: what policies may look at, where the model has any of it.
        prediction: ``"flow"`` or ``"v"``, see ``Family.prediction``.

    Returns:
        The last latent ``[B, ...]``.
    """
    step = _euler if prediction == "flow" else _ddim
    completed = False
    try:
        for sigma, following in zip(schedule.sigmas[:-1], schedule.sigmas[1:], strict=True):
            if runner is not None:
                runner.begin((x,), sigma)
            outputs = {
                role: _call(model, x, sigma, Branch(role), condition, runner, look)
                for role, condition in conditions.items()
            }
            output = outputs["cond"]
            if "uncond" in outputs:
                output = outputs["uncond"] + guidance * (output - outputs["uncond"])
            x = step(x, output, sigma, following)
        completed = True
    finally:
        if runner is not None:
            runner.finish(completed)
    return x


def _call(model, x, sigma, branch, condition, runner, look=None) -> Tensor:
    if runner is None:
        return model(x, sigma, condition)
    if isinstance(model, Tapped):
        with Call(runner, (branch,)) as call:
            output = call.skip(OUTPUT, x.shape)
            if output is None:
                with tapped(model.tap, model.network, model.places, call):
                    output = model(x, sigma, condition)
                call.ran(OUTPUT, output)
        return output
    site = STACK if runner.report.tap == STACK.tap else OUTPUT  # the one place that it knows
    with Call(runner, (branch,), lambda other: model(x, other, condition)) as call:
        if call.awaits:
            call.saw(look(call.awaits, x, sigma, condition) if look is not None else None)
        output = call.skip(site, x.shape)
        if output is not None:
            return output
        output = model(x, sigma, condition)
        handed = call.ran(site, output)
    return output if handed is None else handed


def _euler(x: Tensor, velocity: Tensor, sigma: float, following: float) -> Tensor:
    return x + (following - sigma) * velocity


def _ddim(x: Tensor, v: Tensor, sigma: float, following: float) -> Tensor:
    """Rotate by the angle between the two noise levels (Salimans and Ho 2022, appendix D)."""
    angle = math.atan(following) - math.atan(sigma)
    return math.cos(angle) * x + math.sin(angle) * v
