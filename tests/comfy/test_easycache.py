"""ComfyUI's own EasyCache beside ours: the same decisions, the same clip."""

from __future__ import annotations

import importlib

import models
import pytest

from sencache_core import CacheConfig, Guards
from sencache_core.policies import EasyCache

pytestmark = pytest.mark.comfyui

STEPS, START, END = 24, 0.14, 0.93


@pytest.fixture
def theirs(runs):
    return importlib.import_module("comfy_extras.nodes_easycache")


@pytest.fixture
def sound(theirs, monkeypatch):
    """The node adds its differences into the sampler's own latent; here into a copy."""
    own = theirs.EasyCacheHolder.apply_cache_diff
    kept = lambda self, x, *args, **kwargs: own(self, x.clone(), *args, **kwargs)  # noqa: E731
    monkeypatch.setattr(theirs.EasyCacheHolder, "apply_cache_diff", kept)


def run_theirs(theirs, runs, case, threshold):
    """Whether each step ran, and the clip, with ComfyUI's node on all of the latent."""
    model = theirs.EasyCacheNode.execute(case.model, threshold, START, END, False).result[0]
    model.model_options["transformer_options"]["easycache"].subsample_factor = 1
    block, ran, counts = case.model.model.diffusion_model.blocks[0], [0], []
    handle = block.register_forward_hook(lambda *_: ran.__setitem__(0, ran[0] + 1))
    try:
        out = runs.sample(
            model, case, steps=STEPS, cfg=1.0, callback=lambda *_: counts.append(ran[0])
        )
    finally:
        handle.remove()
    return [now > before for before, now in zip([0, *counts], counts, strict=False)], out


@pytest.mark.parity("easycache", "ComfyUI's EasyCache node")
@pytest.mark.parametrize("threshold", [0.55, 1.6])
def test_decisions_and_clips_are_those_of_comfyuis_node(runs, host, theirs, sound, threshold):
    case, reports = models.load("wan_t2v"), runs.Reports()
    expected, clip = run_theirs(theirs, runs, case, threshold)
    guards = Guards(1, 0, 10_000, start=START, end=END)
    config = CacheConfig(EasyCache(threshold, "comfyui"), guards=guards, budget=None)
    out = runs.sample(host.attach(case.model, config, reports), case, steps=STEPS, cfg=1.0)
    assert [step.decision != "reused" for step in reports.last.steps] == expected
    assert 0 < reports.last.reused
    assert runs.error(out, clip) <= 1e-5


def test_the_node_as_it_stands_moves_the_latent(runs, theirs, request):
    """Why ours differs from it: what it adds to the model's input is the sampler's latent."""
    case = models.load("wan_t2v")
    clip = run_theirs(theirs, runs, case, 1.6)[1]
    request.getfixturevalue("sound")
    assert runs.error(run_theirs(theirs, runs, case, 1.6)[1], clip) > 0.1


@pytest.mark.parametrize("name", ["wan_t2v", "ltxv", "ltxav", "cog_1_0"])
def test_every_family_is_served(runs, host, name):
    case, reports = models.load(name), runs.Reports()
    plain = runs.sample(case.model, case, steps=12)
    config = CacheConfig(EasyCache(), budget=0.5)
    out = runs.sample(host.attach(case.model, config, reports), case, steps=12)
    assert reports.last.evaluations == 6
    assert not any("which part of the latent" in said for said in reports.last.texts)
    assert 0 < runs.error(out, plain) < 1
