"""Whole pipelines of diffusers, as users call them."""

from __future__ import annotations

import pytest
import torch
from diffusers_runs import (
    NARROW,
    TEXT,
    Sampler,
    diffusers,
    generate,
    host,
    network,
    scheduler_of,
    text,
    wan_pipeline,
)
from host_contract import HALF, STEPS, Job

from sencache_core import CacheConfig
from sencache_core.tiny import SPECS


def test_wan_pipeline():
    pipe = wan_pipeline(transformer=network("wan"))
    plain = generate(pipe)
    with host.attach(pipe, HALF) as cached:
        first = generate(pipe)
        assert len(cached.reports) == 1, "the pipeline's end is the run's end"
        assert torch.equal(generate(pipe), first)
    assert all(report.completed and report.evaluations == STEPS // 2 for report in cached.reports)
    assert 0 < (first - plain).square().mean() < 0.1 * plain.square().mean()
    assert torch.equal(generate(pipe), plain)


def test_both_transformers_of_a_wan_22_pipeline():
    config = {**SPECS["wan"].config, **NARROW["wan"]}
    low = diffusers.WanTransformer3DModel(**config).eval().requires_grad_(False)
    pipe = wan_pipeline(transformer=network("wan"), transformer_2=low, boundary_ratio=0.8)
    with host.attach(pipe, HALF) as cached:
        generate(pipe, steps=30)
    high_report, low_report = cached.reports
    assert high_report.num_steps + low_report.num_steps == 30
    assert high_report.steps[-1].sigma >= 0.8 > low_report.steps[0].sigma
    assert high_report.completed
    assert low_report.completed
    assert high_report.evaluations + low_report.evaluations == 15
    assert high_report.steps[0].decision == low_report.steps[0].decision == "forced"
    assert low_report.steps[1].reason != "warm-up"


@pytest.mark.parametrize(
    ("name", "family", "size", "masks"),
    [
        ("LTXPipeline", "ltx", (128, 9), True),
        ("CogVideoXPipeline", "cogvideox", (64, 5), False),
    ],
)
def test_pipelines_that_batch_their_guidance(name, family, size, masks):
    parts = {"tokenizer": None, "text_encoder": None, "vae": None}
    pipe = getattr(diffusers, name)(
        transformer=network(family), scheduler=scheduler_of(family), **parts
    )
    pipe.set_progress_bar_config(disable=True)
    texts = {"prompt_embeds": text(0), "negative_prompt_embeds": torch.zeros(1, 8, TEXT)}
    if masks:
        texts["prompt_attention_mask"] = texts["negative_prompt_attention_mask"] = torch.ones(1, 8)

    def clip():
        return pipe(
            **texts,
            height=size[0],
            width=size[0],
            num_frames=size[1],
            num_inference_steps=STEPS,
            output_type="latent",
            generator=torch.Generator().manual_seed(0),
            return_dict=False,
        )[0]

    plain = clip()
    with host.attach(pipe, HALF) as cached:
        error = (clip() - plain).square().mean() / plain.square().mean()
    (report,) = cached.reports
    assert (report.evaluations, report.calls, report.completed) == (STEPS // 2, STEPS // 2, True)
    assert 0 < error < 0.05


@pytest.mark.parametrize("family", ["wan", "ltx"])
def test_a_third_pass_beside_a_batched_pair_belongs_to_its_round(family):
    """As LTX-2's pipeline calls: the pair in one batch of two, further guidance alone."""
    sampler = Sampler(family)
    attachment = host.attach(sampler.module, CacheConfig(budget=0.5), sampler.scheduler)
    sampler(Job(batched=True), extra=True)
    attachment.detach()
    (report,) = attachment.reports
    assert (len(report.steps), report.evaluations) == (STEPS, STEPS // 2)
    assert report.completed and sampler.calls == 2 * (STEPS // 2)
