"""Looks into the model: what is seen, at either place of what is kept, and nothing left behind."""

from __future__ import annotations

from dataclasses import replace

import models
import pytest
import torch
from test_lifecycle import traces

from sencache_core import CacheConfig
from sencache_core.model import signals
from sencache_core.model.families import FAMILIES
from sencache_core.model.taps import TAPS, Listener, tapped
from sencache_core.policies import TeaCache

pytestmark = pytest.mark.comfyui


class Eye(Listener):
    """Waits for one signal."""

    def __init__(self, awaits):
        super().__init__()
        self.awaits, self.seen = awaits, []

    def saw(self, value):
        self.seen.append(value)
        self.awaits = ""


def family_of(name):
    return FAMILIES[
        {"wan": "wan", "ltxv": "ltx", "ltxav": "ltx2", "cog": "cogvideox"}[name.split("_")[0]]
    ]


@pytest.mark.parametrize("place", ["stack", "output"])
@pytest.mark.parametrize("name", models.CACHED)
def test_what_has_not_changed_is_reused(runs, host, name, place):
    """On paired sigmas every second round shows what the first has shown, and has its output."""
    case, reports = models.load(name), runs.Reports()
    (sigmas, plain), before = runs.truth(name), traces(case.model)
    policy = TeaCache(1e-6, model="none", place=place)
    patched = host.attach(case.model, replace(runs.REPLAY, policy=policy), reports)
    out = runs.sample(patched, case, sigmas=sigmas)
    report = reports.last
    assert report.texts == [] or not any("not found" in m for m in report.texts)
    assert [step.decision == "reused" for step in report.steps] == [False, True] * 2
    assert report.tap == place
    assert runs.error(out, plain) <= 1e-5
    assert traces(case.model) == before


@pytest.mark.parametrize("place", ["stack", "output"])
@pytest.mark.parametrize("name", ["wan_t2v", "wan_vace", "ltxv", "ltxav", "cog_1_0", "cog_1_5"])
def test_strictest_is_bit_identical(runs, host, name, place):
    case, reports = models.load(name), runs.Reports()
    plain = runs.sample(case.model, case, steps=6)
    config = CacheConfig(TeaCache(0.0, place=place), budget=None, min_steps=1)
    out = runs.sample(host.attach(case.model, config, reports), case, steps=6)
    assert reports.last.reused == 0
    assert runs.same(out, plain)


@pytest.mark.parametrize("tokens", [(5, 5), (5, 8)])
@pytest.mark.parametrize("place", ["stack", "output"])
def test_reuse_spares_the_blocks(runs, host, place, tokens):
    """One batched call or two a round: both halves obey what the first has shown."""
    case, reports = models.load("wan_t2v", tokens=tokens), runs.Reports()
    network, ran = case.model.model.diffusion_model, [0]
    config = CacheConfig(TeaCache(model="none", place=place), budget=0.5)
    handle = network.blocks[1].register_forward_hook(lambda *_: ran.__setitem__(0, ran[0] + 1))
    try:
        runs.sample(host.attach(case.model, config, reports), case, steps=12)
    finally:
        handle.remove()
    calls = 1 if tokens == (5, 5) else 2
    assert reports.last.evaluations == 6
    assert ran[0] == 6 * calls
    assert reports.last.calls_saved == 6 * calls


@pytest.mark.parametrize("tap", TAPS)
@pytest.mark.parametrize(
    ("name", "signal"),
    [
        (name, signal)
        for name in ("wan_t2v", "ltxv", "cog_1_0")
        for signal in (signals.TIME_EMBEDDING, signals.TIME_PROJECTION, signals.MODULATED_INPUT)
        if signal in family_of(name).comfy_places.signals
    ],
)
def test_what_is_seen_is_what_the_model_reads(runs, host, name, signal, tap):
    kind = models.KINDS[name]
    network = models.load(name).model.model.diffusion_model
    places = family_of(name).comfy_places
    x, context = models.noise(1, *kind.shape), models.noise(1, 5, kind.text)
    mask = {"attention_mask": torch.ones(1, 5, dtype=torch.long)} if name == "ltxv" else {}
    blocks = getattr(network, places.blocks)
    truth = {}

    def call():
        time = torch.tensor([0.5 if name == "ltxv" else 500.0])
        with torch.inference_mode():
            return network(x.clone(), time, context, transformer_options={}, **mask)

    def keep(_, args, kwargs):
        truth["block"] = args, kwargs

    def keep_input(_, args, kwargs):
        truth["input"] = args[0].clone()

    inner = {"wan_t2v": "self_attn", "ltxv": "attn1", "cog_1_0": "q"}[name]
    outer = {"wan_t2v": "time_embedding", "ltxv": "adaln_single", "cog_1_0": None}[name]
    handles = [
        blocks[0].register_forward_pre_hook(keep, with_kwargs=True),
        getattr(blocks[0], inner).register_forward_pre_hook(keep_input, with_kwargs=True),
    ]
    if outer:
        module = getattr(network, outer)
        handles.append(module.register_forward_hook(lambda *a: truth.__setitem__("outer", a[2])))
    try:
        plain = call()
    finally:
        for handle in handles:
            handle.remove()
    _, kwargs = truth["block"]
    expected = {
        signals.MODULATED_INPUT: truth["input"],
        signals.TIME_PROJECTION: kwargs.get("e", kwargs.get("timestep")),
        signals.TIME_EMBEDDING: kwargs.get("temb", truth.get("outer")),
    }[signal]
    if isinstance(expected, tuple | list):
        expected = expected[1]
    eye = Eye(signal)
    with tapped(TAPS[tap], network, places, eye):
        again = call()
    (seen,) = eye.seen
    assert torch.equal(seen, expected)
    assert torch.equal(again, plain)
    assert network._modules[places.blocks] is blocks and type(blocks) is torch.nn.ModuleList
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_a_compiled_model_is_refused_in_words(runs, host):
    case = models.load("wan_t2v")
    patched = host.attach(case.model, CacheConfig(TeaCache(place="output")))
    compiled = torch.compile(case.model.model.diffusion_model, backend="eager")
    patched.add_object_patch("diffusion_model", compiled)
    with pytest.raises(host.UnsupportedModel, match="This policy cannot look into a model"):
        runs.sample(patched, case, steps=12)
