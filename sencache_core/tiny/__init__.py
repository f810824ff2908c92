"""Three tiny video diffusion transformers with real architectures, for demos, tests and benchmarks.

The models (Wan 2.1, LTX-Video and CogVideoX layouts, about 5 to 6 million parameters each) draw
short clips of moving shapes from prompts such as "a red circle moving left on a dark striped
background". They were trained from scratch with ``tools/train_tiny.py`` on procedural clips, for
about three hours each on a part of a CPU: shape, colour and motion follow the prompt; outlines are
rough, and shapes that spin, grow or move in circles may change on the way.

``python tools/judge_tiny.py --steps 20`` (or 50) reads the clips of the 24 held-out prompts with a
small classifier, which reads shape, colour and motion of procedural clips of the same prompts right
in 24 of 24 cases, also after the codec. Right in the samples, of 24:

    =========  =====  ======  ======  =========  ============
    model      shape  colour  motion  all three  of 50 steps
    =========  =====  ======  ======  =========  ============
    Wan           23      24      24         23            23
    LTX-Video     21      24      24         21            22
    CogVideoX     22      24      24         22            20
    =========  =====  ======  ======  =========  ============
"""

from .codec import Codec, codec_path
from .data import calibration_prompts, held_out_prompts, make_clip
from .keys import to_comfyui_keys, to_diffusers_keys
from .model import build, forward, load_diffusers, weights_path
from .sampling import decode_video, sample
from .specs import COG_SCHEDULER, SPECS, TinySpec
from .text import encode_prompt

__all__ = [
    "COG_SCHEDULER",
    "SPECS",
    "Codec",
    "TinySpec",
    "build",
    "calibration_prompts",
    "codec_path",
    "decode_video",
    "encode_prompt",
    "forward",
    "held_out_prompts",
    "load_diffusers",
    "make_clip",
    "sample",
    "to_comfyui_keys",
    "to_diffusers_keys",
    "weights_path",
]
