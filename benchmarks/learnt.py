"""What ordinary runs teach: the final latent's error by what a plan rests on.

``python -m benchmarks.learnt --family wan`` samples a bundled model, ``--weights FILE`` other
weights of its architecture. With ``--prior OTHER`` the prior is that of another family, as if
nothing like the model had been measured. Figures are -20 log10 of the RMS by which a clip's latent
differs from that of the uncached run, relative to the latter, mean over clips.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from unittest.mock import patch

import torch
from safetensors.torch import load_file
from torch import Tensor

from sencache_core import CacheConfig, Profile, ProfileHeader, Schedule
from sencache_core.hosts.loop import sample
from sencache_core.measure.calibration import Calibration
from sencache_core.measure.learnt_store import LearntStore
from sencache_core.measure.prior import prior_moments
from sencache_core.measure.profile import combine
from sencache_core.model.families import FAMILIES
from sencache_core.tiny import (
    SPECS,
    calibration_prompts,
    encode_prompt,
    forward,
    held_out_prompts,
    load_diffusers,
    to_diffusers_keys,
)
from sencache_core.tiny.sampling import cog_alphas, cog_timesteps, flow_sigmas

from .models import REGIMES, Regime

#: Ordinary runs before a row's clips are sampled.
RUNS = (0, 1, 3)


class Frozen(LearntStore):
    """Plans from what it holds; test clips teach it nothing."""

    def add(self, header, observed):
        return None


class Trials:
    """One model in one regime."""

    def __init__(self, family: str, weights: str | None, regime: Regime) -> None:
        self.spec, self.row, self.regime = SPECS[family], FAMILIES[family], regime
        self.module = load_diffusers(family)
        if weights:
            state = {name: value.float() for name, value in load_file(weights).items()}
            self.module.load_state_dict(to_diffusers_keys(family, state))
        self.levels: dict[float, float] = {}
        if self.spec.prediction == "flow":
            sigmas = flow_sigmas(regime.steps, regime.shift).tolist()
        else:  # zero terminal SNR, as diffusers' DDIM has it
            alphas, indices = cog_alphas().double(), cog_timesteps(regime.steps)
            noise = [math.sqrt((1 - a) / max(a, 1e-12)) for a in alphas[indices].tolist()]
            self.levels = dict(zip(noise, indices, strict=True))
            sigmas = [*noise, 0.0]
        sampler = "euler" if self.spec.prediction == "flow" else "ddim"
        self.schedule = Schedule(tuple(sigmas), sampler)
        self.header = ProfileHeader(family, "bench", sampler, guidance=regime.guidance)

    def call(self, x: Tensor, sigma: float, context: Tensor) -> Tensor:
        t = sigma
        if self.levels:  # recorders ask at levels of the list alone
            t = self.levels[min(self.levels, key=lambda level: abs(level - sigma))]
        return forward(self.spec.family, self.module, x, t, context)

    @torch.no_grad()
    def clip(self, prompt: str, seed: int, runner=None) -> Tensor:
        positive = encode_prompt(prompt)[None]
        texts = {"cond": positive, "uncond": torch.zeros_like(positive)}
        x = torch.randn((1, *self.spec.latent), generator=torch.Generator().manual_seed(seed))
        kind = self.spec.prediction
        return sample(
            self.call, x, self.schedule, texts, self.regime.guidance, runner, prediction=kind
        )

    def cached(self, config: CacheConfig, prompt: str, seed: int) -> Tensor:
        return self.clip(prompt, seed, config.start(self.row, self.schedule, self.header))

    def profile(self, clips: int) -> Profile:
        runs, prompts = Calibration(), calibration_prompts(clips + max(RUNS))[max(RUNS) :]
        for seed, prompt in enumerate(prompts, 20_000):
            for _ in range(runs.runs_of(self.regime.steps)):
                runner = runs.start(self.row, self.schedule, guidance=self.regime.guidance)
                self.clip(prompt, seed, runner)
                runs.finished(runner)
        return combine(runs.recordings, self.header)


def decibels(trials: Trials, config: CacheConfig, references: list[Tensor]) -> float:
    """Of the test clips by ``config``, mean."""
    out = []
    for seed, (prompt, reference) in enumerate(zip(held_out_prompts(), references, strict=False)):
        off = trials.cached(config, prompt, seed) - reference
        out.append(-20 * math.log10(float(off.norm() / reference.norm())))
    return sum(out) / len(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=list(SPECS), required=True)
    parser.add_argument("--weights", metavar="FILE", help="safetensors under ComfyUI's names")
    parser.add_argument("--prior", choices=list(SPECS), help="family whose prior is used")
    parser.add_argument("--regime", choices=list(REGIMES), action="append")
    parser.add_argument("--clips", type=int, default=6, help="to test on (6)")
    parser.add_argument("--profile-clips", type=int, default=4, help="of the profile (4)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    prior = prior_moments(arguments.prior or arguments.family)
    for name in arguments.regime or REGIMES:
        trials = Trials(arguments.family, arguments.weights, REGIMES[name])
        prompts = held_out_prompts()[: arguments.clips]
        references = [trials.clip(prompt, seed) for seed, prompt in enumerate(prompts)]
        profile = trials.profile(arguments.profile_clips)
        for budget in (0.5, 0.36):
            rows = {}
            with (
                tempfile.TemporaryDirectory() as folder,
                patch("sencache_core.config.prior_moments", lambda _: prior),
            ):
                for done in range(max(RUNS) + 1):
                    if done in RUNS:
                        config = CacheConfig(budget=budget, learn=Frozen(Path(folder)))
                        rows[f"{done} runs"] = decibels(trials, config, references)
                    if done < max(RUNS):
                        prompt = calibration_prompts(max(RUNS))[done]
                        config = CacheConfig(budget=budget, learn=folder)
                        trials.cached(config, prompt, 10_000 + done)
            config = CacheConfig(budget=budget, profile=profile)
            rows["profile"] = decibels(trials, config, references)
            figures = "  ".join(f"{row} {value:5.1f}" for row, value in rows.items())
            print(f"{arguments.family:9s} {name:6s} {budget:.2f}  {figures}", flush=True)


if __name__ == "__main__":
    main()
