"""SenCache Compare: how far a cached clip departs from the uncached one, to look at and in figures.

What the node shows is a payload under ``sencache_compare``: ``{"version", "prompt", "when",
"problem"}``, and where there is no problem also ``names``, ``fps``, ``frames``, ``width``,
``height``, ``scale`` (the difference that takes the strongest colour), ``psnr`` and ``ssim`` by
frame, ``folder`` (below ComfyUI's temporary one, see ``clips.write_frames``) and ``video``, the
name of a file in it. A problem is a message: ``{"key", "values", "text", "level"}``.
"""

from __future__ import annotations

import math
import secrets
import time
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..sencache_core.app import clips, metrics
from .host import CATEGORY, make, place

SHOWN, PAYLOAD_VERSION = "sencache_compare", 1
AMPLIFY, FPS = 4.0, 16.0
NAMES = ("uncached", "cached")


class SenCacheCompare(io.ComfyNode):
    """PSNR and SSIM of two batches of frames, a player, and pictures of their difference."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            io.Schema,
            node_id="SenCacheCompare",
            display_name="SenCache Compare",
            category=CATEGORY,
            search_aliases=["psnr", "ssim", "difference", "compare video", "wipe", "side by side"],
            description=(
                "Plays two clips against each other: how much does the cached clip differ from the "
                "uncached one of the same seed? Wipe between them, put them side by side, or look "
                "at their difference, with PSNR and SSIM of every frame. A lower figure means "
                "another sample, not necessarily a worse one. Needs kornia, which ComfyUI installs."
            ),
            is_output_node=True,
            inputs=[
                io.Image.Input(
                    "reference", optional=True, tooltip="Frames sampled without caching."
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="Frames of the same seed and size, with caching.",
                ),
                make(
                    io.Float.Input,
                    "amplify",
                    default=AMPLIFY,
                    min=1.0,
                    max=50.0,
                    step=0.5,
                    optional=True,
                    advanced=True,
                    tooltip="Factor on the difference picture, so that small ones can be seen.",
                ),
                io.Float.Input(
                    "fps",
                    default=FPS,
                    min=1.0,
                    max=120.0,
                    step=1.0,
                    optional=True,
                    tooltip="Frames per second, in the player and in the video.",
                ),
                make(
                    io.String.Input,
                    "reference_name",
                    default=NAMES[0],
                    optional=True,
                    advanced=True,
                    tooltip="What the player and the video call the clip at reference.",
                ),
                make(
                    io.String.Input,
                    "image_name",
                    default=NAMES[1],
                    optional=True,
                    advanced=True,
                    tooltip="What the player and the video call the clip at image.",
                ),
            ],
            outputs=[
                io.Float.Output(id="psnr", display_name="psnr", tooltip="Mean over frames, in dB."),
                io.Float.Output(
                    id="psnr_worst", display_name="psnr_worst", tooltip="Worst frame, in dB."
                ),
                io.Float.Output(
                    id="ssim", display_name="ssim", tooltip="Mean over frames, 0 to 1."
                ),
                io.String.Output(id="table", display_name="table", tooltip="Figures per frame."),
                io.Image.Output(
                    id="difference",
                    display_name="difference",
                    tooltip="Absolute difference, amplified.",
                ),
                io.Video.Output(
                    id="video",
                    display_name="video",
                    tooltip="Both clips side by side, each below its name. Connect to Save Video.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        reference=None,
        image=None,
        amplify: float = AMPLIFY,
        fps: float = FPS,
        reference_name: str = NAMES[0],
        image_name: str = NAMES[1],
    ) -> io.NodeOutput:
        names = (reference_name.strip() or NAMES[0], image_name.strip() or NAMES[1])
        if problem := _problem(reference, image, names):
            return _nothing(problem)
        a, b = metrics.from_images(reference), metrics.from_images(image)
        found = metrics.compare(a, b)
        for number, value in enumerate(found.psnr):
            if not math.isfinite(value):
                return _nothing(_message("broken", frame=number + 1))
        text = (
            f"PSNR {found.psnr_mean:.1f} dB (worst {found.psnr_worst:.1f} dB),\n"
            f"SSIM {found.ssim_mean:.4f}"
        )
        shown = _write(a, b, names, fps)
        video = _video(_folder() / shown["folder"] / shown["video"])
        shown |= {"psnr": list(found.psnr), "ssim": list(found.ssim), "problem": None}
        figures = found.psnr_mean, found.psnr_worst, found.ssim_mean
        difference = metrics.amplified(reference, image, amplify)
        outputs = (*figures, _table(found, text), difference, video)
        return io.NodeOutput(*outputs, ui={"text": (text,), SHOWN: [_dated(shown)]})


_SENTENCES = {
    "missing": "Nothing to compare: connect a clip to {inputs}. The node that makes it may be "
    "bypassed or muted.",
    "length": "The clips differ in length: {first} has {first_frames} frames and {second} "
    "{second_frames}. Sample both with the same settings.",
    "size": "The clips differ in size: {first} is {first_size} pixels and {second} {second_size}. "
    "Sample both with the same settings.",
    "small": "The frames are too small to compare: SSIM needs {side} pixels a side.",
    "broken": "Frame {frame} has values that are no numbers: the model or the decoder failed "
    "there, with or without the cache.",
}


def _message(name: str, **values: Any) -> dict:
    """A message of this node, as the web shows it in the user's language."""
    said = {k: " and to ".join(v) if isinstance(v, list) else v for k, v in values.items()}
    text = _SENTENCES[name].format(**said)
    return {"key": f"compare.{name}", "values": values, "text": text, "level": "problem"}


def _problem(reference, image, names: tuple[str, str]) -> dict | None:
    """Why two clips cannot be compared; ``None`` if they can."""
    both = {"reference": reference, "image": image}
    missing = [name for name, frames in both.items() if frames is None or not len(frames)]
    if missing:
        return _message("missing", inputs=missing)
    (frames, high, wide), (others, height, width) = reference.shape[:3], image.shape[:3]
    first, second = {"first": names[0]}, {"second": names[1]}
    if (high, wide) != (height, width):
        sizes = {"first_size": f"{wide} x {high}", "second_size": f"{width} x {height}"}
        return _message("size", **first, **second, **sizes)
    if frames != others:
        return _message("length", **first, **second, first_frames=frames, second_frames=others)
    if min(high, wide) < metrics.SSIM_WINDOW:
        return _message("small", side=metrics.SSIM_WINDOW)
    return None


def _nothing(problem: dict) -> io.NodeOutput:
    """Say why in the node; what needs its outputs is left out, the rest of the graph runs on."""
    from comfy_execution.graph_utils import ExecutionBlocker

    blocked = [ExecutionBlocker(None) for _ in SenCacheCompare.define_schema().outputs]
    shown = _dated({"problem": problem})
    return io.NodeOutput(*blocked, ui={"text": (problem["text"],), SHOWN: [shown]})


def _dated(shown: dict) -> dict:
    return {
        "version": PAYLOAD_VERSION,
        "prompt": place().prompt,
        "when": time.time(),
        **shown,
    }


def _folder() -> Path:
    import folder_paths

    return Path(folder_paths.get_temp_directory())


def _write(reference, image, names: tuple[str, str], fps: float) -> dict:
    """Write the frames and the video; where they lie, and what is to be known to play them.

    A folder for each run: what an earlier one wrote is still shown when ComfyUI keeps its result.
    """
    folder = Path("sencache_compare", secrets.token_hex(8))
    (_folder() / folder).mkdir(parents=True)
    scale = metrics.difference_scale(reference, image)
    clips.write_frames(reference, image, scale, _folder() / folder)
    stem = _folder() / folder / "sencache_compare"
    video = clips.write_side_by_side(reference, image, names, fps, stem)
    height, width = reference.shape[-2:]
    return {
        "folder": folder.as_posix(),
        "video": video.name,
        "names": list(names),
        "fps": fps,
        "frames": len(reference),
        "width": width,
        "height": height,
        "scale": scale,
    }


def _video(path: Path) -> Any:
    """ComfyUI's video of a file, which holds no frames; none where that is an animated picture."""
    if path.suffix != ".mp4":
        from comfy_execution.graph_utils import ExecutionBlocker

        return ExecutionBlocker(f"this ComfyUI cannot write H.264; {path.name} was saved instead")
    from comfy_api.input_impl import VideoFromFile

    return VideoFromFile(str(path))


def _table(found: metrics.Comparison, text: str) -> str:
    pairs = enumerate(zip(found.psnr, found.ssim, strict=True))
    rows = [f"{i:5d}  {psnr:8.2f}  {ssim:8.4f}" for i, (psnr, ssim) in pairs]
    return "\n".join(["frame   PSNR dB      SSIM", *rows, text])
