"""Prompt and decoder of the bundled tiny models, which have no text encoder or VAE file."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from .host import CATEGORY, make

TINY = f"{CATEGORY}/tiny models"

#: Families with a bundled model, and ComfyUI's class of their latents.
FORMATS = {"wan": "Wan21", "ltx": "LTXV", "cogvideox": "CogVideoX"}

_FAMILY = "Which bundled tiny model: sencache_tiny_wan, _ltx or _cogvideox."


class SenCacheTinyPrompt(io.ComfyNode):
    """Encodes a prompt for the bundled models."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            io.Schema,
            node_id="SenCacheTinyPrompt",
            display_name="SenCache Tiny Prompt",
            category=TINY,
            search_aliases=["sencache demo", "tiny model"],
            description=(
                "Encodes a prompt for the tiny demo models that come with SenCache. They know "
                "shapes, colours, motions and backgrounds."
            ),
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    default="a red circle moving left on a dark striped background",
                    tooltip=(
                        "For example 'a red circle moving left on a dark striped background'. "
                        "Leave it empty for the negative prompt."
                    ),
                ),
                io.Combo.Input("family", options=list(FORMATS), default="wan", tooltip=_FAMILY),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning")],
        )

    @classmethod
    def execute(cls, text: str, family: str) -> io.NodeOutput:
        from ..sencache_core.tiny import encode_prompt

        tokens = encode_prompt(text)[None]
        extra = {}
        if family == "ltx":
            # Its forward demands a mask, which a real text encoder supplies: of integers, for a
            # mask of floats is taken for a bias and never given the shape of a batch.
            extra["attention_mask"] = torch.ones(tokens.shape[:2], dtype=torch.long)
        return io.NodeOutput([[tokens, extra]])


class SenCacheTinyDecode(io.ComfyNode):
    """Turns a bundled model's latent into frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            io.Schema,
            node_id="SenCacheTinyDecode",
            display_name="SenCache Tiny Decode",
            category=TINY,
            search_aliases=["sencache demo", "tiny model", "vae decode"],
            description="Decodes latents of the tiny demo models, in place of VAE Decode.",
            inputs=[
                io.Latent.Input("latent", tooltip="Latent of the bundled model, from the sampler."),
                io.Combo.Input("family", options=list(FORMATS), default="wan", tooltip=_FAMILY),
            ],
            outputs=[io.Image.Output(display_name="images")],
        )

    @classmethod
    def execute(cls, latent: dict, family: str) -> io.NodeOutput:
        import comfy.latent_formats

        from ..sencache_core.tiny import Codec

        format_class = getattr(comfy.latent_formats, FORMATS[family], None)
        if format_class is None:
            raise RuntimeError(f"This ComfyUI does not know {family} latents: update ComfyUI.")
        clips = Codec.load(family).decode(format_class().process_in(latent["samples"]))
        return io.NodeOutput(clips.flatten(0, 1).movedim(1, -1).contiguous())
