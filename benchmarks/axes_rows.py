"""What is left of the error if half an evaluation is spent: one branch, or some of the blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.axes_runs import Run, replay, times
from benchmarks.case import Case

#: Cost of a step in evaluations: both branches, the conditional one alone, none.
PRICES = {"C": 1.0, "h": 0.5, ".": 0.0}
#: Periodic patterns, dear to cheap. Where one with ``h`` has a rival of the same cost without, the
#: rival stands before it; ``C.h.`` is to be held against the slightly dearer ``C.C..``.
PATTERNS = ("CC.", "Chh", "Chhh", "C.", "Ch.", "C.C..", "Ch..h", "C.h.", "C..")
#: What the errors of the others are relative to.
REFERENCE = "C."
#: Directions below this share of the largest one are rounding, not something to forecast from.
RANK = 1e-9
#: How far a kept delta follows the line through the last two: not, half, all the way.
FOLLOW = {"held": 0.0, "damped": 0.5, "line": 1.0}
#: Steps at which the depth axis is measured, spread evenly over the run.
DEPTH_STEPS = 12


def halves(steps: int) -> dict[str, range]:
    """The steps of the early and of the late half of a run."""
    return {"early": range(steps // 2), "late": range(steps // 2, steps)}


def price(pattern: str) -> float:
    """Mean cost of a step, in evaluations."""
    return sum(PRICES[mark] for mark in pattern) / len(pattern)


def gram_of(outputs: Tensor) -> np.ndarray:
    """``[2 steps, 2 steps]`` float64: mean products of all outputs, conditional ones first.

    Args:
        outputs: ``[steps, 2, entries]``.
    """
    rows = outputs.transpose(0, 1).flatten(0, 1).double()
    return (rows @ rows.T / rows.shape[1]).numpy()


def forecast_error(gram: np.ndarray, guidance: float, marks: str, k: int) -> float:
    """Mean square error of the guided output of step ``k``, at its best linear forecast.

    It is made from every branch that ran from the last full evaluation but one up to step ``k``
    itself, with weights that leave a constant as it is.

    Args:
        gram: from :func:`gram_of`.
        guidance: scale of classifier-free guidance.
        marks: what runs at each step, of :data:`PRICES`.
        k: a step with two full evaluations before it.
    """
    if marks[k] == "C":
        return 0.0
    steps = len(gram) // 2
    cond, uncond = np.split(np.eye(2 * steps), 2)
    guided = guidance * cond + (1 - guidance) * uncond
    first, last = [j for j in range(k) if marks[j] == "C"][-2:]
    ran = [j for j in range(first, k + 1) if marks[j] != "." and j != last]
    known = np.stack([*(cond[j] - cond[last] for j in ran), uncond[first] - uncond[last]])
    wanted = guided[k] - guided[last]
    inverse = np.linalg.pinv(known @ gram @ known.T, rcond=RANK, hermitian=True)
    left = wanted - (inverse @ known @ gram @ wanted) @ known
    return max(float(left @ gram @ left), 0.0)


def pattern_error(
    gram: np.ndarray, guidance: float, t: np.ndarray, pattern: str, steps: range
) -> float:
    """Mean square error of the latent that one step causes, over a pattern's offsets and ``steps``.

    Args:
        gram, guidance: as for :func:`forecast_error`.
        t: from :func:`times`.
        pattern: of :data:`PRICES`, repeated over the run.
        steps: where to look; none below two periods, for two full evaluations must lie before.
    """
    period, total = len(pattern), 0.0
    for offset in range(period):
        marks = "".join(pattern[(k + offset) % period] for k in range(len(t) - 1))
        for k in steps:
            total += forecast_error(gram, guidance, marks, k) * (t[k] - t[k + 1]) ** 2
    return total / (period * len(steps))


def guidance_axis(case: Case, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for each pattern: its cost, and its error in dB relative to :data:`REFERENCE`.

    Both errors are over the same steps; ``None`` where the half is too short for the pattern.
    """
    gram = gram_of(torch.cat([run.outputs for run in runs], dim=-1))
    guidance, t = case.regime.guidance, times(case)
    rows = []
    for pattern in PATTERNS:
        row: dict[str, Any] = {"pattern": pattern, "cost": price(pattern)}
        for half, steps in halves(len(t) - 1).items():
            steps = range(max(steps.start, 2 * len(pattern)), steps.stop)
            row[half] = None
            if steps:
                error, other = (
                    pattern_error(gram, guidance, t, p, steps) for p in (pattern, REFERENCE)
                )
                row[half] = 10 * math.log10(error / other)
        rows.append(row)
    return rows


def extended(last: Any, before: Any, weight: float) -> Any:
    """``last + weight (last - before)``, for tensors in nested sequences of any depth."""
    if isinstance(last, Tensor):
        return last + weight * (last - before)
    return [extended(a, b, weight) for a, b in zip(last, before, strict=True)]


def depth_axis(
    case: Case, runs: Sequence[Run], tick: Callable[[], Any] = lambda: None
) -> list[dict[str, Any]]:
    """A row for each choice of fresh blocks: its cost, and the share of the error that is left.

    That is the RMS error of the guided output, mean over clips, divided by the one of a forecast of
    the output that runs no block: the last output plus the best multiple of its last change, one
    for all clips. The two evaluations before are full.

    Args:
        case: whose model is asked.
        runs: from :func:`record`.
        tick: called once for each step of each clip.
    """
    n, t, g = len(case.model.blocks), times(case), case.regime.guidance
    choices = {f"first {j}": range(j) for j in range(n)}
    choices |= {f"last {j}": range(n - j, n) for j in range(1, n)}
    shares: dict[tuple[str, str], dict[int, float]] = {
        (name, how): {} for name in choices for how in FOLLOW
    }
    for k in sorted({round(k) for k in np.linspace(2, len(t) - 2, DEPTH_STEPS)}):
        outs = torch.stack([run.outputs[k - 2 : k + 1] for run in runs])
        before, last, true = (g * outs[:, :, 0] + (1 - g) * outs[:, :, 1]).unbind(1)
        slope, change = last - before, true - last
        plain = _rms(change - (slope * change).sum() / slope.square().sum() * slope)
        errors: dict[tuple[str, str], list[Tensor]] = {key: [] for key in shares}
        for run, wanted in zip(runs, true):
            kept = [replay(case, run.calls[q], range(n))[1] for q in (k - 1, k - 2)]
            for how, follow in FOLLOW.items():
                reach = follow * (t[k - 1] - t[k]) / (t[k - 2] - t[k - 1])
                deltas = extended(*kept, reach)
                for name, fresh in choices.items():
                    positive, negative = replay(case, run.calls[k], fresh, deltas)[0]
                    error = g * positive + (1 - g) * negative - wanted
                    errors[name, how].append(error)
            tick()
        for key, values in errors.items():
            shares[key][k] = float(_rms(torch.stack(values)) / plain)
    rows = []
    for name, fresh in choices.items():
        row: dict[str, Any] = {"fresh": name, "cost": len(fresh) / n}
        for how in FOLLOW:
            for half, steps in halves(len(t) - 1).items():
                values = [share for k, share in shares[name, how].items() if k in steps]
                row[f"{how}_{half}"] = sum(values) / len(values)
        rows.append(row)
    return rows


def _rms(errors: Tensor) -> Tensor:
    """Mean over clips of the RMS over entries, of ``[clips, entries]``."""
    return errors.square().mean(-1).sqrt().mean()
