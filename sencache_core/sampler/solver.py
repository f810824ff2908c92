"""What one step of the sampler does with the model's output: x' = a x + b y."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

from ..model.families import Family
from ..types import same_time
from .schedule import Schedule

#: Samplers whose step is ``x' = a x + b y`` in the output ``y`` of that step alone. An empty name
#: is the plain loop's: Euler for flow models, DDIM for v-prediction.
_ONE_STEP = frozenset({"", "euler", "ddim"})

#: Those of them that turn a latent of constant scale by an angle, if the model predicts v. All
#: others are k-diffusion's, on latents ``x0 + sigma noise``.
_TURNING = frozenset({"", "ddim"})


#: ``clean(sigma)``: ``(p, q)`` of the clean latent ``x0 = p x + q y`` that an output stands for.
Clean = Callable[[float], tuple[float, float]]


def transitions(
    family: Family, schedule: Schedule, clean: Clean | None = None
) -> tuple[tuple[float, float], ...] | None:
    """``(a, b)`` of each step ``x' = a x + b y``; ``None`` for a sampler of another form.

    Multistep samplers carry old outputs on, two-evaluation samplers average two, and stochastic
    ones draw noise that was sized for the latent as it is: for all of them a latent cannot be
    corrected through one output, and none is.

    Flow: Euler, ``b`` is the difference of sigmas. v-prediction under the name ``ddim`` or none: a
    rotation by the angle between the noise levels (Salimans and Ho 2022, appendix D). v-prediction
    under the name ``euler``: k-diffusion's latent ``x0 + sigma noise``, whose derivative is
    ``x sigma / (sigma^2 + 1) + y / sqrt(sigma^2 + 1)`` (Karras et al. 2022, table 1). Where the
    host knows how its sampler sees the clean latent, Euler follows that: ``dx = (x - x0) / sigma``.
    """
    if schedule.assumed or schedule.sampler not in _ONE_STEP or not schedule.falling:
        return None
    if any(
        len(places) > 1 for places in schedule.places
    ):  # it asks more often than a sampler of that name
        return None
    out = []
    for now, after in zip(schedule.sigmas[:-1], schedule.sigmas[1:], strict=True):
        if clean is not None and schedule.sampler == "euler":
            p, q = clean(now)
            share = (after - now) / now
            out.append((1 + share * (1 - p), -share * q))
        elif family.prediction == "flow":
            out.append((1.0, after - now))
        elif schedule.sampler == "euler":
            square = now * now + 1
            out.append((1 + (after - now) * now / square, (after - now) / math.sqrt(square)))
        else:
            angle = math.atan(after) - math.atan(now)
            out.append((math.cos(angle), math.sin(angle)))
    return tuple(out)


def turns(family: Family, schedule: Schedule) -> bool:
    """Whether the sampler turns a latent of constant scale by an angle, along v."""
    return family.prediction == "v" and schedule.sampler in _TURNING


def unit_scale(family: Family, schedule: Schedule, t: float, clean: Clean | None = None) -> float:
    """Factor from the sampler's latent at ``t`` to one of constant scale, on which moments are."""
    if clean is not None and family.prediction == "v":
        sigma = family.sigma(t)
        return clean(sigma)[0] * math.sqrt(sigma * sigma + 1)
    if family.prediction == "flow" or turns(family, schedule):
        return 1.0
    return math.cos(t * math.pi / 2)


def round_weights(family: Family, schedule: Schedule) -> list[tuple[float, float]]:
    """``(weight, t_after)`` of every expected round: RMS that the latent moves per RMS of output.

    In the units of a latent of constant scale: the difference of sigmas (flow) or the angle in
    radians (v-prediction). Rounds that share a step share its weight. A list that has a noise level
    twice is a second-order scheduler's (diffusers' Heun), whose two evaluations there share the way
    to the next level; a one-step sampler's second visit alone moves the latent.
    """
    times = [family.time(sigma) for sigma in schedule.sigmas]
    start, end = list(range(schedule.num_steps)), list(range(1, schedule.num_steps + 1))
    if schedule.sampler not in _ONE_STEP:
        for k in range(1, schedule.num_steps):
            if same_time(times[k], times[k - 1]):
                start[k] = start[k - 1]
        for k in range(schedule.num_steps - 2, -1, -1):
            if same_time(times[k], times[k + 1]):
                end[k] = end[k + 1]
    steps = schedule.steps()
    shared = Counter(start[step] for step in steps)
    unit = 1.0 if family.prediction == "flow" else math.pi / 2
    out = []
    for step in steps:
        now, after = times[start[step]], times[end[step]]
        out.append((unit * abs(now - after) / shared[start[step]], after))
    return out
