"""What the example workflows are made of: nodes, groups, columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

HF = "https://huggingface.co"
WAN21 = f"{HF}/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
UMT5 = f"{WAN21}/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors"
T5 = f"{HF}/comfyanonymous/flux_text_encoders/resolve/main/t5xxl_fp16.safetensors"
WAN_VAE = f"{WAN21}/vae/wan_2.1_vae.safetensors"

BAD = "blurry, low quality, worst quality, static, distorted, deformed, subtitles, watermark"

BLUE, GREEN, VIOLET, BROWN, GREY = "#3f789e", "#5f8a5a", "#8a5fb0", "#b06634", "#70747c"
BYPASS = 4


class Node(NamedTuple):
    """One node.

    Attributes:
        widgets: values by name.
        links: by input name, ``"key.output"``; with ``" | below"`` or ``" | above"`` the wire runs
            around the columns between, instead of behind their nodes.
        models: addresses of the files that it loads.
        width: in pixels; 0: an equal share of the column.
        height: the least, in pixels.
        mode: LiteGraph's mode.
        id: in the graph; 0: the next.
    """

    key: str
    type: str
    widgets: Mapping[str, Any] = MappingProxyType({})
    links: Mapping[str, str] = MappingProxyType({})
    models: tuple[str, ...] = ()
    title: str = ""
    width: int = 0
    mode: int = 0
    id: int = 0
    height: int = 0
    collapsed: bool = False


class Group(NamedTuple):
    """Rows of nodes with a frame around them; without a title, no frame. What stands in a row's
    place for one node may be several, below one another."""

    title: str
    color: str
    rows: tuple[tuple[Node | tuple[Node, ...], ...], ...]


class Column(NamedTuple):
    """Groups below one another, from ``top`` on. Sizes in pixels."""

    width: int
    groups: tuple[Group, ...]
    top: int = 0


def stack(title: str, color: str, *nodes: Node) -> Group:
    """A group with one node a row."""
    return Group(title, color, tuple((node,) for node in nodes))


def folder(url: str) -> str:
    """Folder below models/ that a file belongs to."""
    known = ("diffusion_models", "text_encoders", "vae", "clip_vision")
    return next(
        (k for k in known if f"/{k}/" in url), "text_encoders" if "t5" in url else "checkpoints"
    )


def note(text: str, urls: tuple[str, ...] = (), height: int = 0) -> Group:
    """What a workflow is about and, where it needs files, which ones and where they belong."""
    if urls:
        rows = "\n".join(f"- [{Path(u).name}]({u}) in *{folder(u)}*" for u in urls)
        text = f"{text}\n\n**Files, in** `ComfyUI/models`\n\n{rows}"
    made = Node("note", "MarkdownNote", {"": text}, title="Read me", height=height)
    return Group("", "", ((made,),))


def unet(key: str, url: str, title: str = "") -> Node:
    return Node(key, "UNETLoader", {"unet_name": Path(url).name}, models=(url,), title=title)


def clip(url: str, kind: str) -> Node:
    return Node("clip", "CLIPLoader", {"clip_name": Path(url).name, "type": kind}, models=(url,))


def vae(url: str) -> Node:
    return Node("vae", "VAELoader", {"vae_name": Path(url).name}, models=(url,))


def shift(model: str, value: float, key: str = "shift", **more) -> Node:
    return Node(key, "ModelSamplingSD3", {"shift": value}, {"model": model}, **more)


def text(key: str, value: str) -> Node:
    title = {"positive": "Prompt", "negative": "Negative prompt"}[key]
    return Node(key, "CLIPTextEncode", {"text": value}, {"clip": "clip.CLIP"}, title=title)


def prompts(value: str, bad: str = BAD) -> tuple[Node, Node]:
    return text("positive", value), text("negative", bad)._replace(collapsed=True)


def latent(width: int, height: int, length: int, type: str = "EmptyHunyuanLatentVideo") -> Node:
    size = {"width": width, "height": height, "length": length}
    return Node("latent", type, size, title="Size of the clip")


def apply(model: str, budget: float, key: str = "apply", title: str = "", **more) -> Node:
    return Node(key, "SenCacheApply", {"budget": budget, **more}, {"model": model}, title=title)


def viewer(latent: str, stats: str = "apply.stats", key: str = "viewer", **more: str) -> Node:
    return Node(key, "SenCacheStatsViewer", {}, {"latent": latent, "stats": stats, **more})


def ksampler(key: str, model: str, conds: str = "", latent: str = "latent.LATENT", **more) -> Node:
    """``conds``: the node that makes both conditionings; empty: the two prompts."""
    kind, title = more.pop("type", "KSampler"), more.pop("title", "")
    links = {
        "model": model,
        "positive": f"{conds}.positive" if conds else "positive.CONDITIONING",
        "negative": f"{conds}.negative" if conds else "negative.CONDITIONING",
        "latent_image": latent,
    }
    return Node(key, kind, more, links, title=title)


def save_clip(name: str, latent: str, fps: float, vae: str = "vae.VAE", **more: str) -> Group:
    """Decode, make a video, save it, side by side. ``more``: further links of the video."""
    return Group(
        "4. The clip",
        BROWN,
        (
            (
                Node("decode", "VAEDecode", {}, {"samples": latent, "vae": vae}, width=145),
                Node("video", "CreateVideo", {"fps": fps}, {"images": "decode.IMAGE", **more}),
                Node(
                    "save",
                    "SaveVideo",
                    {"filename_prefix": f"video/{name}"},
                    {"video": "video.VIDEO"},
                    width=250,
                ),
            ),
        ),
    )


#: Widths of the usual four columns, in pixels.
LEFT, MIDDLE, RIGHT, WIDE = 290, 305, 280, 650
#: Samplers start lower, so that the wires of the statistics pass above them.
LOWER = 110
SEEN, SENCACHE, SAMPLE = "See what was skipped", "2. SenCache", "3. Sample"
MODEL, ASKED = "1. Model", "1. Prompt and size"

BUDGET = (
    "**budget** in *SenCache Apply* is the share of the steps that the model computes: lower is "
    "faster. The clip becomes another sample of similar quality. To see the difference, run the "
    "same seed once more with *enable* off."
)

Columns = tuple[Column, ...]


def columns(left: list[Group], middle: list[Group], right: list[Group], wide: list[Group]):
    """The usual four: the model, SenCache and prompts, the sampler, what came of it."""
    return (
        Column(LEFT, tuple(left)),
        Column(MIDDLE, tuple(middle)),
        Column(RIGHT, tuple(right), LOWER),
        Column(WIDE, tuple(wide)),
    )


def about(title: str, text: str, *urls: str) -> Group:
    return note(f"## {title}\n\n{text}\n\n{BUDGET}", urls)
