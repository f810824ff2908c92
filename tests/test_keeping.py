"""Samplers that draw noise: clean latents are kept in the outputs' place."""

from __future__ import annotations

import pytest
import torch
from equations import X, every, flow

from sencache_core import CacheConfig, Schedule
from sencache_core.forecast.reuse import Linear
from sencache_core.hosts.loop import _call
from sencache_core.model.families import FAMILIES
from sencache_core.policies import CfgCache, Planned
from sencache_core.run.facts import Facts
from sencache_core.sampler.path import clean_of
from sencache_core.types import OUTPUT, Branch, Key

WAN, COG = FAMILIES["wan"], FAMILIES["cogvideox"]
STEPS = 16
MASK = every(2, STEPS)
CLEAN = torch.randn(X.shape, generator=torch.Generator().manual_seed(1))


def session(family=WAN, sampler="lcm", **options):
    options = {"policy": Planned(mask=MASK), "min_steps": 1, **options}
    facts = Facts(clean=clean_of(family))
    return CacheConfig(**options).start(family, Schedule(flow(STEPS).sigmas, sampler), facts=facts)


def lcm(field, family, runner=None, dtype=torch.float32):
    """The clean latent of every step, with new noise on it: all latents after the first."""
    levels, noise, seen = flow(STEPS).sigmas, torch.Generator().manual_seed(2), []
    x = X.to(dtype)
    for now, after in zip(levels[:-1], levels[1:], strict=True):
        if runner is not None:
            runner.begin((x,), now)
        y = _call(field, x, now, Branch("cond"), None, runner)
        assert y.dtype == dtype
        p, q = clean_of(family)(now)
        fresh = torch.randn(X.shape, generator=noise).to(dtype)
        x = (p * x + q * y) * (1 - after) + after * fresh
        seen.append(x)
    if runner is not None:
        runner.finish(True)
    return torch.stack(seen)


def sure_of(family, clean):
    """A model that is sure of one clean latent, whatever the noise: its outputs are not alike."""

    def field(x, sigma, condition):
        p, q = clean_of(family)(sigma)
        return ((clean(sigma).to(x) - p * x.float()) / q).to(x)

    return field


@pytest.mark.parametrize("family", [WAN, COG], ids=lambda f: f.name)
def test_a_clean_latent_that_stays_is_repeated(family):
    field, runner = sure_of(family, lambda sigma: CLEAN), session(family)
    cached = lcm(field, family, runner)
    assert runner.report.reused == MASK.count(".") > 0
    assert runner.report.rule == "hold"
    torch.testing.assert_close(cached, lcm(field, family), atol=1e-4, rtol=1e-4)


def test_a_rule_that_was_chosen_forecasts_it():
    """A clean latent that moves in a line, by the line; what is computed is handed on as it is."""
    field, runner = sure_of(WAN, lambda sigma: CLEAN * (1 + sigma)), session(rule=Linear())
    cached = lcm(field, WAN, runner)
    assert runner.report.rule == "linear"
    torch.testing.assert_close(cached, lcm(field, WAN), atol=1e-3, rtol=1e-3)


def test_half_precision_does_not_wear_it():
    field, runner = sure_of(WAN, lambda sigma: CLEAN), session()
    cached = lcm(field, WAN, runner, torch.bfloat16).float()
    apart = (cached - lcm(field, WAN, None, torch.bfloat16).float()).square().mean().sqrt()
    assert apart < 0.01


@pytest.mark.parametrize("case", ["deterministic", "pairs", "stack", "unscaled"])
def test_elsewhere_outputs_are_kept(case):
    family = COG if case == "unscaled" else WAN
    options = {"pairs": {"policy": CfgCache()}, "stack": {"tap": "stack"}}.get(case, {})
    sampler = "dpmpp_2m" if case == "deterministic" else "lcm"
    schedule = Schedule(flow(STEPS).sigmas, sampler)
    run = CacheConfig(**{"min_steps": 1, **options}).start(family, schedule).course.run
    assert run.kept_as is None
    assert run.rule.name == "fitted"


def test_an_output_of_another_shape_is_kept_as_it_is():
    """A part of the latent that a model is asked about: which part, nobody says."""
    runner, shape = session(policy=Planned(mask="CC." + "C" * 13)), (1, 4, 1, 8, 8)
    keys, handed = [Key(Branch("cond"), OUTPUT)], None
    for sigma in flow(STEPS).sigmas[:3]:
        runner.begin((X.float(),), sigma)
        handed = runner.predict(keys, shape)
        if handed is None:
            runner.observe(keys, torch.full(shape, sigma))
        runner.called([key.branch for key in keys], 1.0)
    runner.finish(True)
    torch.testing.assert_close(handed, torch.full(shape, flow(STEPS).sigmas[1]))


def test_modalities_are_packed():
    """Two modalities of one output: what is kept of it belongs to both."""
    runner, keys = session(policy=Planned(mask="CC." + "C" * 13)), [Key(Branch("cond"), OUTPUT)]
    clean, handed = torch.full((1, 1, 8), 3.0), None
    noise = torch.randn(3, 1, 1, 8, generator=torch.Generator().manual_seed(3))
    for x, sigma in zip(noise, flow(STEPS).sigmas, strict=False):
        runner.begin(x.split([5, 3], dim=-1), sigma)
        handed = runner.predict(keys, x.shape)
        if handed is None:
            runner.observe(keys, (x - clean) / sigma)
        runner.called([key.branch for key in keys], 1.0)
    runner.finish(True)
    torch.testing.assert_close(handed, (noise[2] - clean) / flow(STEPS).sigmas[2])
