"""Three tiny video diffusion transformers with real architectures, for demos, tests and benchmarks.

The models (Wan 2.1, LTX-Video and CogVideoX layouts, about 5 to 6 million parameters each) draw
short clips of moving shapes from prompts such as "a red circle moving left on a dark striped
background". They were trained from scratch with ``tools/train_tiny.py`` on procedural clips, for
little more than an hour each on half a CPU. LTX-Video and CogVideoX then went on for two to three
hundred steps on the clips of ``data.py`` as they are now, which vary less; the same cost Wan shapes
(8 of 24 right instead of 14), so it was left as it was.
Colour and most motions follow the prompt, while outlines are blobs that often only hint at the
named shape.

``python tools/judge_tiny.py --steps 20`` reads the clips of the 24 held-out prompts with a small
classifier, which reads shape, colour and motion of procedural clips of the same prompts right in
24 of 24 cases, also after the codec. Right in the samples, of 24:

    =========  =====  ======  ======  ===
    model      shape  colour  motion  all
    =========  =====  ======  ======  ===
    Wan           14      24      17    9
    LTX-Video      6      24      20    5
    CogVideoX      5      24      21    3
    =========  =====  ======  ======  ===
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
