"""Builds the example workflows in ComfyUI's own frontend, so that they load there as saved.

    python example_workflows/build.py http://127.0.0.1:8188

needs a running ComfyUI 0.33 with this pack, Playwright and Chromium. Each graph is a table of
columns of nodes below; positions follow from the sizes that the frontend computes.
"""

from __future__ import annotations

import json
import shutil
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from playwright.sync_api import sync_playwright

HERE = Path(__file__).resolve().parent
API_PROMPT = HERE.parent / "sencache_core" / "app" / "comfy_prompts" / "sencache_tiny_wan_api.json"

HF = "https://huggingface.co"
WAN21 = f"{HF}/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
WAN22 = f"{HF}/Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files"
VOID = f"{HF}/Comfy-Org/void-model/resolve/main"
T5 = f"{HF}/comfyanonymous/flux_text_encoders/resolve/main/t5xxl_fp16.safetensors"
UMT5 = f"{WAN21}/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors"

BAD = "blurry, low quality, worst quality, static, distorted, deformed, subtitles, watermark"
FOX = "a fox running through a snowy forest, trees, mountains, daytime, tracking camera"
STREET = "a cyclist rides along a rainy street at night, neon signs reflected in puddles"
TINY = "a red circle moving left on a dark striped background"

PLACE = (
    "**SenCache Apply** sits between the model and the sampler, **SenCache Stats Viewer** after "
    "the sampler. Lower *budget* is faster and departs further from the uncached sample: it is "
    "another sample of similar quality. To see the difference, sample the same seed with "
    "*enable* off."
)


class Node(NamedTuple):
    """One node: widget values by name, links by input name as ``"key.output"``, model files."""

    key: str
    type: str
    widgets: Mapping[str, Any] = MappingProxyType({})
    links: Mapping[str, str] = MappingProxyType({})
    models: tuple[str, ...] = ()
    title: str = ""


def note(text: str, files: dict[str, str] | None = None) -> Node:
    """A note with the files that a graph needs, by folder."""
    lines = [text, PLACE]
    if files:
        lines.append("\n".join(f"- `models/{v}/{k}`" for k, v in files.items()))
    return Node("note", "MarkdownNote", {"": "\n\n".join(lines)}, title="About this workflow")


def folder(url: str) -> str:
    """Folder below models/ that a file belongs to."""
    known = ("diffusion_models", "text_encoders", "vae", "clip_vision")
    return next(
        (k for k in known if f"/{k}/" in url), "text_encoders" if "t5" in url else "checkpoints"
    )


def unet(key: str, url: str, title: str = "") -> Node:
    return Node(key, "UNETLoader", {"unet_name": Path(url).name}, models=(url,), title=title)


def clip(url: str, kind: str) -> Node:
    return Node("clip", "CLIPLoader", {"clip_name": Path(url).name, "type": kind}, models=(url,))


def vae(url: str) -> Node:
    return Node("vae", "VAELoader", {"vae_name": Path(url).name}, models=(url,))


def text(key: str, value: str) -> Node:
    title = {"positive": "Prompt", "negative": "Negative prompt"}[key]
    return Node(key, "CLIPTextEncode", {"text": value}, {"clip": "clip.CLIP"}, title=title)


def apply(key: str, model: str, budget: float = 0.5, title: str = "", **more) -> Node:
    return Node(key, "SenCacheApply", {"budget": budget, **more}, {"model": model}, title=title)


def viewer(latent: str, stats: str = "apply.stats", **more: str) -> Node:
    return Node("viewer", "SenCacheStatsViewer", {}, {"latent": latent, "stats": stats, **more})


def video(name: str, images: str, fps: float, **more: str) -> list[Node]:
    return [
        Node("clip_out", "CreateVideo", {"fps": fps}, {"images": images, **more}),
        Node(
            "save", "SaveVideo", {"filename_prefix": f"video/{name}"}, {"video": "clip_out.VIDEO"}
        ),
    ]


def ksampler(key: str, model: str, latent: str, **widgets) -> Node:
    links = {"positive": "positive.CONDITIONING", "negative": "negative.CONDITIONING"}
    return Node(key, "KSampler", widgets, {"model": model, "latent_image": latent, **links})


def files(*columns: list[Node]) -> dict[str, str]:
    return {Path(u).name: folder(u) for column in columns for n in column for u in n.models}


def decode(latent: str = "viewer.latent") -> Node:
    return Node("decode", "VAEDecode", {}, {"samples": latent, "vae": "vae.VAE"})


def wan_t2v() -> list[list[Node]]:
    loaders = [
        unet("unet", f"{WAN21}/diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors"),
        clip(UMT5, "wan"),
        vae(f"{WAN21}/vae/wan_2.1_vae.safetensors"),
    ]
    about = "## Wan 2.1 text to video\n30 steps, 15 of them run: about half the sampling time."
    return [
        [note(about, files(loaders))],
        loaders,
        [
            Node("shift", "ModelSamplingSD3", {"shift": 8.0}, {"model": "unet.MODEL"}),
            text("positive", FOX),
            text("negative", BAD),
            Node("latent", "EmptyHunyuanLatentVideo", {"width": 832, "height": 480, "length": 33}),
        ],
        [
            apply("apply", "shift.MODEL"),
            ksampler(
                "sampler",
                "apply.model",
                "latent.LATENT",
                seed=1,
                steps=30,
                cfg=6.0,
                sampler_name="uni_pc",
                scheduler="simple",
            ),
        ],
        [viewer("sampler.LATENT")],
        [decode(), *video("sencache_wan", "decode.IMAGE", 16.0)],
    ]


def wan_i2v() -> list[list[Node]]:
    loaders = [
        unet("unet", f"{WAN21}/diffusion_models/wan2.1_i2v_480p_14B_fp16.safetensors"),
        clip(UMT5, "wan"),
        vae(f"{WAN21}/vae/wan_2.1_vae.safetensors"),
        Node(
            "vision",
            "CLIPVisionLoader",
            {"clip_name": "clip_vision_h.safetensors"},
            models=(f"{WAN21}/clip_vision/clip_vision_h.safetensors",),
        ),
        Node("image", "LoadImage", title="First frame"),
    ]
    about = (
        "## Wan 2.1 image to video\n20 steps, 11 of them run (budget 0.55). Choose a first frame."
    )
    seen = {"clip_vision": "vision.CLIP_VISION", "image": "image.IMAGE"}
    made = {
        "positive": "positive.CONDITIONING",
        "negative": "negative.CONDITIONING",
        "vae": "vae.VAE",
        "clip_vision_output": "see.CLIP_VISION_OUTPUT",
        "start_image": "image.IMAGE",
    }
    return [
        [note(about, files(loaders))],
        loaders,
        [
            Node("shift", "ModelSamplingSD3", {"shift": 8.0}, {"model": "unet.MODEL"}),
            text("positive", "the scene comes alive, the camera moves slowly forward"),
            text("negative", BAD),
            Node("see", "CLIPVisionEncode", {"crop": "none"}, seen),
            Node("make", "WanImageToVideo", {"width": 512, "height": 512, "length": 33}, made),
        ],
        [
            apply("apply", "shift.MODEL", 0.55),
            Node(
                "sampler",
                "KSampler",
                {
                    "seed": 1,
                    "steps": 20,
                    "cfg": 6.0,
                    "sampler_name": "uni_pc",
                    "scheduler": "simple",
                },
                {
                    "model": "apply.model",
                    "positive": "make.positive",
                    "negative": "make.negative",
                    "latent_image": "make.latent",
                },
            ),
        ],
        [viewer("sampler.LATENT")],
        [decode(), *video("sencache_wan_i2v", "decode.IMAGE", 16.0)],
    ]


def wan_two_experts() -> list[list[Node]]:
    loaders = [
        unet("high", f"{WAN22}/diffusion_models/wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors"),
        unet("low", f"{WAN22}/diffusion_models/wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors"),
        clip(UMT5, "wan"),
        vae(f"{WAN22}/vae/wan_2.1_vae.safetensors"),
    ]
    about = (
        "## Wan 2.2 text to video, two experts\nEach expert has its own SenCache Apply. 20 steps "
        "each half: the high-noise half is treated with care (0.7), the low-noise half takes more "
        "(0.5); together about 24 of 40 evaluations. With speed LoRAs (4 to 8 steps) caching stays "
        "off: there are no steps to spare."
    )

    def stage(key: str, title: str, model: str, latent: str, **widgets) -> Node:
        shared = {"steps": 40, "cfg": 3.5, "sampler_name": "euler", "scheduler": "simple"}
        links = {"positive": "positive.CONDITIONING", "negative": "negative.CONDITIONING"}
        links |= {"model": model, "latent_image": latent}
        return Node(key, "KSamplerAdvanced", {**shared, **widgets}, links, title=title)

    first = stage(
        "first",
        "KSampler (high noise)",
        "apply_high.model",
        "latent.LATENT",
        add_noise="enable",
        noise_seed=1,
        start_at_step=0,
        end_at_step=20,
        return_with_leftover_noise="enable",
    )
    second = stage(
        "second",
        "KSampler (low noise)",
        "apply_low.model",
        "first.LATENT",
        add_noise="disable",
        noise_seed=1,
        start_at_step=20,
        end_at_step=10000,
        return_with_leftover_noise="disable",
    )
    return [
        [note(about, files(loaders))],
        loaders,
        [
            Node("shift_high", "ModelSamplingSD3", {"shift": 8.0}, {"model": "high.MODEL"}),
            Node("shift_low", "ModelSamplingSD3", {"shift": 8.0}, {"model": "low.MODEL"}),
            text("positive", STREET),
            text("negative", BAD),
            Node("latent", "EmptyHunyuanLatentVideo", {"width": 640, "height": 640, "length": 81}),
        ],
        [
            apply("apply_high", "shift_high.MODEL", 0.7, "SenCache Apply (high noise)"),
            apply("apply_low", "shift_low.MODEL", 0.5, "SenCache Apply (low noise)"),
        ],
        [first, second],
        [viewer("second.LATENT", "apply_high.stats", stats_2="apply_low.stats")],
        [decode(), *video("sencache_wan22", "decode.IMAGE", 16.0)],
    ]


def ltx_video() -> list[list[Node]]:
    checkpoint = f"{HF}/Lightricks/LTX-Video/resolve/main/ltx-video-2b-v0.9.safetensors"
    loaders = [
        Node(
            "checkpoint",
            "CheckpointLoaderSimple",
            {"ckpt_name": Path(checkpoint).name},
            models=(checkpoint,),
        ),
        clip(T5, "ltxv"),
    ]
    about = (
        "## LTX-Video text to video\n30 steps, 18 of them run (budget 0.6). The model is small: "
        "the VAE and text encoder take a good part of the whole time."
    )
    made = {"positive": "positive.CONDITIONING", "negative": "negative.CONDITIONING"}
    return [
        [note(about, files(loaders))],
        loaders,
        [
            text("positive", STREET),
            text("negative", BAD),
            Node("rate", "LTXVConditioning", {"frame_rate": 25.0}, made),
            Node("latent", "EmptyLTXVLatentVideo", {"width": 768, "height": 512, "length": 97}),
        ],
        [
            apply("apply", "checkpoint.MODEL", 0.6),
            Node("kind", "KSamplerSelect", {"sampler_name": "euler"}),
            Node("sigmas", "LTXVScheduler", {"steps": 30}, {"latent": "latent.LATENT"}),
        ],
        [
            Node(
                "sampler",
                "SamplerCustom",
                {"add_noise": True, "noise_seed": 1, "cfg": 3.0},
                {
                    "model": "apply.model",
                    "positive": "rate.positive",
                    "negative": "rate.negative",
                    "sampler": "kind.SAMPLER",
                    "sigmas": "sigmas.SIGMAS",
                    "latent_image": "latent.LATENT",
                },
            ),
            viewer("sampler.output"),
        ],
        [
            Node("decode", "VAEDecode", {}, {"samples": "viewer.latent", "vae": "checkpoint.VAE"}),
            *video("sencache_ltx", "decode.IMAGE", 25.0),
        ],
    ]


def ltx2() -> list[list[Node]]:
    checkpoint = f"{HF}/Lightricks/LTX-2/resolve/main/ltx-2-19b-dev-fp8.safetensors"
    gemma = (
        f"{HF}/Comfy-Org/ltx-2/resolve/main/split_files/text_encoders/"
        "gemma_3_12B_it_fp4_mixed.safetensors"
    )
    name = Path(checkpoint).name
    loaders = [
        Node("checkpoint", "CheckpointLoaderSimple", {"ckpt_name": name}, models=(checkpoint,)),
        Node(
            "clip",
            "LTXAVTextEncoderLoader",
            {"text_encoder": Path(gemma).name, "ckpt_name": name},
            models=(gemma,),
        ),
        Node("audio_vae", "LTXVAudioVAELoader", {"ckpt_name": name}),
    ]
    about = (
        "## LTX-2, video with sound\n20 steps, 13 of them run (budget 0.65). Video and audio are "
        "both watched: the one that changes more decides. The sampler is euler; ancestral samplers "
        "add fresh noise at every step, which makes outputs harder to predict. The distilled "
        "model (8 steps) is left alone."
    )
    made = {"positive": "positive.CONDITIONING", "negative": "negative.CONDITIONING"}
    guided = {"model": "apply.model", "positive": "rate.positive", "negative": "rate.negative"}
    both = {"video_latent": "latent.LATENT", "audio_latent": "audio.Latent"}
    return [
        [note(about, files(loaders))],
        loaders,
        [
            text("positive", f"{STREET}, the sound of rain and a passing tram"),
            text("negative", BAD),
            Node("rate", "LTXVConditioning", {"frame_rate": 24.0}, made),
            Node("latent", "EmptyLTXVLatentVideo", {"width": 768, "height": 512, "length": 97}),
            Node(
                "audio",
                "LTXVEmptyLatentAudio",
                {"frames_number": 97, "frame_rate": 24},
                {"audio_vae": "audio_vae.Audio VAE"},
            ),
            Node("both", "LTXVConcatAVLatent", {}, both),
        ],
        [
            apply("apply", "checkpoint.MODEL", 0.65),
            Node("guider", "CFGGuider", {"cfg": 4.0}, guided),
            Node("noise", "RandomNoise", {"noise_seed": 1}),
            Node("kind", "KSamplerSelect", {"sampler_name": "euler"}),
            Node("sigmas", "LTXVScheduler", {"steps": 20}, {"latent": "both.latent"}),
        ],
        [
            Node(
                "sampler",
                "SamplerCustomAdvanced",
                {},
                {
                    "noise": "noise.NOISE",
                    "guider": "guider.GUIDER",
                    "sampler": "kind.SAMPLER",
                    "sigmas": "sigmas.SIGMAS",
                    "latent_image": "both.latent",
                },
            ),
            viewer("sampler.output"),
        ],
        [
            Node("split", "LTXVSeparateAVLatent", {}, {"av_latent": "viewer.latent"}),
            Node(
                "decode",
                "VAEDecode",
                {},
                {"samples": "split.video_latent", "vae": "checkpoint.VAE"},
            ),
            Node(
                "sound",
                "LTXVAudioVAEDecode",
                {},
                {"samples": "split.audio_latent", "audio_vae": "audio_vae.Audio VAE"},
            ),
            *video("sencache_ltx2", "decode.IMAGE", 24.0, audio="sound.Audio"),
        ],
    ]


def cogvideox() -> list[list[Node]]:
    loaders = [
        unet("unet", f"{VOID}/diffusion_models/void_pass1.safetensors"),
        clip(T5, "cogvideox"),
        vae(f"{VOID}/vae/cogvideox_vae.safetensors"),
        Node("load", "LoadVideo", title="Video to clean"),
        Node("load_mask", "LoadImageMask", {"channel": "red"}, title="Mask: black is removed"),
    ]
    about = (
        "## CogVideoX (VOID: remove an object from a video)\n30 steps, 18 of them run (budget "
        "0.6). Choose a video and a mask picture that is black where the object is and white "
        "elsewhere. The prompt describes the scene without the object. VOID's own sampler keeps "
        "the latents at the scale that CogVideoX was trained on."
    )
    made = {
        "positive": "positive.CONDITIONING",
        "negative": "negative.CONDITIONING",
        "vae": "vae.VAE",
        "video": "parts.images",
        "quadmask": "mask.quadmask",
    }
    guided = {"model": "apply.model", "positive": "make.positive", "negative": "make.negative"}
    return [
        [note(about, files(loaders))],
        loaders,
        [
            Node("parts", "GetVideoComponents", {}, {"video": "load.VIDEO"}),
            Node("mask", "VOIDQuadmaskPreprocess", {}, {"mask": "load_mask.MASK"}),
            text("positive", "an empty snowy mountain slope"),
            text("negative", ""),
            Node("make", "VOIDInpaintConditioning", {}, made),
        ],
        [
            apply("apply", "unet.MODEL", 0.6),
            Node("guider", "CFGGuider", {"cfg": 6.0}, guided),
            Node("noise", "RandomNoise", {"noise_seed": 1}),
            Node("kind", "VOIDSampler"),
            Node(
                "sigmas",
                "BasicScheduler",
                {"scheduler": "simple", "steps": 30},
                {"model": "unet.MODEL"},
            ),
        ],
        [
            Node(
                "sampler",
                "SamplerCustomAdvanced",
                {},
                {
                    "noise": "noise.NOISE",
                    "guider": "guider.GUIDER",
                    "sampler": "kind.SAMPLER",
                    "sigmas": "sigmas.SIGMAS",
                    "latent_image": "make.latent",
                },
            ),
            viewer("sampler.output"),
        ],
        [decode(), *video("sencache_cogvideox", "decode.IMAGE", 12.0)],
    ]


def tiny_wan() -> list[list[Node]]:
    about = (
        "## SenCache at work, without any download\nThe bundled tiny model (Wan architecture, 5 M "
        "parameters) draws moving shapes. The upper branch samples with SenCache and runs half of "
        "the evaluations; the lower one samples the same seed in full. *SenCache Compare* says how "
        "far the two clips are apart; set *aim* of SenCache Apply to *same clip* for that, because "
        "the true clip differs from the uncached one. *SenCache Plan* shows beforehand which "
        "evaluations will run: queue it alone, and give it the sampler's settings."
    )
    settings = {
        "seed": 7,
        "steps": 50,
        "cfg": 4.0,
        "sampler_name": "euler",
        "scheduler": "simple",
    }

    own = ("steps", "sampler_name", "scheduler")
    planned = {name: settings[name] for name in own}

    def out(key: str, latent: str, name: str) -> list[Node]:
        frames = f"{key}.IMAGE"
        return [
            Node(key, "SenCacheTinyDecode", {"family": "wan"}, {"latent": latent}),
            Node(
                f"{key}_save",
                "SaveAnimatedWEBP",
                {"filename_prefix": name, "fps": 8.0},
                {"images": frames},
            ),
        ]

    both = {"reference": "plain.IMAGE", "image": "cached.IMAGE"}
    return [
        [
            note(about),
            unet("unet", "sencache_tiny_wan.safetensors")._replace(models=()),
            Node("positive", "SenCacheTinyPrompt", {"text": TINY}, title="Prompt"),
            Node("negative", "SenCacheTinyPrompt", {"text": ""}, title="Negative prompt"),
        ],
        [
            Node("shift", "ModelSamplingSD3", {"shift": 5.0}, {"model": "unet.MODEL"}),
            Node("latent", "EmptyHunyuanLatentVideo", {"width": 128, "height": 128, "length": 13}),
            apply("apply", "shift.MODEL", 0.5),
        ],
        [
            ksampler("sampler", "apply.model", "latent.LATENT", **settings),
            ksampler("full", "shift.MODEL", "latent.LATENT", **settings)._replace(
                title="KSampler (uncached)"
            ),
        ],
        [viewer("sampler.LATENT"), Node("plan", "SenCachePlan", planned, {"model": "apply.model"})],
        [
            *out("cached", "viewer.latent", "sencache_tiny_cached"),
            *out("plain", "full.LATENT", "sencache_tiny_uncached"),
        ],
        [
            Node("compare", "SenCacheCompare", {}, both),
            Node(
                "difference",
                "PreviewImage",
                {},
                {"images": "compare.difference"},
                title="Difference, amplified",
            ),
        ],
    ]


WORKFLOWS = {
    "wan2.1_t2v": wan_t2v,
    "wan2.2_two_experts": wan_two_experts,
    "wan_i2v": wan_i2v,
    "ltx_video": ltx_video,
    "ltx2": ltx2,
    "cogvideox": cogvideox,
    "sencache_tiny_wan": tiny_wan,
}

#: True once the server's nodes and the frontend's own are there.
READY = """() => ["SenCacheStatsViewer", "MarkdownNote"].every(
  (type) => window.LiteGraph?.registered_node_types?.[type]) && window.comfyAPI?.app?.app?.graph"""

#: Builds one graph from its columns and returns it in both formats.
BUILD = """async (columns) => {
  const { app } = window.comfyAPI.app;
  app.graph.clear();
  const made = {};
  let x = 40;
  for (const column of columns) {
    let y = 60, width = 0;
    for (const spec of column) {
      const node = window.LiteGraph.createNode(spec.type);
      if (!node) throw new Error(`no node ${spec.type}`);
      app.graph.add(node);
      made[spec.key] = node;
      if (spec.title) node.title = spec.title;
      for (const [name, value] of Object.entries(spec.widgets)) {
        const widget = node.widgets.find((w) => w.name === name || name === "");
        if (!widget) throw new Error(`${spec.type} has no widget ${name}`);
        widget.value = value;
        if (name === "family") widget.callback?.(value);
      }
      for (const widget of node.widgets ?? []) {
        if (widget.name === "control_after_generate") widget.value = "fixed";
      }
      if (spec.models.length) node.properties.models = spec.models;
      if (spec.type === "MarkdownNote") node.setSize([430, 400]);
      else if (spec.type === "CLIPTextEncode") node.setSize([340, 130]);
      else if (spec.type === "SenCacheTinyPrompt") node.setSize([340, 150]);
      else if (spec.type === "SenCacheCompare") node.setSize([300, 260]);
      else if (spec.type === "SenCacheStatsViewer") node.setSize([560, 500]);
      else if (spec.type === "SenCachePlan") node.setSize([560, 420]);
      else if (/^Save|^Preview|^LoadImage$/.test(spec.type)) node.setSize([300, 430]);
      else node.setSize(node.computeSize().map((v, i) => (i ? v : Math.max(v, 280))));
      node.pos = [x, y];
      y += node.size[1] + 60;
      width = Math.max(width, node.size[0]);
    }
    x += width + 60;
  }
  for (const spec of columns.flat()) {
    for (const [name, from] of Object.entries(spec.links)) {
      const [key, output] = from.split(".");
      const slot = made[spec.key].inputs.findIndex((i) => i.name === name);
      const source = made[key];
      const out = source.outputs.findIndex((o) => o.name === output || o.type === output);
      if (slot < 0 || out < 0) throw new Error(`${spec.key}.${name} <- ${from}`);
      source.connect(out, made[spec.key], slot);
    }
  }
  const { output } = await app.graphToPrompt();
  const graph = app.graph.serialize();
  graph.extra = { ds: { scale: 0.6, offset: [0, 0] } };
  return [graph, output];
}"""


def main(address: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.goto(address)
        page.wait_for_function(READY, timeout=120_000)
        for name, columns in WORKFLOWS.items():
            table = [
                [
                    {
                        **node._asdict(),
                        "widgets": dict(node.widgets),
                        "links": dict(node.links),
                        "models": [
                            {"name": Path(u).name, "url": u, "directory": folder(u)}
                            for u in node.models
                        ],
                    }
                    for node in column
                ]
                for column in columns()
            ]
            graph, prompt = page.evaluate(BUILD, table)
            graph["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"sencache/{name}"))
            write(HERE / f"{name}.json", graph)
            if name == "sencache_tiny_wan":
                API_PROMPT.parent.mkdir(exist_ok=True)
                write(API_PROMPT, prompt)
        browser.close()


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8188")
