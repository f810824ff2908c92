"""The bundled files load in ComfyUI by its own detection and give the diffusers modules' output."""

import pytest
import torch

from sencache_core import tiny
from sencache_core.tiny import sampling

pytest.importorskip("diffusers", reason="the tiny models need diffusers")
pytestmark = pytest.mark.comfyui

CLASS_NAMES = {"wan": "WAN21", "ltx": "LTXV", "cogvideox": "CogVideoX"}


@pytest.fixture(scope="module", params=sorted(tiny.SPECS))
def pair(request, comfyui):
    """(family, diffusers module, ComfyUI model patcher), both fp32, same bundled file."""
    import comfy.sd
    import comfy.supported_models

    family = request.param
    if family == "cogvideox" and not hasattr(comfy.supported_models, "CogVideoX_T2V"):
        pytest.skip("this ComfyUI has no CogVideoX")
    patcher = comfy.sd.load_diffusion_model(
        str(tiny.weights_path(family)), model_options={"dtype": torch.float32}
    )
    assert patcher is not None, "ComfyUI did not recognise the file"
    patcher.model.to(torch.float32)
    return family, tiny.load_diffusers(family), patcher


def comfy_output(family, model, x, t, context):
    """Raw output of ComfyUI's network; t in the units that ComfyUI hands to it."""
    kwargs = {}
    if family == "ltx":
        # A float mask would be added to the scores as it is; T5 supplies an integer one.
        kwargs["attention_mask"] = torch.ones(context.shape[:2], dtype=torch.long)
    scale = 1000.0 if family == "wan" else 1.0
    timestep = torch.full((len(x),), t * scale, dtype=torch.float32)
    with torch.no_grad():
        return model.diffusion_model(
            x.clone(), timestep, context=context.clone(), transformer_options={}, **kwargs
        )


def inputs(family, seed=0):
    spec = tiny.SPECS[family]
    x = torch.randn(2, *spec.latent, generator=torch.Generator().manual_seed(seed))
    prompts = [tiny.held_out_prompts()[0], ""]
    return x, torch.stack([tiny.encode_prompt(prompt) for prompt in prompts])


def test_detection(pair):
    family, _, patcher = pair
    spec, model = tiny.SPECS[family], patcher.model
    assert type(model).__name__ == CLASS_NAMES[family]
    assert model.latent_format.latent_channels == spec.latent[0]
    network = model.diffusion_model
    blocks = getattr(network, "transformer_blocks", None) or network.blocks
    assert len(blocks) == spec.layers


@pytest.mark.parametrize("level", [0.95, 0.3])
def test_same_output_as_diffusers(pair, level):
    family, module, patcher = pair
    t = level if tiny.SPECS[family].prediction == "flow" else int(level * 1000)
    x, context = inputs(family)
    with torch.no_grad():
        ours = tiny.forward(family, module, x, t, context)
    theirs = comfy_output(family, patcher.model, x, t, context)
    difference = (ours - theirs).abs().max().item()
    print(f"{family} t={t}: max abs difference {difference:.2e}, max {ours.abs().max():.2f}")
    assert ours.abs().max() > 0.1
    assert difference < 1e-3


def test_same_output_at_another_size(pair):
    family, module, patcher = pair
    channels, frames, height, width = tiny.SPECS[family].latent
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, channels, frames + 1, height - 2, width + 4, generator=generator)
    context = tiny.encode_prompt("a red circle circling")[None]
    t = 0.8 if tiny.SPECS[family].prediction == "flow" else 800
    with torch.no_grad():
        ours = tiny.forward(family, module, x, t, context)
    theirs = comfy_output(family, patcher.model, x, t, context)
    assert (ours - theirs).abs().max().item() < 1e-3


def test_same_noise_levels(pair):
    """ComfyUI's timestep of a noise level is the one that the model was trained with."""
    family, _, patcher = pair
    table = patcher.model.model_sampling
    if tiny.SPECS[family].prediction == "flow":
        sigma = torch.tensor([0.7])
        scale = 1000.0 if family == "wan" else 1.0
        assert table.timestep(sigma).item() == pytest.approx(0.7 * scale, rel=1e-5)
        return
    alphas = sampling.cog_alphas()
    expected = ((1 - alphas) / alphas).sqrt()[:999]
    assert torch.allclose(table.sigmas[:999].float(), expected, rtol=1e-3)
