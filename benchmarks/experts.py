"""Two experts, one budget: the final latent's error by how a clip's evaluations are divided.

Two generations of the bundled Wan model stand in for the experts of Wan 2.2, the earlier one at
noise levels of 0.875 and more, the present one below (``--swap``: the other way round). Both are
tiny and were trained on synthetic clips, so that the figures say which division is better here, and
nothing of the real model. The earlier weights:

    git show 1e946d3:sencache_core/tiny/weights/sencache_tiny_wan.safetensors > earlier.safetensors
    python -m benchmarks.experts --weights earlier.safetensors

Figures are -20 log10 of the RMS by which a clip's latent differs from that of the uncached run,
relative to the latter: the mean over clips, and the evaluations of either expert.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor

from sencache_core import CacheConfig, Schedule, flow_sigmas
from sencache_core.hosts.loop import sample
from sencache_core.model.families import FAMILIES
from sencache_core.run.facts import Facts, Part, Stage
from sencache_core.tiny import encode_prompt, held_out_prompts

from .checkpoint import load_checkpoint
from .models import load_tiny

BOUNDARY, SHIFT, GUIDANCE = 0.875, 8.0, 4.0
BUDGETS = (0.5, 0.36)


class Experts:
    """Two models that share a clip.

    Args:
        weights: of one of them, the other one's are bundled.
        first: whether ``weights`` are those at high noise.
    """

    def __init__(self, weights: str, first: bool) -> None:
        models = load_checkpoint(weights), load_tiny("wan")
        self.models = models if first else models[::-1]

    @torch.no_grad()
    def clip(self, steps: int, shot: tuple[str, int], budget: float = 1.0, share: bool = False):
        """One clip's latent, and the evaluations of each expert.

        Args:
            steps: of the clip.
            shot: prompt and seed.
            budget: share of evaluations.
            share: whether the plan of the first expert divides them.
        """
        levels = flow_sigmas(steps, SHIFT)
        cut = sum(level >= BOUNDARY for level in levels)
        parts = [Schedule(levels[: cut + 1], "euler"), Schedule(levels[cut:], "euler")]
        prompt, seed = shot
        text = encode_prompt(prompt)[None]
        texts = {"cond": text, "uncond": torch.zeros_like(text)}
        noise = torch.Generator().manual_seed(seed)
        x = torch.randn((1, *self.models[0].spec.latent), generator=noise)
        carry, before, spent = 0.0, 0, []
        for model, schedule, later in zip(self.models, parts, ((Part(parts[1]),), ()), strict=True):
            stage = Stage(before, steps, carry, later if share else ())
            config = CacheConfig(budget=budget, aim="same")
            runner = config.start(FAMILIES["wan"], schedule, facts=Facts(stage=stage))
            x = sample(model.call, x, schedule, texts, GUIDANCE, runner)
            spent.append(runner.report.evaluations)
            carry += budget * schedule.num_steps - spent[-1]
            before += schedule.num_steps
        return x, spent


def decibels(latents: list[Tensor], references: list[Tensor]) -> float:
    """Mean over clips."""
    off = [float((x - y).norm() / y.norm()) for x, y in zip(latents, references, strict=True)]
    return sum(-20 * math.log10(each) for each in off) / len(off)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", metavar="FILE", required=True, help="of the other expert")
    parser.add_argument("--swap", action="store_true", help="give them to the expert at low noise")
    parser.add_argument("--clips", type=int, default=6, help="to test on (6)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shots = list(zip(held_out_prompts()[: arguments.clips], range(arguments.clips), strict=True))
    experts = Experts(arguments.weights, not arguments.swap)
    for steps in (20, 30):
        references = [experts.clip(steps, shot)[0] for shot in shots]
        for budget in BUDGETS:
            few = math.floor(budget * steps + 0.5)
            rows = {
                "own share": [experts.clip(steps, shot, budget) for shot in shots],
                "planned split": [experts.clip(steps, shot, budget, True) for shot in shots],
                "fewer steps": [experts.clip(few, shot) for shot in shots],
            }
            print(f"{steps} steps, {budget} of the evaluations")
            for name, made in rows.items():
                latents, spent = zip(*made, strict=True)
                value = decibels(list(latents), references)
                print(f"  {name:14s} {value:5.1f} dB  {spent[0][0]} + {spent[0][1]}", flush=True)


if __name__ == "__main__":
    main()
