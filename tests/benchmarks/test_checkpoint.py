"""Checkpoints of other sizes than the bundled models': read, sampled as by diffusers, refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import Regime, load_checkpoint
from benchmarks.host import DiffusersHost
from sencache_core.app import cli
from sencache_core.tiny import SPECS, load_diffusers, to_comfyui_keys, weights_path

diffusers = pytest.importorskip("diffusers", reason="the models are those of diffusers")
pytest.importorskip("tqdm", reason="needs tqdm, of the extra `bench`")

SHORT = Regime("short", steps=6, shift=5.0, guidance=4.0)
COG = {
    "num_attention_heads": 2,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 32,
    "text_embed_dim": 40,
    "num_layers": 2,
    "sample_width": 12,
    "sample_height": 8,
    "sample_frames": 9,
    "use_rotary_positional_embeddings": True,
}
#: Family, configuration and latent of models that differ in every size from the bundled ones.
ODD = {
    "wan": (
        "wan",
        {
            "num_attention_heads": 3,
            "attention_head_dim": 24,
            "in_channels": 8,
            "out_channels": 8,
            "text_dim": 96,
            "freq_dim": 32,
            "ffn_dim": 64,
            "num_layers": 2,
        },
        [8, 3, 6, 10],
    ),
    "ltx": (
        "ltx",
        {
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "in_channels": 24,
            "out_channels": 24,
            "cross_attention_dim": 32,
            "caption_channels": 48,
            "num_layers": 2,
        },
        [24, 3, 4, 6],
    ),
    # No rotary embedding: the number of text tokens is part of a table of positions.
    "cogvideox-2b": (
        "cogvideox",
        COG
        | {
            "attention_head_dim": 48,
            "max_text_seq_length": 6,
            "use_rotary_positional_embeddings": False,
        },
        [4, 3, 8, 12],
    ),
    "cogvideox-5b": ("cogvideox", COG | {"attention_head_dim": 32}, [4, 3, 8, 12]),
    "cogvideox, another size": ("cogvideox", COG | {"attention_head_dim": 32}, [4, 2, 12, 8]),
    "cogvideox-1.5": (
        "cogvideox",
        COG
        | {"attention_head_dim": 32, "patch_size_t": 2, "patch_bias": False}
        | {"sample_width": 24, "sample_height": 16},
        [4, 4, 8, 12],
    ),
}


def write(folder, name, **facts):
    """A checkpoint of random weights and its description: the arguments of ``load_checkpoint``."""
    family, config, latent = ODD[name]
    torch.manual_seed(0)
    module = getattr(diffusers, SPECS[family].diffusers_class)(**config)
    files = folder / "model.safetensors", folder / "model.json"
    save_file(module.state_dict(), files[0])
    files[1].write_text(json.dumps({"family": family, "config": config, "latent": latent} | facts))
    return files


def by_pipeline(model, frame_rate=25):
    """The final latent of diffusers' own pipeline, for the first seed."""
    _, frames, height, width = model.spec.latent
    x = torch.randn((1, *model.spec.latent), generator=torch.Generator().manual_seed(0))
    texts = {
        "prompt_embeds": model.encode("a red circle")[None],
        "negative_prompt_embeds": model.encode("")[None],
    }
    how = {"num_inference_steps": SHORT.steps, "guidance_scale": 4.0, "output_type": "latent"}
    parts = {"tokenizer": None, "text_encoder": None, "vae": None, "transformer": model.module}
    scheduler = model.scheduler(model.regime(SHORT))
    if model.family == "cogvideox":
        pipeline = diffusers.CogVideoXPipeline(**parts, scheduler=scheduler)
        size = {"height": height * 8, "width": width * 8, "num_frames": frames * 4 - 3}
        x = x.transpose(1, 2)
    else:
        pipeline = diffusers.LTXPipeline(**parts, scheduler=scheduler)
        size = {"height": height * 32, "width": width * 32, "num_frames": frames * 8 - 7}
        ones = torch.ones(1, texts["prompt_embeds"].shape[1])
        size |= {"prompt_attention_mask": ones, "negative_prompt_attention_mask": ones}
        size["frame_rate"] = frame_rate
        x = x.flatten(2).transpose(1, 2)
    pipeline.set_progress_bar_config(disable=True)
    out = pipeline(**texts, **size, **how, latents=x).frames
    if model.family == "cogvideox":
        return out.transpose(1, 2)
    return out.transpose(1, 2).reshape(1, *model.spec.latent)


def by_bench(model):
    host = DiffusersHost(model, model.regime(SHORT))
    try:
        return host.sample([("a red circle", 0)])
    finally:
        host.close()


@pytest.mark.parametrize("name", [name for name in ODD if name != "wan"])
def test_sampled_as_by_diffusers_pipeline(name, tmp_path):
    model = load_checkpoint(*write(tmp_path, name))
    torch.testing.assert_close(by_bench(model), by_pipeline(model), rtol=1e-4, atol=1e-4)


def test_scheduler_of_the_checkpoint(tmp_path):
    """The noise levels of CogVideoX-2b, and the shift by size of LTX-Video."""
    own = {
        "_class_name": "CogVideoXDPMScheduler",
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "snr_shift_scale": 3.0,
        "timestep_spacing": "trailing",
    }
    usual = load_checkpoint(*write(tmp_path, "cogvideox-2b"))
    model = load_checkpoint(*write(tmp_path, "cogvideox-2b", scheduler=own))
    levels = [m.scheduler(SHORT).alphas_cumprod[500] for m in (model, usual)]
    assert levels[0] < levels[1]
    torch.testing.assert_close(by_bench(model), by_pipeline(model), rtol=1e-4, atol=1e-4)
    dynamic = {"use_dynamic_shifting": True, "base_shift": 0.95, "max_shift": 2.05, "shift": 1.0}
    dynamic |= {"base_image_seq_len": 1024, "max_image_seq_len": 4096, "shift_terminal": 0.1}
    model = load_checkpoint(*write(tmp_path, "ltx", scheduler=dynamic))
    scheduler = model.scheduler(model.regime(SHORT))
    scheduler.set_timesteps(sigmas=[1 - k / 6 for k in range(6)])
    reference = diffusers.FlowMatchEulerDiscreteScheduler(**dynamic)
    mu = 0.95 + (2.05 - 0.95) / (4096 - 1024) * (3 * 4 * 6 - 1024)
    reference.set_timesteps(sigmas=[1 - k / 6 for k in range(6)], mu=mu)
    torch.testing.assert_close(scheduler.sigmas, reference.sigmas)
    named = load_checkpoint(*write(tmp_path, "ltx", scheduler=dynamic, shift=3.0))
    assert named.regime(SHORT).shift == 3.0


def test_rope_scale_of_the_checkpoint(tmp_path):
    model = load_checkpoint(*write(tmp_path, "ltx", rope_scale=[8 / 50, 32, 32]))
    torch.testing.assert_close(by_bench(model), by_pipeline(model, frame_rate=50))
    assert not torch.allclose(by_bench(model), by_pipeline(model, frame_rate=25), atol=1e-3)


@pytest.mark.skipif(not weights_path("cogvideox").is_file(), reason="no weights")
def test_the_bundled_model_as_a_checkpoint(tmp_path):
    """Its rotary grid is ComfyUI's, which the description can say."""
    spec = SPECS["cogvideox"]
    facts = {"config": spec.config, "latent": spec.latent, "rope_scale": [1, 1.875, 1.875]}
    file = tmp_path / "model.json"
    file.write_text(json.dumps({"family": "cogvideox", **facts}))
    model = load_checkpoint(weights_path("cogvideox"), file)
    bundled = replace(model, rope=None, module=load_diffusers("cogvideox"))
    assert torch.equal(by_bench(model), by_bench(bundled))


@pytest.mark.parametrize("family", SPECS)
def test_shapes_of_a_file_in_comfyui_s_naming_say_it_all(family, tmp_path):
    """Other width and depth than the bundled model's, the same codec."""
    wider = {
        "wan": {"num_attention_heads": 3, "ffn_dim": 96, "text_dim": 64, "num_layers": 2},
        "ltx": {"attention_head_dim": 4, "cross_attention_dim": 128, "num_layers": 3},
        "cogvideox": {"num_attention_heads": 2, "time_embed_dim": 64, "num_layers": 1},
    }
    spec = SPECS[family]
    torch.manual_seed(0)
    module = getattr(diffusers, spec.diffusers_class)(**spec.config | wider[family])
    file = tmp_path / "left_out.safetensors"
    named = to_comfyui_keys(family, module.state_dict())
    save_file({name: value.half() for name, value in named.items()}, file)
    model = load_checkpoint(file)
    assert (model.name, model.family, model.codec) == ("left_out", family, family)
    assert model.spec.latent == spec.latent
    assert {key: model.spec.config[key] for key in wider[family]} == wider[family]
    bundled = replace(model, rope=None, module=module.half().float().eval())
    x, text = torch.randn(1, *spec.latent), model.encode("a red circle")
    with torch.no_grad():
        torch.testing.assert_close(
            model.call(x, 0.5, text), bundled.call(x, 0.5, text), atol=1e-5, rtol=0
        )
    other = tmp_path / "model.json"
    other.write_text(json.dumps({"name": "mine", "latent": [spec.latent[0], 2, 4, 4]}))
    assert load_checkpoint(file, other).spec.latent == (spec.latent[0], 2, 4, 4)


def test_a_folder_of_diffusers_says_it_all(tmp_path):
    family, config, latent = ODD["cogvideox-5b"]
    torch.manual_seed(0)
    module = diffusers.CogVideoXTransformer3DModel(**config)
    module.save_pretrained(tmp_path / "transformer", max_shard_size="100KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1
    levels = {"prediction_type": "v_prediction", "beta_start": 0.001}
    diffusers.CogVideoXDDIMScheduler(**levels).save_pretrained(tmp_path / "scheduler")
    file = tmp_path / "model.json"
    file.write_text(json.dumps({"latent": latent}))
    for folder in (tmp_path, tmp_path / "transformer"):
        model = load_checkpoint(folder, file)
        assert model.family == family
        assert model.scheduler(SHORT).config.beta_start == 0.001
        for name, value in module.state_dict().items():
            assert torch.equal(model.module.state_dict()[name], value)
    save_file(module.state_dict(), tmp_path / "single.safetensors")
    file.write_text(json.dumps({"latent": latent, "config": "transformer/config.json"}))
    assert load_checkpoint(tmp_path / "single.safetensors", file).family == family


@pytest.mark.parametrize("name", ["wan", "ltx", "cogvideox-2b", "cogvideox-1.5"])
def test_command(name, tmp_path, capsys):
    weights, config = write(tmp_path, name, steps=10)
    rows = tmp_path / "made" / "rows.json"
    command = ["bench", "--json", str(rows), "--checkpoint", str(weights), "--config", str(config)]
    command += [
        "--methods",
        "planned-profile,ours-interval",
        "--budgets",
        "0.5",
        "--regime",
        "smooth",
    ]
    command += ["--samples", "1", "--tune-samples", "1", "--calibration-samples", "1"]
    assert cli.main(command) == 0
    planned, _, held = json.loads(rows.read_text())
    (planned,), (held,) = planned["clips"], held["clips"]
    assert (planned["cost"], held["cost"]) == (0.5, 0.5)
    assert held["uncached"] < planned["uncached"] < 100
    assert capsys.readouterr().err.count("sencache:") == 0


REFUSED = {
    "weights of another width": ({"config": {"text_dim": 97}}, "of [72, 96] where [72, 97] is"),
    "missing weights": ({"config": {"num_layers": 3}}, "no blocks.2."),
    "an unknown argument": ({"config": {"depth": 3}}, "takes no depth"),
    "no such model": ({"config": {"num_attention_heads": "x"}}, "no WanTransformer3DModel of"),
    "a model of pictures": ({"config": {"in_channels": 36}}, "conditioned on pictures"),
    "other channels": ({"latent": [16, 3, 6, 10]}, "the model takes 8"),
    "a codec of other channels": ({"codec": "ltx"}, "the ltx codec has 128 channels"),
    "an odd latent": ({"latent": [8, 3, 5, 10]}, "does not divide into the model's patches"),
    "no latent": ({"latent": [8, 0, 5]}, "latent must be 4 positive whole numbers"),
    "steps": ({"steps": 0}, "steps must be 1 positive whole numbers"),
    "shift": ({"shift": "x"}, "shift must be"),
    "a rotary scale": ({"rope_scale": [1, 1, 1]}, "has no rope_scale"),
    "another class": ({"config": "no.json"}, "no.json"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_one_line(case, tmp_path, capsys):
    changes, message = REFUSED[case]
    family, config, latent = ODD["wan"]
    weights, file = write(tmp_path, "wan")
    facts = {"family": family, "config": config, "latent": latent, **changes}
    if isinstance(facts["config"], dict):
        facts["config"] = config | facts["config"]
    file.write_text(json.dumps(facts))
    command = ["bench", "--json", str(tmp_path / "rows.json"), "--checkpoint", str(weights)]
    assert cli.main([*command, "--config", str(file)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("sencache: ") and error.count("\n") == 1
    assert not (tmp_path / "rows.json").exists()


def test_files_that_are_none(tmp_path, capsys):
    weights, file = write(tmp_path, "wan")
    command = ["bench", "--json", str(tmp_path / "rows.json"), "--checkpoint"]
    for broken, message in ((weights, "no safetensors file"), (file, "no JSON file")):
        broken.write_text("{nothing")
        assert cli.main([*command, str(weights), "--config", str(file)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
