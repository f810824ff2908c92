"""Weight names of the three models in ComfyUI and in diffusers.

The bundled files use ComfyUI's names, so that its diffusion-model loader reads them directly.
The maps below are one-to-one: no tensor is split, merged, transposed or dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

# (ComfyUI, diffusers) fragments; "{i}" stands for a block number.
_PAIRS: dict[str, list[tuple[str, str]]] = {
    "wan": [
        ("patch_embedding.", "patch_embedding."),
        ("text_embedding.0.", "condition_embedder.text_embedder.linear_1."),
        ("text_embedding.2.", "condition_embedder.text_embedder.linear_2."),
        ("time_embedding.0.", "condition_embedder.time_embedder.linear_1."),
        ("time_embedding.2.", "condition_embedder.time_embedder.linear_2."),
        ("time_projection.1.", "condition_embedder.time_proj."),
        ("head.modulation", "scale_shift_table"),
        ("head.head.", "proj_out."),
        ("blocks.{i}.modulation", "blocks.{i}.scale_shift_table"),
        ("blocks.{i}.norm3.", "blocks.{i}.norm2."),
        ("blocks.{i}.ffn.0.", "blocks.{i}.ffn.net.0.proj."),
        ("blocks.{i}.ffn.2.", "blocks.{i}.ffn.net.2."),
        *[
            (f"blocks.{{i}}.{comfy}.{a}.", f"blocks.{{i}}.{diffusers}.{b}.")
            for comfy, diffusers in (("self_attn", "attn1"), ("cross_attn", "attn2"))
            for a, b in (
                ("q", "to_q"),
                ("k", "to_k"),
                ("v", "to_v"),
                ("o", "to_out.0"),
                ("norm_q", "norm_q"),
                ("norm_k", "norm_k"),
            )
        ],
    ],
    "ltx": [
        ("patchify_proj.", "proj_in."),
        ("adaln_single.", "time_embed."),
        ("caption_projection.", "caption_projection."),
        ("scale_shift_table", "scale_shift_table"),
        ("proj_out.", "proj_out."),
        ("transformer_blocks.{i}.scale_shift_table", "transformer_blocks.{i}.scale_shift_table"),
        ("transformer_blocks.{i}.ff.", "transformer_blocks.{i}.ff."),
        *[
            (f"transformer_blocks.{{i}}.{attn}.{a}.", f"transformer_blocks.{{i}}.{attn}.{b}.")
            for attn in ("attn1", "attn2")
            for a, b in (
                ("q_norm", "norm_q"),
                ("k_norm", "norm_k"),
                ("to_q", "to_q"),
                ("to_k", "to_k"),
                ("to_v", "to_v"),
                ("to_out.0", "to_out.0"),
            )
        ],
    ],
    "cogvideox": [
        ("patch_embed.", "patch_embed."),
        ("time_embedding_linear_1.", "time_embedding.linear_1."),
        ("time_embedding_linear_2.", "time_embedding.linear_2."),
        ("norm_final.", "norm_final."),
        ("norm_out.", "norm_out."),
        ("proj_out.", "proj_out."),
        ("blocks.{i}.norm1.", "transformer_blocks.{i}.norm1."),
        ("blocks.{i}.norm2.", "transformer_blocks.{i}.norm2."),
        ("blocks.{i}.q.", "transformer_blocks.{i}.attn1.to_q."),
        ("blocks.{i}.k.", "transformer_blocks.{i}.attn1.to_k."),
        ("blocks.{i}.v.", "transformer_blocks.{i}.attn1.to_v."),
        ("blocks.{i}.norm_q.", "transformer_blocks.{i}.attn1.norm_q."),
        ("blocks.{i}.norm_k.", "transformer_blocks.{i}.attn1.norm_k."),
        ("blocks.{i}.attn_out.", "transformer_blocks.{i}.attn1.to_out.0."),
        ("blocks.{i}.ff_proj.", "transformer_blocks.{i}.ff.net.0.proj."),
        ("blocks.{i}.ff_out.", "transformer_blocks.{i}.ff.net.2."),
    ],
}


def _split_block(key: str) -> tuple[str, str]:
    """Split off the block number: blocks.3.x -> (blocks.{i}.x, 3)."""
    parts = key.split(".")
    if parts[0] in ("blocks", "transformer_blocks"):
        return ".".join([parts[0], "{i}", *parts[2:]]), parts[1]
    return key, ""


def _rename(family: str, key: str, source: int) -> str:
    pattern, block = _split_block(key)
    for pair in _PAIRS[family]:
        old, new = pair[source], pair[1 - source]
        if pattern == old or (old.endswith(".") and pattern.startswith(old)):
            return (new + pattern[len(old) :]).replace("{i}", block)
    raise KeyError(f"unexpected weight name for the tiny {family} model: {key}")


def to_diffusers_keys(family: str, state_dict: Mapping[str, T]) -> dict[str, T]:
    """Rename ComfyUI weight names to diffusers names; exact inverse of the other direction."""
    return {_rename(family, key, 0): value for key, value in state_dict.items()}


def to_comfyui_keys(family: str, state_dict: Mapping[str, T]) -> dict[str, T]:
    """Rename diffusers weight names to ComfyUI names."""
    return {_rename(family, key, 1): value for key, value in state_dict.items()}
