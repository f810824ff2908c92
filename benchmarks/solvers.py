"""The same ODE without a cache: its exact solution, and rows that take fewer steps.

A sampler only approximates what its model says, so the uncached clip is no truth. The exact
solution does not depend on the sampler, its steps or the shift of its schedule.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sencache_core.policies.plan import evaluations_of
from sencache_core.tiny.sampling import flow_sigmas

from .host import DiffusersHost, Shot
from .measures import distance
from .method import Method, Setting, Sweep

if TYPE_CHECKING:
    from .case import Case

#: An exact solution is good enough where twice the steps change it by no more, in dB.
GOOD = 40.0
#: Steps of its first solve, and the most that it may take.
FIRST, MOST = 20, 160
#: Schedule shift of its steps: with strong guidance most happens at the start.
SHIFT = 8.0


def integrate(
    slope: Callable[[Tensor, float], Tensor], x: Tensor, times: Sequence[float]
) -> Tensor:
    """Heun's method, of second order.

    Args:
        slope: ``dx / dt`` at a latent and a time.
        x: where to start; not written to.
        times: from the start to the end.
    """
    for now, after in itertools.pairwise(times):
        first = slope(x, now)
        second = slope(x + (after - now) * first, after)
        x = x + (after - now) / 2 * (first + second)
    return x


def extrapolate(coarse: Tensor, fine: Tensor) -> Tensor:
    """What two solves by :func:`integrate` tend to, ``fine`` with twice the steps (Richardson)."""
    return fine + (fine - coarse) / 3


@torch.no_grad()
def exact(
    host: DiffusersHost, shots: Sequence[Shot], good: float = GOOD
) -> Iterator[tuple[int, Tensor, float]]:
    """Solve clips until they no longer change.

    Steps are doubled until that changes what the last two solves tend to by no more than asked, or
    they are :data:`MOST`. Clips that are done leave the batch.

    Args:
        host: whose model, guidance and noise; its schedule does not matter.
        shots: the clips.
        good: PSNR of decoded clips in dB.

    Yields:
        The number of a shot, its final latent ``[1, C, F, H, W]``, and what the last doubling
        changed, in dB: the error that is left is smaller.
    """
    left, steps, solved, before = list(range(len(shots))), FIRST, None, None
    while left:
        latest = solve(host, [shots[k] for k in left], steps)
        value = None if solved is None else extrapolate(solved, latest)
        open_ = list(range(len(left)))
        if before is not None:
            own = [distance(host.model, *pair) for pair in zip(value, before)]
            done = [db >= good or 2 * steps > MOST for db in own]
            for k in open_:
                if done[k]:
                    yield left[k], value[k : k + 1], own[k]
            open_ = [k for k in open_ if not done[k]]
        before = None if value is None else value[open_]
        left, solved, steps = [left[k] for k in open_], latest[open_], 2 * steps


def solve(host: DiffusersHost, shots: Sequence[Shot], steps: int) -> Tensor:
    """Final latents ``[B, C, F, H, W]`` by so many steps of :func:`integrate`."""
    x, positive, negative = host.start(shots)
    if host.model.spec.prediction == "flow":

        def velocity(x: Tensor, t: float) -> Tensor:
            return host.guided(x, t, positive, negative)

        return integrate(velocity, x, flow_sigmas(steps, SHIFT).tolist())
    # The latent turns by an angle, along v (Salimans and Ho 2022, appendix D).
    alphas = host.scheduler.alphas_cumprod.double()
    angles, levels = alphas.sqrt().clamp(0, 1).acos().numpy(), np.arange(len(alphas))

    def v(x: Tensor, angle: float) -> Tensor:
        # Below the lowest timestep, where no sampler asks, the network is asked as at that one.
        return host.guided(x, float(np.interp(angle, angles, levels)), positive, negative)

    times = np.interp(np.linspace(levels[-1], 0, steps + 1), levels, angles)
    return integrate(v, x, [*times.tolist(), 0.0])


def _attach(kind: str, case: Case, setting: Setting, **options: Any) -> AbstractContextManager:
    """The case's host with another scheduler of diffusers, on the noise levels of its own."""
    import diffusers

    own, cls = case.host.scheduler, getattr(diffusers, kind)
    if case.model.spec.prediction == "flow":  # whose levels the host sets
        options |= {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
        return case.host.stepping(cls(**options), setting["steps"])
    alphas = own.alphas_cumprod.double()
    options |= {
        "trained_betas": (1 - alphas / torch.cat([torch.ones(1), alphas[:-1]])).tolist(),
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
        # Keeps a level without any signal finite; the levels are what they are.
        "rescale_betas_zero_snr": bool(alphas[-1] == 0),
    }
    return case.host.stepping(cls(**options), setting["steps"])


def _fewer(case: Case, setting: Setting) -> AbstractContextManager:
    """Euler; for v-prediction DDIM, which is DPM-Solver++ of first order (Lu et al. 2022).

    diffusers' own DDIM steps by a whole number of timesteps, and so beside the next one wherever
    the steps do not divide 1000.
    """
    if case.model.spec.prediction == "flow":
        return case.host.stepping(case.host.scheduler, setting["steps"])
    return _attach("DPMSolverMultistepScheduler", case, setting, solver_order=1)


def _sweeps(case: Case, budget: float) -> list[Sweep]:
    return [Sweep.over("steps", [evaluations_of(budget, case.regime.steps)])]


def _multistep(name: str, title: str, kind: str) -> Method:
    return Method(name, _sweeps, partial(_attach, kind), title=title, batched=True, at_full=True)


METHODS = (
    Method("fewer-steps", _sweeps, _fewer, title="same sampler, fewer steps", batched=True),
    _multistep("unipc", "UniPC, fewer steps", "UniPCMultistepScheduler"),
    _multistep("dpmpp-2m", "DPM++ 2M, fewer steps", "DPMSolverMultistepScheduler"),
)
