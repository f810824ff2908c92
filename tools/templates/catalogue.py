"""All example workflows."""

from __future__ import annotations

from collections.abc import Callable

from . import others, tiny, wan
from .parts import Columns

#: By title, which is the file's name and what ComfyUI shows on the card.
WORKFLOWS: dict[str, Callable[[], Columns]] = {
    "01 Start here, nothing to download": tiny.start,
    "02 Wan 2.1 text to video": wan.t2v,
    "03 Wan 2.1 image to video": wan.i2v,
    "04 Wan 2.2 text to video, two experts": wan.two_experts,
    "05 Wan 2.1 VACE, from a reference picture": wan.vace,
    "06 LTX-Video text to video": others.ltx_video,
    "07 LTX-2 video with sound": others.ltx2,
    "08 CogVideoX, remove an object": others.cogvideox,
    "09 Draft, then final": wan.draft_then_final,
    "10 Compare two methods": tiny.compare_methods,
    "11 Calibrate a model": tiny.calibrate,
}
