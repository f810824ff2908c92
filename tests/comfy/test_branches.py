"""Replay of single evaluations where one round makes several calls: nothing may be mixed up.

Every scenario samples on sigmas that come in pairs, so that the cached run replays each
evaluation at the very input it was computed at and must give the same samples.
"""

from __future__ import annotations

import importlib
import random
from dataclasses import replace

import models
import pytest
import torch

from sencache_core import CacheConfig, CfgCache, Guards, Planned

pytestmark = pytest.mark.comfyui


def node(module: str, cls: str, *args, **kwargs):
    """First output of a stock node, or a skip where this ComfyUI lacks it."""
    try:
        found = getattr(importlib.import_module(f"comfy_extras.{module}"), cls)
    except (ImportError, AttributeError):
        pytest.skip(f"this ComfyUI lacks {cls}")
    return found.execute(*args, **kwargs).result[0]


def check(runs, host, case, patch=lambda m: m, guide=None, tap="output", elsewhere=0, **kwargs):
    """Compare replaying runs with a plain one; return the report of the one that reuses.

    Another one runs the conditional branches alone where it replays.

    Args:
        patch: applied to the model of both runs, over SenCache and under it.
        guide: ``model -> guider``.
        elsewhere: calls of another model than the case's.
    """
    sigmas = kwargs.pop("sigmas", None)
    sigmas = runs.paired(case.model, 3) if sigmas is None else sigmas
    guided = (lambda m: {"guide": guide(m)}) if guide else (lambda m: {})
    model = patch(case.model)
    plain = runs.sample(model, case, sigmas=sigmas, **guided(model), **kwargs)
    report = None
    config = replace(runs.REPLAY, tap=tap)
    for build in (
        lambda publish: host.attach(patch(case.model), config, publish),
        lambda publish: patch(host.attach(case.model, config, publish)),
    ):
        reports = runs.Reports()
        patched = build(reports)
        with runs.counted(case.model) as calls:
            out = runs.sample(patched, case, sigmas=sigmas, **guided(patched), **kwargs)
        report = reports.last
        assert report.evaluations == len(sigmas) // 2
        assert report.calls == report.calls_saved
        if tap == "stack":  # what surrounds the stack runs every time
            assert calls[0] == report.calls + report.calls_saved
        else:
            assert calls[0] == report.calls - elsewhere
        assert runs.error(out, plain) <= 1e-5
    alone = replace(config, policy=CfgCache(2.0))
    for model in (host.attach(patch(case.model), alone), patch(host.attach(case.model, alone))):
        out = runs.sample(model, case, sigmas=sigmas, **guided(model), **kwargs)
        assert runs.error(out, plain) <= 1e-5
    return report


TAPS = pytest.mark.parametrize("tap", ["output", "stack"])


def changed(cond: list, **options) -> list:
    return [[cond[0][0], cond[0][1] | options]]


@TAPS
@pytest.mark.parametrize("tokens", [(5, 5), (5, 8)])
@pytest.mark.parametrize("name", ["wan_t2v", "ltxv"])
def test_batched_or_split(runs, host, name, tokens, tap):
    case = models.load(name, tokens=tokens)
    report = check(runs, host, case, tap=tap)
    assert report.calls == 3 * (1 if tokens[0] == tokens[1] else 2)


@TAPS
def test_memory_decides_the_batching_but_nothing_else(runs, host, monkeypatch, tap):
    """Short of memory, ComfyUI splits cond and uncond, from one call to the next."""
    case = models.load("wan_t2v")
    base = type(case.model.model)
    config = CacheConfig(tap=tap)
    found = []
    dice = random.Random(1)
    for share in (0.0, 1.0, 0.5):

        def required(self, *args, share=share, **kwargs):
            return 1e18 if dice.random() < share else 0

        reports = runs.Reports()
        patched = host.attach(case.model, config, reports)
        with monkeypatch.context() as patch, runs.counted(case.model) as calls:
            patch.setattr(base, "memory_required", required)
            out = runs.sample(patched, case, steps=12)
        report = reports.last
        if tap == "output":
            assert report.calls == calls[0]
        found.append((out, [r.decision for r in report.steps], report.calls))
    (out, decisions, calls), split, flipping = found
    assert split[2] == 2 * calls and calls < flipping[2] < 2 * calls
    for other in (split, flipping):
        assert other[1] == decisions
        assert runs.error(other[0], out) <= 1e-5


@TAPS
def test_batches_of_two_without_guidance(runs, host, tap):
    case = models.load("wan_t2v", batch=2)
    check(runs, host, case, cfg=1.0, tap=tap)
    check(runs, host, case, tap=tap)


@TAPS
def test_several_positives_and_a_prompt_schedule(runs, host, tap):
    case = models.load("wan_t2v")
    other = models.text("wan_t2v", 3)
    case.positive = case.positive + other
    check(runs, host, case, tap=tap)
    case.positive = (
        changed(case.positive, start_percent=0.0, end_percent=0.6)
        + changed(other, start_percent=0.4, end_percent=1.0)
        + models.text("wan_t2v", 4)
    )
    check(runs, host, case, tap=tap)


@pytest.mark.parametrize("change", ["prompt", "guidance ends"])
@pytest.mark.parametrize("split", [False, True])
def test_what_one_prompt_owes_is_not_taken_back_from_the_next(
    runs, host, monkeypatch, split, change
):
    """Split, the unconditional output is asked for first: it must be known by then."""
    case = models.load("wan_t2v")
    sampling = case.model.get_model_object("model_sampling")
    sigmas = runs.sigmas_of(case.model, "euler", 12)
    half = float(sigmas[3] + sigmas[4]) / 2
    share = next(k / 2000 for k in range(2000) if sampling.percent_to_sigma(k / 2000) < half)
    if change == "prompt":
        case.positive = changed(case.positive, start_percent=0.0, end_percent=share) + changed(
            models.text("wan_t2v", 3), start_percent=share, end_percent=1.0
        )
    else:
        case.negative = changed(case.negative, start_percent=0.0, end_percent=share)
    if split:
        base = type(case.model.model)
        monkeypatch.setattr(base, "memory_required", lambda self, *args, **kwargs: 1e18)
    outs = {}
    for mask in ("CC..CCCCCCCC", "CCC.CC..CC.C"):
        policy, guards = Planned(mask=mask), Guards(cooldown=0, longest_run=9)
        for hindsight in (True, False):
            config = CacheConfig(policy, guards=guards, budget=None, hindsight=hindsight)
            outs[hindsight] = runs.sample(host.attach(case.model, config), case, sigmas=sigmas)
        # Of the second mask, the runs of reuse after the change are taken back as ever.
        assert runs.same(*outs.values()) == (mask == "CC..CCCCCCCC")


@TAPS
def test_areas_and_masks(runs, host, tap):
    case = models.load("wan_t2v")
    background = case.positive
    left = changed(models.text("wan_t2v", 3), area=(3, 8, 4, 0, 0, 0), strength=1.0)
    right = changed(models.text("wan_t2v", 4), area=(3, 8, 4, 0, 0, 4), strength=0.7)
    case.positive = background + left + right
    report = check(runs, host, case, tap=tap)
    assert report.calls > 3
    mask = torch.zeros(1, 8, 8)
    mask[:, :, :4] = 1
    case.positive = background + changed(models.text("wan_t2v", 5), mask=mask, mask_strength=0.9)
    check(runs, host, case, tap=tap)


@TAPS
@pytest.mark.parametrize("schedule", ["standard_static", "standard_uniform", "batched"])
@pytest.mark.parametrize("causal", [True, False])
def test_context_windows(runs, host, schedule, causal, tap):
    case = models.load("wan_t2v")
    case.latent = torch.zeros(1, 16, 7, 8, 8)

    def windowed(model):
        return runs.windowed(model, schedule, causal_window_fix=causal)

    report = check(runs, host, case, patch=windowed, tap=tap)
    assert report.calls > 3


@pytest.mark.parametrize("name", ["ltxv", "ltxav"])
def test_context_windows_of_ltx(runs, host, name):
    case = models.load(name)
    if name == "ltxv":
        case.latent = torch.zeros(1, 128, 5, 4, 4)
    else:
        parts = case.latent.unbind()
        case.latent = type(case.latent)((torch.zeros(1, 128, 5, 4, 4), parts[1]))

    def windowed(model):
        options = ("standard_static", "pyramid", False)
        return node("nodes_context_windows", "LTXVContextWindowsNode", model, 24, 8, *options)

    check(runs, host, case, patch=windowed)


@TAPS
@pytest.mark.parametrize("layers", ["0", "1, 2"])
@pytest.mark.parametrize("cls", ["SkipLayerGuidanceDiT", "SkipLayerGuidanceDiTSimple"])
@pytest.mark.parametrize("name", ["wan_t2v", "ltxv"])
def test_skip_layer_guidance(runs, host, name, cls, layers, tap):
    case = models.load(name)
    window = {"start_percent": 0.0, "end_percent": 0.9, "double_layers": layers}
    scale = {} if cls.endswith("Simple") else {"scale": 2.0}

    def guided(model):
        return node("nodes_slg", cls, model, **scale, **window)

    if tap == "stack" and layers == "0":
        # The guidance swallows the block at which the tap enters: that pass is always computed.
        reports = runs.Reports()
        plain = runs.sample(guided(case.model), case, sigmas=runs.paired(case.model, 3))
        model = guided(host.attach(case.model, replace(runs.REPLAY, tap=tap), reports))
        with runs.counted(case.model) as calls:
            out = runs.sample(model, case, sigmas=runs.paired(case.model, 3))
        assert runs.error(out, plain) <= 1e-5
        assert calls[0] == 12 if cls.endswith("DiT") else calls[0] > 6
        return
    check(runs, host, case, patch=guided, tap=tap)


@TAPS
def test_perturbed_attention_guidance(runs, host, tap):
    case = models.load("wan_t2v")
    check(
        runs,
        host,
        case,
        patch=lambda m: node("nodes_pag", "PerturbedAttentionGuidance", m, 2.0),
        tap=tap,
    )


@TAPS
def test_spatio_temporal_and_modality_guidance(runs, host, tap):
    case = models.load("ltxav")

    def guided(model):
        model = node("nodes_lt", "LTXVSpatioTemporalGuidance", model, 1.0, "1", 0.0, 1.0)
        return node("nodes_lt", "LTXVModalityGuidance", model, 3.0, 0.0, 0.9)

    report = check(runs, host, case, patch=guided, tap=tap)
    assert report.calls > 6


@TAPS
def test_extra_passes_that_nothing_marks(runs, host, tap):
    """Only their place in the round tells them apart."""
    import comfy.samplers

    case = models.load("wan_t2v")

    def guided(model):
        def after(args):
            (other,) = comfy.samplers.calc_cond_batch(
                args["model"], [args["cond"]], -args["input"], args["sigma"], args["model_options"]
            )
            return args["denoised"] + 0.1 * other

        out = model.clone()
        out.set_model_sampler_post_cfg_function(after)
        return out

    report = check(runs, host, case, patch=guided, tap=tap)
    assert report.calls == 6


def test_guiders_with_more_conditions(runs, host):
    case = models.load("wan_t2v")
    third = models.text("wan_t2v", 3)

    def dual(nested):
        def build(model):
            from comfy_extras.nodes_custom_sampler import Guider_DualCFG

            out = Guider_DualCFG(model)
            out.set_conds(case.positive, third, case.negative)
            out.set_cfg(3.0, 2.0, nested) if nested is not None else out.set_cfg(3.0, 2.0)
            return out

        return build

    def perpendicular(model):
        from comfy_extras.nodes_perpneg import Guider_PerpNeg

        out = Guider_PerpNeg(model)
        out.set_conds(case.positive, case.negative, third)
        out.set_cfg(4.0, 0.5)
        return out

    for guide in (dual(None), dual(True), perpendicular):
        report = check(runs, host, case, guide=guide)
        assert report.family == "wan"


def test_guider_with_a_second_model(runs, host):
    case = models.load("wan_t2v")
    other = models.build("wan_t2v", seed=1)

    def dual(model):
        try:
            from comfy_extras.nodes_custom_sampler import Guider_DualModel
        except ImportError:
            pytest.skip("this ComfyUI lacks Guider_DualModel")
        out = Guider_DualModel(model, other)
        # The same words for both models: only the model tells the calls apart.
        out.set_conds(case.positive, case.positive)
        out.set_cfg(4.0)
        return out

    report = check(runs, host, case, guide=dual, elsewhere=3)
    assert report.calls == 6


@TAPS
def test_lora_hooks_with_keyframes(runs, host, tap):
    import comfy.hooks

    case = models.load("wan_t2v")
    shape = (4, 128)
    lora = {
        "diffusion_model.blocks.0.self_attn.q.lora_up.weight": models.noise(128, 4, seed=50),
        "diffusion_model.blocks.0.self_attn.q.lora_down.weight": models.noise(*shape, seed=51),
        "diffusion_model.blocks.0.self_attn.q.alpha": torch.tensor(4.0),
    }
    hooks = comfy.hooks.create_hook_lora(lora, 0.5, 0.0)
    frames = comfy.hooks.HookKeyframeGroup()
    frames.add(comfy.hooks.HookKeyframe(1.0, 0.0))
    frames.add(comfy.hooks.HookKeyframe(0.2, 0.5))
    hooks.set_keyframes_on_hooks(frames)
    plain = runs.sample(case.model, case, sigmas=runs.paired(case.model, 3))
    case.positive = comfy.hooks.set_hooks_for_conditioning(case.positive, hooks)
    hooked = runs.sample(case.model, case, sigmas=runs.paired(case.model, 3))
    assert runs.error(hooked, plain) > 1e-3
    check(runs, host, case, tap=tap)


@TAPS
@pytest.mark.parametrize("name", ["wan_5b", "wan_i2v", "ltxv"])
def test_masks_of_the_latent(runs, host, name, tap):
    case = models.load(name)
    case.latent = models.noise(*case.latent.shape, seed=60)
    mask = torch.ones(1, 1, *case.latent.shape[2:])
    mask[:, :, 0] = 0
    check(runs, host, case, mask=mask, tap=tap)


@TAPS
def test_masks_of_video_and_audio(runs, host, tap):
    case = models.load("ltxav")
    video, audio = case.latent.unbind()
    nest = type(case.latent)
    case.latent = nest((models.noise(*video.shape, seed=61), models.noise(*audio.shape, seed=62)))
    frames, seconds = torch.ones(1, 1, *video.shape[2:]), torch.ones(1, 1, *audio.shape[2:])
    frames[:, :, 0] = 0
    seconds[:, :, :3] = 0
    check(runs, host, case, mask=nest((frames, seconds)), tap=tap)


def test_video_without_audio_on_an_audio_model(runs, host):
    case = models.load("ltxav")
    case.latent = case.latent.unbind()[0]
    check(runs, host, case)
    check(runs, host, case, tap="stack")


def test_image_model_without_vision_on_one_side(runs, host):
    case = models.load("wan_i2v")
    options = {k: v for k, v in case.negative[0][1].items() if k != "clip_vision_output"}
    case.negative = [[case.negative[0][0], options]]
    report = check(runs, host, case)
    assert report.calls == 6


def test_inpainting_sampler_of_cogvideox(runs, host):
    case = models.load("cog_1_5")
    from comfy_extras.nodes_void import VOID_DDIM

    check(runs, host, case, sampler=VOID_DDIM())
