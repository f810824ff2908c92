"""Guidance that is no fixed linear combination of the transformer's outputs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers_runs import TEXT, diffusers, host, network, scheduler_of, text
from host_contract import HALF, STEPS

from sencache_core.hosts._diffusers import nonlinear_guidance


def guider(name: str, **options):
    """A guider of modular diffusers, or a skip where this version lacks it."""
    if not hasattr(diffusers, name):
        pytest.skip(f"this diffusers lacks {name}")
    return getattr(diffusers, name)(**options)


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        ("ClassifierFreeGuidance", {}, None),
        ("ClassifierFreeGuidance", {"guidance_rescale": 0.7}, "rescaled guidance"),
        ("ClassifierFreeGuidance", {"start": 0.2}, "ClassifierFreeGuidance"),
        ("PerturbedAttentionGuidance", {"perturbed_guidance_layers": 0}, None),
        ("AutoGuidance", {"auto_guidance_layers": 0, "dropout": 0.5}, None),
        ("AdaptiveProjectedGuidance", {}, "AdaptiveProjectedGuidance"),
        ("ClassifierFreeZeroStarGuidance", {}, "ClassifierFreeZeroStarGuidance"),
        ("TangentialClassifierFreeGuidance", {}, "TangentialClassifierFreeGuidance"),
        ("SkipLayerGuidance", {"skip_layer_guidance_layers": 0}, "SkipLayerGuidance"),
    ],
)
def test_guiders(name, options, found):
    assert nonlinear_guidance(SimpleNamespace(guider=guider(name, **options))) == found


def test_a_guider_that_is_disabled_guides_nothing():
    off = guider("AdaptiveProjectedGuidance", enabled=False)
    assert nonlinear_guidance(SimpleNamespace(guider=off)) is None


@pytest.mark.parametrize(("rescale", "taken_back"), [(0.0, True), (0.7, False)])
def test_forecasts_are_taken_back_only_where_guidance_is_linear(rescale, taken_back):
    """A pipeline that rescales the guided output says so where it can be read."""
    pipe = diffusers.LTXPipeline(
        transformer=network("ltx"),
        scheduler=scheduler_of("ltx"),
        tokenizer=None,
        text_encoder=None,
        vae=None,
    )
    pipe.set_progress_bar_config(disable=True)
    ones = torch.ones(1, 8)
    with host.attach(pipe, HALF) as cached:
        pipe(
            prompt_embeds=text(0),
            negative_prompt_embeds=torch.zeros(1, 8, TEXT),
            prompt_attention_mask=ones,
            negative_prompt_attention_mask=ones,
            height=128,
            width=128,
            num_frames=9,
            num_inference_steps=STEPS,
            guidance_rescale=rescale,
            output_type="latent",
        )
    (report,) = cached.reports
    assert (report.evaluations, report.completed) == (STEPS // 2, True)
    assert any("not taken back" in message for message in report.texts) != taken_back
