"""Does it help to plan by the guidance of the run at hand? Bundled figures are of one scale.

    python -m benchmarks.guidance --family wan [--checkpoint FILE] [--clips 8]

Errors of the branches reach the guided output by ``sqrt(1 + 2 s (s - 1) (1 - rho))``, ``s`` the
scale and ``rho`` the cosine between them (RA-CFGCache, arXiv 2609.36433). Moments hold more than
``rho``: those of the guided output at any scale follow from the inner products of the conditional
output, of what guidance adds, and of both. Prints ``rho``, and of the rough regime the plan and the
distances with the figures as they are bundled, and brought to the run's scale.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from sencache_core import CacheConfig, Moments
from sencache_core.hosts.diffusers import attach
from sencache_core.measure.prior import prior_moments
from sencache_core.tiny import SPECS

from .case import make_case
from .checkpoint import load_checkpoint
from .measures import distance
from .models import REGIMES, load_tiny
from .store import Store

BUDGETS = 0.5, 0.36


def at_guidance(moments: Moments, scale: float) -> Moments:
    """``moments`` as they would be at another scale, on the same trajectories."""
    times = (scale - 1) / (moments.guidance - 1)
    both = moments.mean - moments.lead - moments.gap
    new = moments.lead + times * both + times**2 * moments.gap
    gram = moments.gram + (new - moments.mean)
    return replace(moments, gram=gram, gap=times**2 * moments.gap, guidance=scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=list(SPECS), default="wan")
    parser.add_argument("--checkpoint")
    parser.add_argument("--clips", type=int, default=8)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = load_checkpoint(asked.checkpoint) if asked.checkpoint else load_tiny(asked.family)
    bundled = prior_moments(model.family)
    likeness = bundled.likeness_at(bundled.t)
    print(
        "rho, 1 to 5 steps apart:",
        *(f"{np.median(np.diagonal(likeness, k)):.2f}" for k in range(1, 6)),
    )
    with tempfile.TemporaryDirectory() as folder:
        case = make_case(
            model, REGIMES["rough"], "diffusers", Store(Path(folder), model), asked.clips, 1, 8
        )
        scale = case.regime.guidance
        figures = {bundled.guidance: bundled, scale: at_guidance(bundled, scale)}
        print("budget aim   figures of   exact  uncached  plan")
        for budget in BUDGETS:
            for aim in ("same", "true"):
                for of, moments in figures.items():
                    print(f"{budget:6} {aim:5} {of:10}", *_run(case, budget, aim, moments))


def _run(case, budget: float, aim: str, moments: Moments) -> list[str]:
    """Mean distances to the exact solution and to the uncached clip, in dB, and the first plan."""
    near, config, plan = [], CacheConfig(budget=budget, aim=aim), ""
    with patch("sencache_core.config.known.prior_moments", lambda _: moments):
        for k, shot in enumerate(case.tests):
            own = {"learn": False, "guidance": case.regime.guidance}
            with attach(case.model.module, config, case.host.scheduler, **own) as cache:
                latent = case.host.sample([shot])
            done = ["." if s.decision == "reused" else "C" for s in cache.reports[0].steps]
            plan = plan or "".join(done)
            others = case.truths[k][0], case.references[k].latent
            near.append([distance(case.model, latent, other) for other in others])
    exact, uncached = np.mean(near, axis=0)
    return [f"{exact:7.1f} {uncached:9.1f}", f" {plan}"]


if __name__ == "__main__":
    main()
