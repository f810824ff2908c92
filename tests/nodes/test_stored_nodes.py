"""SenCache Store and Resume with ComfyUI's own sampler nodes, on the bundled model, in process."""

from types import SimpleNamespace

import pytest
import torch

from sencache_core import tiny

pytestmark = pytest.mark.comfyui

STEPS = 4


@pytest.fixture
def nodes(pack, monkeypatch, tmp_path):
    """The bundled model behind Store and Resume, and what the two have said."""
    import comfy.sd

    folders, module = pack.part("nodes.folders"), pack.part("nodes.stored")
    monkeypatch.delenv("SENCACHE_STORED", raising=False)
    monkeypatch.setattr(folders, "user_profiles", lambda: tmp_path / "profiles")
    said = []
    monkeypatch.setattr(module, "show_text", lambda text, node: said.append(text))
    options = {"dtype": torch.float32}
    plain = comfy.sd.load_diffusion_model(str(tiny.weights_path("wan")), model_options=options)

    def patched(similarity: float = 1.0, similar_share: float = 0.25, limit_gb: float = 1.0):
        (kept,) = pack.run("SenCacheStore", model=plain, limit_gb=limit_gb)
        inputs = {"similarity": similarity, "similar_share": similar_share}
        return pack.run("SenCacheResume", model=kept, **inputs)[0]

    return SimpleNamespace(plain=plain, patched=patched, said=said, folder=tmp_path / "stored")


def conditions(pack, text: str) -> dict:
    prompt = pack.nodes["SenCacheTinyPrompt"].execute
    return {"positive": prompt(text, "wan").result[0], "negative": prompt("", "wan").result[0]}


def ksampler(pack, model, text: str = "a red circle moving left", seed: int = 1):
    settings = {"seed": seed, "steps": STEPS, "cfg": 4.0, "denoise": 1.0}
    settings |= {"sampler_name": "uni_pc", "scheduler": "simple"}
    latent = {"samples": torch.zeros(1, 16, 2, 8, 8)}
    sampler = pack.host_nodes.NODE_CLASS_MAPPINGS["KSampler"]()
    with torch.inference_mode():
        given = conditions(pack, text)
        return sampler.sample(model, latent_image=latent, **given, **settings)[0]["samples"]


def custom_advanced(pack, model, steps: int = STEPS):
    import comfy_extras.nodes_custom_sampler as custom
    from comfy.samplers import calculate_sigmas, sampler_object

    guider = custom.Guider_Basic(model)
    guider.set_conds(conditions(pack, "a red circle moving left")["positive"])
    sigmas = calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
    node = custom.SamplerCustomAdvanced
    sample = getattr(node, "execute", None) or node().sample
    latent = {"samples": torch.zeros(1, 16, 2, 8, 8)}
    with torch.inference_mode():
        noise = custom.Noise_RandomNoise(3)
        out = sample(noise, guider, sampler_object("euler"), sigmas, latent)
    return [entry["samples"] for entry in getattr(out, "args", out)]


def test_ksampler_goes_on_from_the_store(pack, nodes):
    expected = ksampler(pack, nodes.plain)
    assert torch.equal(expected, ksampler(pack, nodes.patched()))
    assert nodes.said[0].startswith(f"{STEPS} model calls stored; 0 of 1 GB are used.")
    assert nodes.said[1] == f"0 of {STEPS} model calls came from the store."
    assert len(list(nodes.folder.glob("*.safetensors"))) == STEPS
    assert torch.equal(expected, ksampler(pack, nodes.patched()))
    assert nodes.said[-1] == f"{STEPS} of {STEPS} model calls came from the store."


def test_sampler_custom_advanced_gives_both_latents(pack, nodes):
    expected = custom_advanced(pack, nodes.plain)
    for _ in range(2):
        found = custom_advanced(pack, nodes.patched())
        assert all(map(torch.equal, expected, found)) and len(found) == 2
    assert nodes.said[-1].startswith(f"{STEPS} of {STEPS}")


def test_what_ran_is_said(pack, nodes):
    ksampler(pack, nodes.patched())
    ksampler(pack, nodes.patched(), seed=2)
    assert nodes.said[-1].splitlines() == [
        f"0 of {STEPS} model calls came from the store.",
        "The most similar stored run began with another seed, size or cfg.",
    ]
    for path in sorted(nodes.folder.glob("*.safetensors"), key=lambda p: p.stat().st_mtime_ns)[1:]:
        path.unlink()
    ksampler(pack, nodes.patched())
    assert nodes.said[-1].splitlines() == [
        f"1 of {STEPS} model calls came from the store.",
        f"The model ran from step 2 of {STEPS} on.",
    ]


def test_a_similar_prompt_is_named_as_such(pack, nodes):
    ksampler(pack, nodes.patched())
    near = "a red circle moving right"
    expected = ksampler(pack, nodes.plain, near)
    other = ksampler(pack, nodes.patched(similarity=0.0, similar_share=0.5), near)
    assert "2 came from a run with another prompt (cosine" in nodes.said[-1]
    assert not torch.equal(expected, other)
    assert torch.equal(expected, ksampler(pack, nodes.patched(similarity=1.0), near))


def test_a_limit_too_low_for_any_similar_prompt_says_how_near_one_was(pack, nodes):
    ksampler(pack, nodes.patched())
    near = "a red circle moving right"
    ksampler(pack, nodes.patched(similarity=0.9999), near)
    assert "The most similar prompt in the store has a cosine of 0." in nodes.said[-1]
    assert "another prompt." in nodes.said[-1]


def test_the_folder_may_be_named(pack, nodes, monkeypatch, tmp_path):
    monkeypatch.setenv("SENCACHE_STORED", str(tmp_path / "elsewhere"))
    ksampler(pack, nodes.patched())
    assert not nodes.folder.exists()
    assert len(list((tmp_path / "elsewhere").glob("*.safetensors"))) == STEPS
