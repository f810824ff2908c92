"""Looks into diffusers transformers: the contract of hosts, and what is seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers_runs import DiffusersDriver, Sampler, host, noise, text
from host_contract import STEPS, HostContract, Job

from sencache_core import CacheConfig, Guards, SenCache
from sencache_core.model import signals
from sencache_core.model.families import FAMILIES
from sencache_core.model.taps import TAPS, Listener, tapped
from sencache_core.policies import TeaCache
from sencache_core.tiny import forward

#: Forces exactly 6 of 12 rounds, wherever the scores lie.
LOOKING = CacheConfig(policy=TeaCache(), guards=Guards(), budget=0.5)


class LookingDriver(DiffusersDriver):
    """Has TeaCache decide wherever the contract asks for a policy with a score."""

    def __init__(self, sampler, place):
        super().__init__(sampler)
        self.place = place

    def run(self, config, jobs):
        if config is not None and isinstance(config.policy, SenCache):
            policy = TeaCache(config.policy.tolerance, place=self.place)
            config = replace(config, policy=policy)
        return super().run(config, jobs)


class TestWanStack(HostContract):
    @pytest.fixture
    def driver(self):
        return LookingDriver(Sampler("wan"), "stack")


class TestCogVideoXOutput(HostContract):
    @pytest.fixture
    def driver(self):
        return LookingDriver(Sampler("cogvideox"), "output")


class TestLTXOutput(HostContract):
    @pytest.fixture
    def driver(self):
        return LookingDriver(Sampler("ltx"), "output")


class Eye(Listener):
    """Waits for one signal."""

    def __init__(self, awaits):
        super().__init__()
        self.awaits, self.seen = awaits, []

    def saw(self, value):
        self.seen.append(value)
        self.awaits = ""


@pytest.mark.parametrize("tap", TAPS)
@pytest.mark.parametrize(
    ("family", "signal"),
    [
        (family, signal)
        for family in ("wan", "ltx", "cogvideox")
        for signal in FAMILIES[family].diffusers_places.signals
    ],
)
def test_what_is_seen_is_what_the_model_reads(family, signal, tap):
    module, places = Sampler(family).module, FAMILIES[family].diffusers_places
    blocks = getattr(module, places.blocks)
    truth = {}

    def call():
        with torch.no_grad():
            time = torch.tensor(0.5 if family != "cogvideox" else 500)
            return forward(family, module, noise(family), time, text(0))

    def block(_, args, kwargs):
        truth["projection"] = kwargs["temb"] if "temb" in kwargs else args[2]

    def attention(_, args, kwargs):
        truth["input"] = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]

    source = {"wan": "condition_embedder.time_embedder", "ltx": "time_embed"}.get(family)
    handles = [
        blocks[0].register_forward_pre_hook(block, with_kwargs=True),
        blocks[0].attn1.register_forward_pre_hook(attention, with_kwargs=True),
    ]
    if source:
        kept = lambda _, __, out: truth.__setitem__("embedding", out)  # noqa: E731
        handles.append(module.get_submodule(source).register_forward_hook(kept))
    try:
        plain = call()
    finally:
        for handle in handles:
            handle.remove()
    embedding = truth.get("embedding", truth["projection"])
    expected = {
        signals.TIME_EMBEDDING: embedding[1] if isinstance(embedding, tuple) else embedding,
        signals.TIME_PROJECTION: truth["projection"],
        signals.MODULATED_INPUT: truth["input"],
    }[signal]
    eye = Eye(signal)
    with tapped(TAPS[tap], module, places, eye):
        again = call()
    (seen,) = eye.seen
    assert torch.equal(seen, expected)
    assert torch.equal(again, plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


@pytest.mark.parametrize("place", ["stack", "output"])
@pytest.mark.parametrize("family", ["wan", "ltx", "cogvideox"])
def test_either_place_serves_every_call(family, place):
    """Calls are answered and counted alike, whatever is kept."""
    config = replace(
        LOOKING, policy=TeaCache(1.5, place=place), budget=None
    )  # two changes at least
    result = DiffusersDriver(Sampler(family)).one(config, Job())
    assert result.report.tap == place
    assert result.report.texts == [] or not any("not found" in said for said in result.report.texts)
    assert 0 < result.report.reused < STEPS
    assert result.report.calls + result.report.calls_saved == 2 * STEPS


@pytest.mark.parametrize("whole", [True, False])
def test_compiled_models(whole):
    sampler = Sampler("wan")
    module = sampler.module
    if whole:
        module.compile(backend="eager")
        try:
            with pytest.raises(ValueError, match="this policy works inside"):
                host.attach(module, replace(LOOKING, policy=TeaCache(place="output")), num_steps=9)
        finally:
            module._compiled_call_impl = None
        return
    plain = DiffusersDriver(Sampler("wan")).one(LOOKING, Job())
    for block in module.blocks:
        block.compile(backend="eager")
    try:
        cached = DiffusersDriver(sampler).one(LOOKING, Job())
    finally:
        for block in module.blocks:
            block._compiled_call_impl = None
    assert [s.decision for s in cached.report.steps] == [s.decision for s in plain.report.steps]
    torch.testing.assert_close(cached.latent, plain.latent, rtol=1e-4, atol=1e-4)
