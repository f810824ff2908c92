"""What the three tiny models look like: shapes, schedules and diffusers configurations.

The architectures are the smallest that ComfyUI (0.3.64 for Wan and LTX-Video, 0.33.0 for all)
recognises from the weights alone: Wan needs heads of 128, LTX-Video 32 heads and a text width
equal to the inner width, CogVideoX heads of 64.
"""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class TinySpec:
    """Facts about one tiny model.

    Attributes:
        family: "wan", "ltx" or "cogvideox".
        latent: (channels, frames, height, width) of the default clip's latent.
        frames: pixel frames of the default clip.
        pixels: side of the default clip in pixels.
        fps: nominal playback rate in frames per second.
        temporal: pixel frames per latent frame (latent frame 0 holds pixel frame 0 alone).
        spatial: pixels per latent cell and side in the bundled codec.
        prediction: "flow" (velocity of the rectified flow, noise - data) or "v" (v-prediction).
        diffusers_class: name of the transformer class in ``diffusers``.
        config: keyword arguments of that class.
        steps: default number of sampling steps.
        shift: default schedule shift of the flow families (1.0: not used).
        guidance: default classifier-free guidance scale.
        negative: default negative prompt; the models were trained with the empty one.
    """

    family: str
    latent: tuple[int, int, int, int]
    frames: int
    pixels: int
    fps: int
    temporal: int
    spatial: int
    prediction: str
    diffusers_class: str
    config: dict[str, Any] = dataclasses.field(hash=False)
    steps: int = 50
    shift: float = 1.0
    guidance: float = 4.0
    negative: str = ""

    @property
    def layers(self) -> int:
        """Number of transformer blocks."""
        return self.config["num_layers"]


LTX_FRAME_RATE = 25
"""Frames per second that ComfyUI assumes for LTX-Video's rotary time axis unless told otherwise."""

LTX_SCALE = (8, 32, 32)
"""LTX-Video's nominal (frames, rows, columns) of pixels per latent cell; enters the rotary grid."""

COG_ROPE_SCALE = 1.875
"""Spatial stretch that ComfyUI applies to the rotary grid of CogVideoX 1.0 models."""

COG_SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 1.0,
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": True,
}
"""``CogVideoXDDIMScheduler`` arguments: those of CogVideoX-5b, whose noise levels per timestep are
also the ones ComfyUI uses for every CogVideoX model (the 2b model has snr_shift_scale 3.0)."""

SPECS: dict[str, TinySpec] = {
    "wan": TinySpec(
        family="wan",
        latent=(16, 4, 16, 16),
        frames=13,
        pixels=128,
        fps=16,
        temporal=4,
        spatial=8,
        prediction="flow",
        diffusers_class="WanTransformer3DModel",
        config={
            "patch_size": (1, 2, 2),
            "num_attention_heads": 2,
            "attention_head_dim": 128,
            "in_channels": 16,
            "out_channels": 16,
            "text_dim": 4096,
            "freq_dim": 256,
            "ffn_dim": 256,
            "num_layers": 6,
            "cross_attn_norm": True,
            "qk_norm": "rms_norm_across_heads",
            "eps": 1e-6,
        },
        shift=5.0,
    ),
    "ltx": TinySpec(
        family="ltx",
        latent=(128, 3, 8, 8),
        frames=17,
        pixels=128,
        fps=25,
        temporal=8,
        spatial=16,
        prediction="flow",
        diffusers_class="LTXVideoTransformer3DModel",
        config={
            "in_channels": 128,
            "out_channels": 128,
            "num_attention_heads": 32,
            "attention_head_dim": 8,
            "cross_attention_dim": 256,
            "num_layers": 4,
            "caption_channels": 4096,
        },
        shift=5.0,
    ),
    "cogvideox": TinySpec(
        family="cogvideox",
        latent=(16, 4, 16, 16),
        frames=13,
        pixels=128,
        fps=8,
        temporal=4,
        spatial=8,
        prediction="v",
        diffusers_class="CogVideoXTransformer3DModel",
        config={
            "num_attention_heads": 3,
            "attention_head_dim": 64,
            "in_channels": 16,
            "out_channels": 16,
            "time_embed_dim": 128,
            "text_embed_dim": 4096,
            "num_layers": 6,
            "sample_width": 16,
            "sample_height": 16,
            "sample_frames": 13,
            "max_text_seq_length": 8,
            "spatial_interpolation_scale": COG_ROPE_SCALE,
            "use_rotary_positional_embeddings": True,
        },
    ),
}
