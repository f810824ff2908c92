"""ComfyUI as a host of the bench: its clips are diffusers', its caches save what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks import Plan, Regime, load_tiny
from benchmarks.case import make_case
from benchmarks.measures import rms
from benchmarks.store import Store
from sencache_core.app import cli
from sencache_core.tiny import SPECS

SHORT = Regime("short", steps=12, shift=5.0, guidance=4.0)

pytest.importorskip("diffusers", reason="the tiny models need diffusers")
pytestmark = pytest.mark.comfyui


def small(family):
    """A bundled model with clips of an eighth of their size or less."""
    model = load_tiny(family)
    channels, _, height, width = model.spec.latent
    latent = (channels, 2, height // 2, width // 2)
    return replace(model, spec=replace(model.spec, latent=latent))


@pytest.fixture(scope="module")
def peers(comfyui):
    from benchmarks import comfy_peers

    return comfy_peers


@pytest.fixture(scope="module", params=sorted(SPECS))
def cases(request, peers, tmp_path_factory):
    """The same model in both hosts: diffusers, ComfyUI."""
    if request.param == "cogvideox":
        pytest.importorskip("comfy_extras.nodes_void", reason="this ComfyUI has no CogVideoX")
    model = small(request.param)
    store = Store(tmp_path_factory.mktemp("store"), model)
    both = [make_case(model, SHORT, host, store, 1, 1, 1) for host in ("diffusers", "comfyui")]
    yield both
    for case in both:
        case.host.close()


def test_same_clip_as_diffusers(cases):
    (reference,), (clip,) = (case.references for case in cases)
    assert clip.work == reference.work
    # CogVideoX's tables of noise levels differ in their last digits.
    assert rms(clip.latent - reference.latent) < 0.02 * rms(reference.latent)


@pytest.mark.parametrize(
    "name", ["easycache", "lazycache", "ours-easycache (ComfyUI)", "planned (ComfyUI)"]
)
def test_method_saves_work_and_leaves_no_trace(cases, peers, name):
    case = cases[1]
    (method,) = (m for m in peers.METHODS if m.name == name)
    dear, cheap = (
        ({"budget": 1.0}, {"budget": 0.5})
        if method.ours
        else ({"reuse_threshold": 0.0}, {"reuse_threshold": 3.0})
    )
    before = case.host.patcher
    (reference,) = case.references
    (clip,) = case.clips(method, cheap, case.tests)
    assert clip.work < 0.7 * reference.work
    assert clip.latent.isfinite().all()
    (clip,) = case.clips(method, dear, case.tests)
    assert clip.work == reference.work
    assert case.host.patcher is before
    (again,) = case.clips(None, {}, case.tests)
    assert torch.equal(again.latent, reference.latent)


def test_sweeps_go_from_dear_to_cheap(peers):
    thresholds = peers.THRESHOLDS
    assert thresholds == tuple(sorted(thresholds))
    assert thresholds[-1] == 3.0


def test_without_comfyui_there_is_a_reason(monkeypatch, peers):
    monkeypatch.setattr(peers, "find", lambda: None)
    with pytest.raises(peers.Unavailable, match="COMFYUI_PATH"):
        peers.load()


def test_a_model_that_comfyui_samples_otherwise_is_refused(peers):
    """Another rotary scale is nothing that ComfyUI could read off the weights."""
    model = small("ltx")
    other = replace(model, rope=(8 / 100, 32, 32))
    peers.ComfyHost(model, SHORT).close()
    with pytest.raises(peers.Unavailable, match="does not sample ltx as diffusers does"):
        peers.ComfyHost(other, SHORT)
    diffusers_only = replace(model, levels={"shift_terminal": 0.3})
    with pytest.raises(peers.Unavailable, match="does not sample"):
        peers.ComfyHost(diffusers_only, SHORT)


def test_weights_that_comfyui_cannot_read_have_a_reason(peers):
    model = load_tiny("wan")
    module = model.module.__class__(**{**model.spec.config, "attention_head_dim": 24})
    small = replace(model, module=module.eval().requires_grad_(False))
    with pytest.raises(peers.Unavailable, match="this ComfyUI cannot load wan"):
        peers.ComfyHost(small, SHORT)


@pytest.mark.parametrize("sampler", ["uni_pc", "euler_ancestral"])
def test_other_samplers_are_rows_of_their_own(peers, tmp_path, sampler):
    """Euler's figures are not theirs, and what draws noise has no exact solution."""
    from benchmarks import summary
    from benchmarks.bench import run_bench

    regime = Regime("short", steps=6, shift=5.0, guidance=2.0).sampled_by(sampler)
    names = ["fewer-steps (ComfyUI)", "planned (ComfyUI)"]
    methods = [method for method in peers.METHODS if method.name in names]
    plan = Plan([small("ltx")], [regime], methods, [0.5], 1, 1, 1)
    rows = run_bench(plan, tmp_path / "rows.json", progress=False)
    assert [row["regime"] for row in rows] == [f"short {sampler}"] * 3
    assert all(row["error"] is None for row in rows)
    (fewer,) = (row["clips"][0] for row in rows if row["method"] == names[0])
    assert fewer["cost"] == 0.5
    assert 5 < fewer["uncached"] < 60
    assert (fewer["exact"] is None) == regime.draws == (sampler == "euler_ancestral")
    exact, same = summary.by_sampler(rows).split("To the uncached clip")
    figure = f"{fewer['uncached']:.1f}"
    assert f"| {sampler} |" in same and figure in same
    if regime.draws:
        assert f"| {sampler} |  |" in exact


def test_a_sampler_of_comfyui_is_not_for_diffusers(tmp_path):
    command = ["bench", "--json", str(tmp_path / "rows.json"), "--family", "ltx"]
    assert cli.main([*command, "--sampler", "uni_pc", "--methods", "unipc"]) == 2
    assert not (tmp_path / "rows.json").exists()
