"""TaylorSeer beside its origin: the hooks of diffusers, on its lite tap (the last projection)."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import pytest
import torch
from diffusers_runs import diffusers, network, noise, text

from sencache_core import flow_sigmas
from sencache_core.forecast.reuse import TaylorSeer
from sencache_core.tiny import forward
from sencache_core.types import Anchor

STEPS = 16


@dataclass(frozen=True)
class Unbounded(TaylorSeer):
    """As the origin: however large its weights become."""

    most_weight: ClassVar[float] = inf


def computed(step: int, interval: int = 5, warmup: int = 3) -> bool:
    """Steps 0, 1, 2, 4, 9, 14...: the hooks count from one before the end of the warm-up."""
    return step < warmup or (step - warmup - 1) % interval == 0


@pytest.mark.parity("taylorseer", "diffusers TaylorSeerCacheConfig")
@pytest.mark.parametrize("family", ["wan", "ltx"])
@pytest.mark.parametrize("rule", [TaylorSeer(1), Unbounded(2)], ids=["order 1", "order 2"])
def test_forecasts_are_those_of_diffusers(family, rule):
    """Step by step along one run that goes on from the hooks' own outputs."""
    # A network of its own: diffusers leaves its registry on it.
    module, x, sigmas = network.__wrapped__(family), noise(family), flow_sigmas(STEPS, 5.0)
    blocks = module.blocks if family == "wan" else module.transformer_blocks
    if not hasattr(diffusers, "TaylorSeerCacheConfig"):
        pytest.skip("this diffusers lacks TaylorSeerCacheConfig")
    factors = {"max_order": rule.order, "taylor_factors_dtype": torch.float32}
    module.enable_cache(diffusers.TaylorSeerCacheConfig(use_lite_mode=True, **factors))
    rule, anchors, forecasts, calls = rule.bound(None, sigmas[:-1]), [], 0, []
    hook = blocks[0].attn1.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        for step, (sigma, after) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
            with torch.no_grad(), module.cache_context("cond"):
                y = forward(family, module, x, torch.tensor([sigma]), text(0))
            ran, calls[:] = bool(calls), []
            assert ran == computed(step)
            if ran:
                anchors.append(Anchor(sigma, y.clone()))
            else:
                forecasts += 1
                ours = rule.predict(sigma, anchors[-rule.history :])
                assert (ours - y).abs().max() < 1e-5 * max(1.0, float(y.abs().max()))
            x = x + (after - sigma) * y
    finally:
        hook.remove()
        module.disable_cache()
    assert forecasts == 10


def test_the_bound_is_the_one_deviation():
    """From outputs one step apart, order 2 soon weighs more than 5.5: the order falls instead."""
    rounds = flow_sigmas(STEPS)[:-1]
    anchors = [
        Anchor(rounds[k], torch.randn(4, generator=torch.Generator().manual_seed(k)))
        for k in range(3)
    ]
    bounded, free = (cls(order=2).bound(None, rounds) for cls in (TaylorSeer, Unbounded))
    line, (first, second, third, *_) = TaylorSeer().bound(None, rounds), rounds[3:]
    assert torch.equal(bounded.predict(first, anchors), free.predict(first, anchors))
    assert torch.equal(bounded.predict(second, anchors), line.predict(second, anchors))
    assert not torch.equal(bounded.predict(second, anchors), free.predict(second, anchors))
    assert torch.equal(bounded.predict(third, anchors), anchors[-1].y)
