"""What an expected error comes to: the plan's own figure beside PSNR and SSIM of the decoded clips.

    python -m benchmarks.quality [--clips 2] [--families wan ltx cogvideox]

Prints one row for each bundled model, number of steps and budget. The words that nodes give to an
expected error (``web/lib/quality.js``) rest on this table; see docs/theory.md, section 7.
"""

from __future__ import annotations

import argparse

import torch

from sencache_core import CacheConfig
from sencache_core.app.demo import make_scheduler, sample
from sencache_core.app.metrics import compare
from sencache_core.hosts.diffusers import attach
from sencache_core.tiny import SPECS, decode_video, held_out_prompts, load_diffusers

STEPS = 20, 50
BUDGETS = 0.25, 0.36, 0.5, 0.65, 0.8


def relative(latent: torch.Tensor, reference: torch.Tensor) -> float:
    """RMS of the difference, in units of the reference's RMS."""
    return float((latent - reference).square().mean().sqrt() / reference.square().mean().sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--families", nargs="+", default=list(SPECS), choices=list(SPECS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    prompts = held_out_prompts()
    print("model      steps budget expected measured  PSNR  worst    SSIM")
    for family in asked.families:
        module, scheduler = load_diffusers(family), make_scheduler(family)
        for steps in STEPS:
            runs: dict[float, list[tuple]] = {budget: [] for budget in BUDGETS}
            for k in range(asked.clips):
                case = family, module, scheduler, prompts[k], k, steps
                reference = sample(*case)
                clip = decode_video(family, reference)[0]
                for budget, rows in runs.items():
                    config = CacheConfig(budget=budget, aim="same")
                    with attach(module, config, scheduler, learn=False) as cache:
                        latent = sample(*case)
                    near = compare(clip, decode_video(family, latent)[0])
                    off = relative(latent, reference)
                    own = cache.reports[0].expected, off
                    rows.append((*own, near.psnr_mean, near.psnr_worst, near.ssim_mean))
            for budget, rows in runs.items():
                expected, off, *near = (sum(v) / len(rows) for v in zip(*rows, strict=True))
                figures = "{:8.4f} {:8.4f} {:5.1f} {:6.1f} {:7.4f}".format(expected, off, *near)
                print(f"{family:10} {steps:5} {budget:6.2f} {figures}", flush=True)


if __name__ == "__main__":
    main()
