"""What a deterministic sampler of several steps does with the outputs it is handed, measured.

Multistep samplers (DPM-Solver++ 2M of Lu et al. 2022, UniPC of Zhao et al. 2023, Adams-Bashforth
and their like) make the next latent from the newest output and from what they keep of earlier ones.
All of that is linear, with factors that depend on the noise levels alone: a run over a few numbers
shows them, where every number is answered by an impulse at a step of its own.

The factors are those between the latents at which the model is asked. UniPC corrects its latent
after it has asked; seen from one evaluation to the next that is one more earlier output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .schedule import same_level
from .solver import Clean

#: ``run(model, x)``: the sampler's last latent from ``x``, with ``model(x, sigma)`` the denoiser.
Run = Callable[[Callable[[Tensor, float], Tensor], Tensor], Tensor]

#: Most earlier outputs that a sampler may carry on (ours): orders of 4, as ``lms`` and ``ipndm``
#: have them, carry on three.
MOST_CARRIED = 3
#: Share of the newest output's weight up to which another weight is rounding, and relative error up
#: to which a sampler does as measured (ours): samplers compute their factors in float32.
ROUNDING = 2e-3
#: Largest sum of what is handed on later to make up for one unit handed on now (ours). The samplers
#: that were measured have 1.7 (``dpmpp_2m``) to 7 (``ipndm_v``) on the schedules of video models.
MOST_ECHO = 10.0


@dataclass(frozen=True)
class Multistep:
    """``x' = a x + b D + sum of c_j E_j``, ``D`` the clean latent that an output stands for.

    Attributes:
        steps: ``(a, b)`` of each.
        carried: of each step, ``c_j`` of the steps before it, the newest first.
        slopes: what is carried on, ``E``: the slopes ``(x - D) / sigma``, otherwise ``D`` itself.
    """

    steps: tuple[tuple[float, float], ...]
    carried: tuple[tuple[float, ...], ...]
    slopes: bool

    @property
    def carries(self) -> int:
        """Earlier outputs that a step carries on, at most."""
        counts = (k for weights in self.carried for k, c in enumerate(weights, start=1) if c)
        return max(counts, default=0)

    def transitions(self, levels: Sequence[float], clean: Clean) -> tuple[tuple[float, float], ...]:
        """``(a, b)`` of each step by latent and *output* ``y``, where ``D = p x + q y``."""
        factors = [(clean(sigma), step) for sigma, step in zip(levels, self.steps, strict=False)]
        return tuple((a + b * p, b * q) for (p, q), (a, b) in factors)

    def kept(self, sigma: float, clean: Clean) -> tuple[float, float]:
        """Weights of latent and output in ``E`` at a noise level."""
        p, q = clean(sigma)
        return ((1 - p) / sigma, -q / sigma) if self.slopes else (p, q)


def measure(run: Run, levels: Sequence[float]) -> Multistep | None:
    """The factors of a sampler; ``None`` where a latent cannot be led through what it is handed.

    So it is where the sampler draws noise, is not linear, asks elsewhere than once at each of its
    noise levels, carries on too much, or where what is handed on would have to swing to make up for
    what was handed on before. The global random state is left as it was.

    Args:
        run: the sampler; called twice, with float32 latents of one row.
        levels: its noise levels.
    """
    steps = len(levels) - 1
    impulses = torch.eye(steps + 1)[:, None]  # the last one is the latent's at the start
    rows = _asked(run, levels, impulses[-1].clone(), impulses[:-1])
    if rows is None:
        return None
    table = torch.cat(rows).double()
    ways = [_factors(table, levels, slopes) for slopes in (False, True)]
    ways = [way for way in ways if way is not None and _echo(way, levels) <= MOST_ECHO]
    ways.sort(key=lambda way: way.carries)
    return next((way for way in ways if _holds(run, levels, way)), None)


def _asked(
    run: Run, levels: Sequence[float], x: Tensor, answers: Sequence[Tensor]
) -> list[Tensor] | None:
    """The latents at which the sampler asks, and its last; ``None`` if it asks elsewhere."""
    seen: list[Tensor] = []

    def model(x: Tensor, sigma: float) -> Tensor:
        k = len(seen)
        if k >= len(answers) or not same_level(levels[k], sigma):
            raise _Elsewhere
        seen.append(x.clone())
        return answers[k].clone()

    try:
        with torch.random.fork_rng(devices=[]):
            seen.append(run(model, x))
    except _Elsewhere:
        return None
    whole = len(seen) == len(answers) + 1 and all(one.shape == x.shape for one in seen)
    return seen if whole and all(one.isfinite().all() for one in seen) else None


class _Elsewhere(Exception):
    """The sampler asks where it was not expected to."""


def _factors(table: Tensor, levels: Sequence[float], slopes: bool) -> Multistep | None:
    """The factors, from the response to impulses ``[latents, impulses]``."""
    steps, carried = [], []
    count = len(table) - 1
    unit = torch.eye(count + 1).double()
    kept = [
        (table[k] - unit[k]) / levels[k] if slopes else unit[k] for k in range(count)
    ]  # E of each step
    for k in range(count):
        earlier = kept[max(0, k - MOST_CARRIED) : k][::-1]
        basis = torch.stack([table[k], unit[k], *earlier], dim=1)
        weights = torch.linalg.lstsq(basis, table[k + 1][:, None], driver="gelsd").solution[:, 0]
        a, b, *rest = weights.tolist()
        left = (basis @ weights - table[k + 1]).abs().max()
        if b == 0 or left > ROUNDING * abs(b):
            return None
        steps.append((a, b))
        least = [ROUNDING * abs(b) * (level if slopes else 1) for level in levels[:k][::-1]]
        carried.append(tuple(0.0 if abs(c) < m else c for c, m in zip(rest, least, strict=False)))
    return Multistep(tuple(steps), tuple(carried), slopes)


def _echo(found: Multistep, levels: Sequence[float]) -> float:
    """Largest sum of the clean latents handed on to make up for one unit handed on before."""
    sums = []
    for start in range(len(found.steps)):
        handed = [1.0]
        for k in range(start + 1, len(found.steps)):
            _, b = found.steps[k]
            total = 0.0
            for c, j in zip(found.carried[k], range(k - 1, start - 1, -1), strict=False):
                total -= c / b * handed[j - start] * (-1 / levels[j] if found.slopes else 1)
            handed.append(total)
        sums.append(sum(map(abs, handed)))
    return max(sums)


def _holds(run: Run, levels: Sequence[float], found: Multistep) -> bool:
    """Whether the sampler does as measured with outputs and a latent of any kind."""
    source = torch.Generator().manual_seed(0)
    answers = torch.randn(len(levels) - 1, 1, 64, generator=source)
    rows = _asked(run, levels, torch.randn(1, 64, generator=source), answers)
    if rows is None:
        return False
    kept: list[Tensor] = []
    for k, answer in enumerate(answers):
        a, b = found.steps[k]
        expected = a * rows[k] + b * answer
        for c, one in zip(found.carried[k], reversed(kept), strict=False):
            expected = expected + c * one
        if not (expected - rows[k + 1]).abs().max() <= ROUNDING * math.sqrt(k + 1):
            return False
        kept.append((rows[k] - answer) / levels[k] if found.slopes else answer)
    return True
