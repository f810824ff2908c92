"""SenCache Compare: how far a cached clip departs from the uncached one."""

from __future__ import annotations

from comfy_api.latest import io

from ..sencache_core.app import metrics
from .host import CATEGORY, make, nothing_to_give, show_text

AMPLIFY = 4.0
_NOTHING = (
    "Nothing to compare: connect a clip to {}. The node that makes it may be bypassed or muted."
)


class SenCacheCompare(io.ComfyNode):
    """PSNR and SSIM of two batches of frames, and a picture of their difference."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            io.Schema,
            node_id="SenCacheCompare",
            display_name="SenCache Compare",
            category=CATEGORY,
            search_aliases=["psnr", "ssim", "difference", "compare video"],
            description=(
                "Compares two clips frame by frame: how much does the cached clip differ from the "
                "uncached one of the same seed? A lower figure means another sample, not "
                "necessarily a worse one. Needs kornia, which ComfyUI installs."
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
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, reference=None, image=None, amplify: float = AMPLIFY) -> io.NodeOutput:
        clips = {"reference": reference, "image": image}
        if missing := [name for name, clip in clips.items() if clip is None]:
            return nothing_to_give(cls, _NOTHING.format(" and to ".join(missing)))
        if reference.shape != image.shape:
            raise ValueError(
                f"The two clips differ in size, {tuple(reference.shape)} and {tuple(image.shape)} "
                "(frames, height, width, channels): compare clips of the same settings."
            )
        found = metrics.compare(metrics.from_images(reference), metrics.from_images(image))
        mean, worst, likeness = found.psnr_mean, found.psnr_worst, found.ssim_mean
        text = f"PSNR {mean:.1f} dB (worst {worst:.1f} dB),\nSSIM {likeness:.4f}"
        pairs = enumerate(zip(found.psnr, found.ssim, strict=True))
        rows = [f"{i:5d}  {psnr:8.2f}  {ssim:8.4f}" for i, (psnr, ssim) in pairs]
        table = "\n".join(["frame   PSNR dB      SSIM", *rows, text])
        difference = ((reference - image).abs() * amplify).clamp(0, 1)
        show_text(f"{text};\ndifference shown {amplify:g} times", cls.hidden.unique_id)
        return io.NodeOutput(mean, worst, likeness, table, difference, ui={"text": (text,)})
