"""The prompts of the tiny prompt node sample from the bundled models, one by one and in batches."""

import pytest
import torch

from sencache_core import tiny

pytestmark = pytest.mark.comfyui


def sampled(pack, family: str, noise: torch.Tensor) -> torch.Tensor:
    """Two guided Euler steps from ``noise``, ``[B, C, F, H, W]``."""
    import comfy.samplers
    import comfy.sd
    import comfy.supported_models

    if family == "cogvideox" and not hasattr(comfy.supported_models, "CogVideoX_T2V"):
        pytest.skip("this ComfyUI has no CogVideoX")
    prompt = pack.nodes["SenCacheTinyPrompt"].execute
    model = comfy.sd.load_diffusion_model(
        str(tiny.weights_path(family)), model_options={"dtype": torch.float32}
    )
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(prompt("a red circle", family).result[0], prompt("", family).result[0])
    guider.set_cfg(4.0)
    sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor([0.9, 0.5, 0.1])
    with torch.inference_mode():
        empty = torch.zeros_like(noise)
        return guider.sample(noise.clone(), empty, sampler, sigmas, disable_pbar=True)


@pytest.mark.parametrize("family", sorted(tiny.SPECS))
def test_a_batch_is_its_clips(pack, family):
    shape = (2, *tiny.SPECS[family].latent)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    both = sampled(pack, family, noise)
    assert both.isfinite().all()
    assert torch.allclose(both[1:], sampled(pack, family, noise[1:]), atol=1e-3)


def test_mask_counts_tokens(pack):
    ((tokens, extra),) = pack.nodes["SenCacheTinyPrompt"].execute("a red circle", "ltx").result[0]
    assert extra["attention_mask"].shape == tokens.shape[:2]
    assert not extra["attention_mask"].is_floating_point()
