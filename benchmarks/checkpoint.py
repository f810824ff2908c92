"""A checkpoint of one of the three families, sampled as diffusers' own pipeline would sample it."""

from __future__ import annotations

import contextlib
import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sencache_core.tiny import SPECS, to_diffusers_keys
from sencache_core.tiny.model import LTX_ROPE_SCALE, cog_rotary
from sencache_core.tiny.specs import COG_ROPE_SCALE

from .models import Model

#: What a description may hold: see ``README.md``.
NEEDED = {"family", "config", "latent"}
OVERRIDES = ("steps", "shift", "guidance")
OPTIONAL = {"scheduler", "rope_scale", "name", "codec", *OVERRIDES}


def load_checkpoint(weights: str | Path, config: str | Path | None = None) -> Model:
    """Any text-to-video model of the three families.

    Args:
        weights: safetensors under diffusers' or ComfyUI's names, or a folder that diffusers saved:
            a pipeline's, or its transformer's.
        config: a JSON object, described in ``README.md``. What a folder says of itself need not
            stand there, nor what the shapes of weights under ComfyUI's names say.

    Raises:
        ValueError: a key or value that does not fit, or weights that do not fit the configuration.
        OSError: a file cannot be read.
        ImportError: diffusers is missing.
    """
    import diffusers

    weights = Path(weights)
    facts = {**_said_by(weights), **(_described(Path(config)) if config else {})}
    tensors = None if "config" in facts else _tensors(weights)
    if tensors is not None:
        facts = {**_said_by_shapes(weights.stem, tensors), **facts}
    config = Path(config or weights)
    if missing := NEEDED - facts.keys():
        raise ValueError(f"{config}: needs the keys {', '.join(sorted(missing))}")
    family, codec = facts["family"], facts.get("codec")
    for name in (family, codec or family):
        if name not in SPECS:
            raise ValueError(f"{config}: {name!r} is not one of {', '.join(SPECS)}")
    latent = _numbers(config, "latent", facts["latent"], 4, int)
    if codec and SPECS[codec].latent[0] != latent[0]:
        raise ValueError(f"{config}: the {codec} codec has {SPECS[codec].latent[0]} channels")
    cls = getattr(diffusers, SPECS[family].diffusers_class)
    arguments = _arguments(config, cls, facts["config"])
    try:
        module = cls(**arguments)
    except Exception as error:  # diffusers checks little, so anything may break
        raise ValueError(f"{config}: no {cls.__name__} of this config: {error}") from error
    if problem := _pictures_wanted(module, latent[0]):
        raise ValueError(f"{config}: {problem}")
    _fill(module, family, weights, _tensors(weights) if tensors is None else tensors)
    model = Model(
        facts.get("name", family),
        replace(SPECS[family], config=arguments, latent=latent),
        module.float().eval().requires_grad_(False),
        codec,
        _overrides(config, facts),
        _rope(config, module, family, latent, facts.get("rope_scale")),
    )
    model = _with_scheduler(config, model, facts.get("scheduler"))
    try:
        with torch.no_grad():
            out = model.call(torch.zeros(1, *latent), 0.5, model.encode("a circle"))
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(f"{config}: the model cannot be called: {error}") from error
    if out.shape != (1, *latent):
        raise ValueError(
            f"{config}: a latent of {list(latent)} does not divide into the model's patches"
        )
    return model


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return value


def _described(path: Path) -> dict[str, Any]:
    """The description; file names in it, which are relative to it, replaced by their contents."""
    facts = _read(path)
    if unknown := facts.keys() - NEEDED - OPTIONAL:
        raise ValueError(f"{path}: unknown keys {', '.join(sorted(unknown))}")
    for key in ("config", "scheduler"):
        if isinstance(facts.get(key), str):
            facts[key] = _read(path.parent / facts[key])
        if not isinstance(facts.get(key, {}), dict):
            raise ValueError(f"{path}: {key} must be an object, or the name of a file with one")
    return _with_family(facts)


def _said_by(folder: Path) -> dict[str, Any]:
    """What a folder that diffusers saved says of its model."""
    if not folder.is_dir():
        return {}
    own = _transformer(folder)
    facts = {"config": _read(own / "config.json")}
    noise = own.parent / "scheduler" / "scheduler_config.json"
    if noise.is_file():
        facts["scheduler"] = _read(noise)
    return _with_family(facts)


def _said_by_shapes(name: str, named: dict[str, Tensor]) -> dict[str, Any]:
    """What weights under ComfyUI's names say, by the same rules as there: see ``specs.py``.

    All that no shape shows is as in the bundled model: patches, rotary grid, and the latent and its
    codec if the channels are as many.
    """
    for family, spec in SPECS.items():
        with contextlib.suppress(KeyError):
            tensors = to_diffusers_keys(family, named)
            config = spec.config | _SIZES[family]({k: v.shape for k, v in tensors.items()})
            facts = {"family": family, "config": config, "name": name}
            if family == "cogvideox":
                facts["rope_scale"] = [1.0, COG_ROPE_SCALE, COG_ROPE_SCALE]
            if config["in_channels"] == spec.latent[0]:
                facts |= {"latent": list(spec.latent), "codec": family}
            return facts
    return {}


def _layers(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return 1 + max(int(name.split(".")[1]) for name in shapes if "blocks." in name)


def _wan_sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    width, channels, *patch = shapes["patch_embedding.weight"]
    return {
        "patch_size": tuple(patch),
        "num_attention_heads": width // 128,
        "in_channels": channels,
        "out_channels": shapes["proj_out.weight"][0] // math.prod(patch),
        "text_dim": shapes["condition_embedder.text_embedder.linear_1.weight"][1],
        "freq_dim": shapes["condition_embedder.time_embedder.linear_1.weight"][1],
        "ffn_dim": shapes["blocks.0.ffn.net.0.proj.weight"][0],
        "num_layers": _layers(shapes),
        "cross_attn_norm": "blocks.0.norm2.weight" in shapes,
    }


def _ltx_sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    width, channels = shapes["proj_in.weight"]
    return {
        "in_channels": channels,
        "out_channels": shapes["proj_out.weight"][0],
        "attention_head_dim": width // SPECS["ltx"].config["num_attention_heads"],
        "cross_attention_dim": shapes["transformer_blocks.0.attn2.to_k.weight"][1],
        "num_layers": _layers(shapes),
        "caption_channels": shapes["caption_projection.linear_1.weight"][1],
    }


def _cog_sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    width, channels, *patch = shapes["patch_embed.proj.weight"]
    return {
        "num_attention_heads": width // SPECS["cogvideox"].config["attention_head_dim"],
        "in_channels": channels,
        "out_channels": shapes["proj_out.weight"][0] // math.prod(patch),
        "time_embed_dim": shapes["time_embedding.linear_1.weight"][0],
        "text_embed_dim": shapes["patch_embed.text_proj.weight"][1],
        "num_layers": _layers(shapes),
    }


_SIZES = {"wan": _wan_sizes, "ltx": _ltx_sizes, "cogvideox": _cog_sizes}


def _transformer(folder: Path) -> Path:
    return folder if (folder / "config.json").is_file() else folder / "transformer"


def _with_family(facts: dict[str, Any]) -> dict[str, Any]:
    """With the family by the name of the class, where diffusers' configuration holds it."""
    named = facts.get("config", {}).get("_class_name")
    known = {spec.diffusers_class: family for family, spec in SPECS.items()}
    if named is None or "family" in facts:
        return facts
    if named not in known:
        raise ValueError(f"{named} is not one of {', '.join(known)}")
    return {**facts, "family": known[named]}


def _arguments(path: Path, cls: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a class of diffusers, without its notes about itself."""
    taken = inspect.signature(cls.__init__).parameters
    own = {k: v for k, v in config.items() if not k.startswith("_")}
    if unknown := own.keys() - taken.keys():
        raise ValueError(f"{path}: {cls.__name__} takes no {', '.join(sorted(unknown))}")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in own.items()}


def _numbers(path: Path, key: str, value: Any, count: int, kind: type) -> tuple:
    """``value``, a list of ``count`` positive numbers."""
    values = value if isinstance(value, list) else [value]
    kinds = (int,) if kind is int else (int, float)
    fitting = (type(v) in kinds and 0 < v < math.inf for v in values)
    if len(values) != count or not all(fitting):
        what = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"{path}: {key} must be {count} positive {what}, not {value}")
    return tuple(values)


def _overrides(path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    kinds = {"steps": int, "shift": float, "guidance": float}
    given = [name for name in OVERRIDES if name in facts]
    return {name: _numbers(path, name, facts[name], 1, kinds[name])[0] for name in given}


def _pictures_wanted(module: nn.Module, channels: int) -> str | None:
    """Why text and noise of so many channels are not all that the model wants, if they are not."""
    config = module.config
    inside, outside = config.in_channels, config.out_channels or config.in_channels
    if inside != outside or any(
        config.get(key) for key in ("image_dim", "added_kv_proj_dim", "ofs_embed_dim")
    ):
        return "this model is conditioned on pictures; the bench samples from text alone"
    if inside != channels:
        return f"the latent has {channels} channels, the model takes {inside}"
    return None


def _fill(module: nn.Module, family: str, weights: Path, tensors: dict[str, Tensor]) -> None:
    """Load the weights, which were read from ``weights``.

    Raises:
        ValueError: they do not fit; the message names the first of them.
    """
    own = module.state_dict()
    if not tensors.keys() <= own.keys():
        try:
            tensors = to_diffusers_keys(family, tensors)
        except KeyError as error:
            raise ValueError(f"{weights} does not fit the config: {error.args[0]}") from error
    wrong = [f"no {name}" for name in own if name not in tensors]
    wrong += [f"an unknown {name}" for name in tensors if name not in own]
    wrong += [
        f"{name} of {list(tensor.shape)} where {list(own[name].shape)} is expected"
        for name, tensor in tensors.items()
        if name in own and tensor.shape != own[name].shape
    ]
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ValueError(f"{weights} does not fit the config: {wrong[0]}{more}")
    module.load_state_dict(tensors)


def _tensors(weights: Path) -> dict[str, Tensor]:
    """All tensors of a file, or of a folder's files."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    files = [weights]
    if weights.is_dir():
        files = sorted(_transformer(weights).glob("*.safetensors"))
        # A half-precision copy may lie beside the weights themselves.
        files = [file for file in files if ".fp16" not in file.name] or files
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors |= load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is no safetensors file: {error}") from error
    return tensors


def _rope(
    path: Path, module: nn.Module, family: str, latent: tuple[int, ...], scale: Any
) -> tuple | None:
    """As ``tiny.forward`` takes it: as diffusers' pipelines have it, unless a scale is given."""
    rotary = family == "ltx" or module.config.get("use_rotary_positional_embeddings")
    if scale is not None and not rotary:
        raise ValueError(f"{path}: this model has no rope_scale")
    if scale is not None:
        scale = _numbers(path, "rope_scale", scale, 3, float)
    if family == "ltx" or not rotary:
        return scale or (LTX_ROPE_SCALE if rotary else None)
    config, (_, frames, height, width) = module.config, latent
    head, patch = config.attention_head_dim, config.patch_size
    grid = height // patch, width // patch
    frames = math.ceil(frames / (config.patch_size_t or 1))
    if scale is not None:
        return cog_rotary(frames, *grid, head, scale=scale)
    from diffusers.models.embeddings import get_3d_rotary_pos_embed
    from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

    trained = config.sample_height // patch, config.sample_width // patch
    if config.patch_size_t is None:  # CogVideoX 1.0
        crop = get_resize_crop_region_for_grid(grid, trained[1], trained[0])
        return get_3d_rotary_pos_embed(head, crop, grid, frames)
    return get_3d_rotary_pos_embed(head, None, grid, frames, grid_type="slice", max_size=trained)


def _with_scheduler(path: Path, model: Model, scheduler: dict[str, Any] | None) -> Model:
    """The model with the noise levels of its own scheduler's configuration.

    Only the levels are its own. Steps are Euler's or DDIM's, whichever solver it names.
    """
    import diffusers

    if scheduler is None:
        return model
    if model.spec.prediction == "v":
        kind = scheduler.get("prediction_type", "v_prediction")
        if kind != "v_prediction":
            raise ValueError(f"{path}: CogVideoX is sampled by v_prediction, not by {kind}")
        cls = diffusers.CogVideoXDDIMScheduler
    else:
        cls = diffusers.FlowMatchEulerDiscreteScheduler
    taken = inspect.signature(cls.__init__).parameters
    levels = {k: v for k, v in scheduler.items() if k in taken}
    if model.spec.prediction == "v":
        return replace(model, levels={**levels, "prediction_type": "v_prediction"})
    shift = scheduler.get("flow_shift", scheduler.get("shift"))
    if levels.pop("use_dynamic_shifting", False):
        shift = math.exp(_mu(scheduler, math.prod(model.spec.latent[1:])))
    overrides = model.overrides if shift is None else {"shift": shift, **model.overrides}
    return replace(model, levels=levels, overrides=overrides)


def _mu(scheduler: dict[str, Any], tokens: int) -> float:
    """Logarithm of the shift for so many tokens, as diffusers' LTX pipeline has it."""
    least, most = scheduler.get("base_image_seq_len", 256), scheduler.get("max_image_seq_len", 4096)
    base, top = scheduler.get("base_shift", 0.5), scheduler.get("max_shift", 1.15)
    return base + (top - base) * (tokens - least) / (most - least)
