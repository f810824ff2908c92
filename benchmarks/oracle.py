"""The oracle: the best fixed schedule that a search on the true final error finds.

It looks at the very clips it is then judged on. No method can: the row shows how much is left, luck
with those clips included. How much of it is luck shows ``searched``: the same search on as many
calibration clips, judged on the test clips like everybody.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from contextlib import AbstractContextManager

from torch import Tensor

from sencache_core.config import CacheConfig
from sencache_core.hosts.diffusers import attach
from sencache_core.model.families import FAMILIES
from sencache_core.policies import Guards, Planned
from sencache_core.policies.plan import Plan
from sencache_core.sampler.schedule import Schedule

from .case import Case, Clip
from .measures import psnr
from .method import Method, Setting, Sweep
from .ours import profile, without_gain

#: Schedules tried for one budget.
TRIALS = 30
#: Temperature of the first trial in dB; it falls to 0 evenly.
TEMPERATURE = 0.4
#: Farthest that one move shifts an evaluation, in steps, but for one move in four.
NEAR = 3


#: A prompt and a seed.
Shot = tuple[str, int]


def search(case: Case, budget: float, shots: Sequence[Shot], uncached: Sequence[Clip]) -> str:
    """Simulated annealing over masks of one length and count; the score is the mean PSNR in dB.

    Args:
        case, budget: as for a method's sweeps.
        shots: what is sampled with each mask.
        uncached: the clips that each of them is compared with.
    """
    chance, seen = random.Random(0), {}

    def score(mask: str) -> float:
        if mask not in seen:
            clips = [case.clip(ORACLE, {"mask": mask}, *shot) for shot in shots]
            pairs = [(a.latent, b.latent) for a, b in zip(clips, uncached, strict=True)]
            seen[mask] = sum(_psnr(case, *pair) for pair in pairs) / len(pairs)
        return seen[mask]

    now = best = max(_starts(case, budget), key=score)
    for trial in range(TRIALS):
        mask = _moved(now, chance)
        gained = score(mask) - score(now)
        heat = TEMPERATURE * (1 - trial / TRIALS)
        if gained > 0 or chance.random() < math.exp(gained / max(heat, 1e-9)):
            now = mask
            best = max(best, now, key=score)
    return best


def _psnr(case: Case, latent: Tensor, reference: Tensor) -> float:
    """Of decoded clips; of latents where there is no codec."""
    decoded = case.model.decode(reference)
    if decoded is None:
        return psnr(latent, reference, float(reference.max() - reference.min()))
    return psnr(case.model.decode(latent), decoded)


def _starts(case: Case, budget: float) -> list[str]:
    measured = profile(case)
    configs = [
        CacheConfig(budget=budget, profile=measured),
        CacheConfig(budget=budget, profile=without_gain(measured)),
        CacheConfig(budget=budget, profile=measured, hindsight=False),
    ]
    return list({str(_plan(case, config)) for config in configs})


def _plan(case: Case, config: CacheConfig) -> Plan:
    header = config.profile.header
    family = FAMILIES[case.model.family]
    sampler = "euler" if family.prediction == "flow" else "ddim"
    return config.plan(family, Schedule((*header.sigmas, 0.0), sampler))


def _moved(mask: str, chance: random.Random) -> str:
    """One evaluation, but the first, moved to where there was none."""
    letters = list(mask)
    used = [k for k, letter in enumerate(letters) if letter == "C" and k > 0]
    free = [k for k, letter in enumerate(letters) if letter != "C"]
    source = chance.choice(used)
    near = [k for k in free if abs(k - source) <= NEAR]
    target = chance.choice(near if near and chance.random() < 0.75 else free)
    letters[source], letters[target] = ".", "C"
    return "".join(letters)


def _attach(case: Case, setting: Setting) -> AbstractContextManager:
    anywhere = Guards(cooldown=0, longest_run=len(setting["mask"]))
    config = CacheConfig(
        Planned(mask=setting["mask"]), guards=anywhere, budget=None, profile=profile(case)
    )
    return attach(case.model.module, config, case.host.scheduler)


def _on_tests(case: Case, budget: float) -> Sequence[Sweep]:
    return [Sweep([{"mask": search(case, budget, case.tests, case.uncached)}])]


def _on_calibration(case: Case, budget: float) -> Sequence[Sweep]:
    shots = case.calibration[: len(case.tests)]
    uncached = [case.clip(None, {}, *shot) for shot in shots]
    return [Sweep([{"mask": search(case, budget, shots, uncached)}])]


ORACLE = Method("oracle", _on_tests, _attach, prepare=profile)
SEARCHED = Method("searched", _on_calibration, _attach, prepare=profile)
METHODS = (ORACLE, SEARCHED)
