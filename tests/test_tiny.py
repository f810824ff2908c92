"""Tiny demo models: files, key maps, prompt encoder, codec, held-out prompts, diffusers calls."""

import argparse
import functools
import hashlib
import importlib.util
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sencache_core import tiny
from sencache_core.tiny import data, sampling

FAMILIES = sorted(tiny.SPECS)

PINNED_DIGEST = "0eeab3c6848a18e643feeeef8cb06d876ffca993633b1648dbb750ad6107d700"

# Just below the least of these very clips.
PSNR_FLOOR = {"wan": 26.8, "ltx": 28.0, "cogvideox": 26.8}


@pytest.fixture(scope="module")
def modules():
    pytest.importorskip("diffusers", reason="the tiny models need diffusers")
    return functools.cache(tiny.load_diffusers)


@pytest.mark.parametrize("family", FAMILIES)
def test_files_are_small(family):
    assert tiny.weights_path(family).stat().st_size < 12_000_000
    assert tiny.codec_path(family).stat().st_size < 2_000_000


def test_bundle_is_small():
    paths = [path(f) for f in FAMILIES for path in (tiny.weights_path, tiny.codec_path)]
    assert sum(path.stat().st_size for path in paths) < 38_000_000


@pytest.mark.parametrize("family", FAMILIES)
def test_key_maps_are_inverse(family):
    stored = load_file(tiny.weights_path(family))
    renamed = tiny.to_diffusers_keys(family, stored)
    assert len(renamed) == len(stored)
    back = tiny.to_comfyui_keys(family, renamed)
    assert list(back) == list(stored)
    assert all(back[name] is stored[name] for name in stored)
    assert all(value.dtype == torch.float16 for value in stored.values())
    assert all(torch.isfinite(value).all() for value in stored.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_unknown_key_is_an_error(family):
    with pytest.raises(KeyError, match="unexpected weight name"):
        tiny.to_diffusers_keys(family, {"no.such.weight": 1})


def test_prompt_encoder_is_pinned():
    code = tiny.encode_prompt("A red circle, moving LEFT on a dark striped background")
    assert code.shape == (8, 4096) and code.dtype == torch.float32
    digest = hashlib.sha256(code.numpy().tobytes()).hexdigest()
    assert digest == PINNED_DIGEST
    assert torch.equal(code, tiny.encode_prompt("red circle left dark striped"))
    assert code[5:].abs().max() == 0
    assert code[0].std().item() == pytest.approx(0.1, rel=0.05)
    gram = code[:5] @ code[:5].T / code[0].square().sum()
    assert (gram - torch.eye(5)).abs().max() < 0.1


def test_prompt_encoder_edge_cases():
    assert tiny.encode_prompt("").abs().max() == 0
    assert tiny.encode_prompt("the background of a").abs().max() == 0
    assert tiny.encode_prompt("zebra").abs().max() > 0
    assert torch.equal(tiny.encode_prompt("red " * 20), tiny.encode_prompt("red " * 8))
    assert tiny.encode_prompt("red circle", dim=64).shape == (8, 64)


@pytest.mark.parametrize("family", FAMILIES)
def test_codec_round_trip(family):
    codec, spec, rng = tiny.Codec.load(family), tiny.SPECS[family], random.Random(77)
    for index in range(6):
        clip = tiny.make_clip(data.random_spec(rng), family, seed=9_000_000 + index)
        latent = codec.encode(clip)
        assert latent.shape == spec.latent
        decoded = codec.decode(latent)
        assert decoded.shape == clip.shape == (spec.frames, 3, spec.pixels, spec.pixels)
        assert decoded.min() >= 0 and decoded.max() <= 1
        psnr = -10 * torch.log10((decoded - clip).square().mean()).item()
        assert psnr > PSNR_FLOOR[family]


# Patches side by side give more than 3 and 6; clips as drawn 0.9 to 1.2, white noise 1.
BORDER_CEILING, NOISY_BORDER_CEILING = 1.3, 3.0


def border_ratio(clip, spatial):
    """Mean absolute step of neighbouring pixels across cell borders over that within cells."""
    ratios = []
    for axis in (-1, -2):
        steps = clip.diff(dim=axis).abs().transpose(axis, -1).flatten(0, -2).mean(0)
        border = torch.arange(1, len(steps) + 1) % spatial == 0
        ratios.append(steps[border].mean() / steps[~border].mean())
    return torch.stack(ratios).mean().item()


@pytest.mark.parametrize("family", FAMILIES)
def test_no_block_edges(family):
    codec, rng = tiny.Codec.load(family), random.Random(79)
    clips = torch.stack([tiny.make_clip(data.random_spec(rng), family, i) for i in range(12)])
    assert border_ratio(clips, codec.spatial) < BORDER_CEILING
    assert border_ratio(codec.decode(codec.encode(clips)), codec.spatial) < BORDER_CEILING


@pytest.mark.parametrize("family", FAMILIES)
def test_no_block_edges_in_a_noisy_background(family):
    codec = tiny.Codec.load(family)
    clip = tiny.make_clip("a blue circle spinning on a grey plain background", family, seed=8)
    latent = codec.encode(clip)[..., :2, :2].repeat(1, 1, 4, 4)
    latent = latent + 0.2 * torch.randn(latent.shape, generator=torch.Generator().manual_seed(8))
    assert border_ratio(codec.decode(latent), codec.spatial) < NOISY_BORDER_CEILING


@pytest.mark.parametrize("family", FAMILIES)
def test_codec_scale_and_batches(family):
    codec, rng = tiny.Codec.load(family), random.Random(78)
    clips = torch.stack([tiny.make_clip(data.random_spec(rng), family, i) for i in range(12)])
    latents = codec.encode(clips)
    assert latents.std().item() == pytest.approx(1.0, abs=0.2)
    assert torch.equal(latents[3], codec.encode(clips[3]))
    assert torch.equal(codec.decode(latents)[3], codec.decode(latents[3]))


def test_codec_rejects_odd_sizes():
    with pytest.raises(ValueError, match="1 \\+ n \\* 4 frames"):
        tiny.Codec.load("wan").encode(torch.zeros(12, 3, 128, 128))


def test_clips_are_deterministic_and_in_range():
    prompt = "a blue ring growing on a light checkered background"
    first, again = (tiny.make_clip(prompt, "wan", seed=3) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, tiny.make_clip(prompt, "wan", seed=4))
    assert first.shape == (13, 3, 128, 128) and first.dtype == torch.float32
    assert first.min() >= 0 and first.max() <= 1
    assert tiny.make_clip(prompt, size=(5, 64)).shape == (5, 3, 64, 64)


@pytest.mark.parametrize(
    "motion, axis, sign", [("left", 1, -1), ("right", 1, 1), ("up", 0, -1), ("down", 0, 1)]
)
def test_motion_moves_the_right_way(motion, axis, sign):
    clip = tiny.make_clip(f"a red square moving {motion} on a dark plain background", "wan", seed=5)
    redness = (clip[:, 0] - clip[:, 1]).clamp_min(0)
    grid = torch.linspace(-1, 1, 128)
    weight = redness.sum(2 - axis)
    centre = (weight * grid).sum(1) / weight.sum(1)
    assert (centre[-1] - centre[0]).item() * sign > 0.5


def test_every_attribute_word_is_encoded():
    words = [*data.COLOURS, *data.SHAPES, *data.MOTIONS, *data.TONES, *data.PATTERNS]
    assert len(set(words)) == len(words)
    assert all(tiny.encode_prompt(word)[0].abs().max() > 0 for word in words)
    for prompt in tiny.held_out_prompts():
        assert len(tiny.text.content_words(prompt)) == 5
        assert data.parse_prompt(prompt).prompt == prompt


def test_held_out_prompts_never_train():
    held_out = {data.parse_prompt(p).triple for p in tiny.held_out_prompts()}
    assert len(tiny.held_out_prompts()) == len(held_out) == 24
    rng = random.Random(0)
    drawn = {data.random_spec(rng).triple for _ in range(20_000)}
    assert not drawn & held_out
    assert len(drawn) == 6 * 6 * 10 - 24
    assert not {data.parse_prompt(p).triple for p in tiny.calibration_prompts()} & held_out
    assert tiny.calibration_prompts(5) == tiny.calibration_prompts(24)[:5]


def test_cog_schedule_matches_diffusers():
    diffusers = pytest.importorskip("diffusers", reason="the tiny models need diffusers")
    scheduler = diffusers.CogVideoXDDIMScheduler(**tiny.COG_SCHEDULER)
    assert torch.allclose(scheduler.alphas_cumprod.float(), sampling.cog_alphas(), atol=1e-6)
    for steps in (20, 50):
        scheduler.set_timesteps(steps)
        assert scheduler.timesteps.tolist() == sampling.cog_timesteps(steps)


def test_flow_sigmas():
    sigmas = sampling.flow_sigmas(10, 5.0)
    assert sigmas[0] == 1 and sigmas[-1] == 0 and len(sigmas) == 11
    assert sigmas[5].item() == pytest.approx(5 / 6)


@pytest.mark.parametrize("family", FAMILIES)
def test_forward(family, modules):
    spec, module = tiny.SPECS[family], modules(family)
    count = sum(p.numel() for p in module.parameters())
    assert 2e6 < count < 6.1e6
    blocks = module.blocks if family == "wan" else module.transformer_blocks
    assert len(blocks) == spec.layers >= 4
    assert not module.training
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *spec.latent, generator=generator)
    context = tiny.encode_prompt(tiny.held_out_prompts()[0])
    t = 0.9 if spec.prediction == "flow" else 900
    with torch.no_grad():
        out = tiny.forward(family, module, x, t, context)
        single = tiny.forward(family, module, x[1:], torch.tensor([t]), context[None])
        other = tiny.forward(family, module, x[1:], t, torch.zeros_like(context))
    assert out.shape == x.shape
    assert torch.allclose(out[1:], single, atol=1e-4)
    assert (single - other).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_output_predicts_its_target(family, modules):
    """The network beats the best constant guess on fresh clips, at a low and a high noise level."""
    spec, module = tiny.SPECS[family], modules(family)
    prompt = tiny.held_out_prompts()[0]
    clean = tiny.Codec.load(family).encode(tiny.make_clip(prompt, family, seed=123))[None]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    for level in (0.5, 0.9):
        if spec.prediction == "flow":
            t, x, target = level, (1 - level) * clean + level * noise, noise - clean
        else:
            t = int(level * 999)
            a = sampling.cog_alphas()[t]
            x = a.sqrt() * clean + (1 - a).sqrt() * noise
            target = a.sqrt() * noise - (1 - a).sqrt() * clean
        with torch.no_grad():
            out = tiny.forward(family, module, x, t, tiny.encode_prompt(prompt))
        assert (out - target).square().mean() < 0.5 * target.square().mean()


@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_is_deterministic(family, modules):
    prompts = tiny.held_out_prompts()[:1]
    first, again = (tiny.sample(family, modules(family), prompts, steps=3) for _ in range(2))
    assert torch.equal(first, again)
    assert tiny.decode_video(family, first).shape[:3] == (1, tiny.SPECS[family].frames, 3)


def test_contact_sheet(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="contact sheets need Pillow")
    from sencache_core.tiny.sheet import contact_sheet

    clips = torch.stack(
        [tiny.make_clip("a red ring growing", size=(5, 32), seed=i) for i in (1, 2)]
    )
    contact_sheet(clips, ["one", "two"], tmp_path / "sheet.png")
    assert image.open(tmp_path / "sheet.png").size == (3 * 32, 2 * 44)


@pytest.mark.parametrize(
    ("family", "variant"), [("wan", ""), ("cogvideox", ""), ("ltx", "narrow"), ("wan", "wide")]
)
def test_training_step_and_resume(family, variant, tmp_path, monkeypatch):
    """Two steps, a checkpoint, one more step from it, and an export that loads."""
    pytest.importorskip("diffusers", reason="the tiny models need diffusers")
    path = Path(__file__).resolve().parents[1] / "tools" / "train_tiny.py"
    spec = importlib.util.spec_from_file_location("train_tiny", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    functional = torch.nn.functional
    monkeypatch.setattr(functional, "scaled_dot_product_attention", script.plain_attention)
    options = {"family": family, "minutes": 0.0, "steps": 2, "clips": 4, "batch": 2}
    options |= {"name": "run", "variant": variant, "sizes": {}}
    if variant:
        options["sizes"] = script.VARIANTS[variant].sizes[family]
    options |= {
        "start": "random",
        "resume": True,
        "rate": 1e-3,
        "ema": 0.9,
        "warmup": 1,
        "decay": 0.5,
        "seed": 1,
    }
    options |= {
        "bf16": False,
        "compile": False,
        "muon": 2e-3 if family == "wan" else 0.0,
        "dropout": 0.5,
        "train_shift": 3.0,
        "crop_until": 0.4,
        "print_every": 1,
    }
    script.train(argparse.Namespace(**options), tmp_path)
    weights = script.train(argparse.Namespace(**(options | {"steps": 3})), tmp_path)
    assert torch.load(tmp_path / "run.pt")["step"] == 3
    assert len((tmp_path / "run.log").read_text().splitlines()) == 3
    written = script.export(family, weights, tmp_path / "weights.safetensors")
    assert tiny.to_diffusers_keys(family, load_file(written)).keys() == weights.keys()
