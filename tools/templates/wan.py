"""Wan. Samplers, steps, shifts, scales and files are those of ComfyUI's own templates for the same
models (comfyui-workflow-templates 0.11), without their speed LoRAs."""

from __future__ import annotations

from .parts import (
    ASKED,
    BLUE,
    BROWN,
    BYPASS,
    GREEN,
    GREY,
    HF,
    MODEL,
    SAMPLE,
    SEEN,
    SENCACHE,
    UMT5,
    VIOLET,
    WAN21,
    WAN_VAE,
    Columns,
    Group,
    Node,
    about,
    apply,
    clip,
    columns,
    ksampler,
    latent,
    note,
    prompts,
    save_clip,
    shift,
    stack,
    unet,
    vae,
    viewer,
)

WAN22 = f"{HF}/Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files"
SMALL = f"{WAN21}/diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors"
FOX = "a fox running through a snowy forest, trees, mountains, daytime, tracking camera"
STREET = "a cyclist rides along a rainy street at night, neon signs reflected in puddles"
UNIPC = {"seed": 1, "cfg": 6.0, "sampler_name": "uni_pc", "scheduler": "simple"}


def _model(url: str, *more: Node) -> Group:
    """A model at Wan 2.1's shift, and its text encoder."""
    return stack(MODEL, BLUE, unet("unet", url), shift("unet.MODEL", 8.0), clip(UMT5, "wan"), *more)


def _seen(latent: str = "sampler.LATENT") -> Group:
    return stack(SEEN, VIOLET, viewer(latent))


def t2v() -> Columns:
    text = "30 steps, 15 of them computed: about half the sampling time."
    return columns(
        [about("Wan 2.1, text to video", text, SMALL, UMT5, WAN_VAE), _model(SMALL)],
        [
            stack(SENCACHE, VIOLET, apply("shift.MODEL", 0.5)),
            stack(ASKED, GREEN, *prompts(FOX), latent(832, 480, 33)),
        ],
        [stack(SAMPLE, BROWN, ksampler("sampler", "apply.model", steps=30, **UNIPC), vae(WAN_VAE))],
        [_seen(), save_clip("sencache_wan", "sampler.LATENT", 16.0)],
    )


def i2v() -> Columns:
    url = f"{WAN21}/diffusion_models/wan2.1_i2v_480p_14B_fp16.safetensors"
    eye = f"{WAN21}/clip_vision/clip_vision_h.safetensors"
    text = "20 steps, 11 of them computed (budget 0.55). Choose a first frame."
    vision = {"clip_name": eye.rsplit("/", 1)[-1]}
    made = {
        "positive": "positive.CONDITIONING",
        "negative": "negative.CONDITIONING",
        "vae": "vae.VAE",
        "clip_vision_output": "see.CLIP_VISION_OUTPUT",
        "start_image": "image.IMAGE",
    }
    size = {"width": 512, "height": 512, "length": 33}
    looked = {"clip_vision": "vision.CLIP_VISION", "image": "image.IMAGE"}
    asked = "the scene comes alive, the camera moves slowly forward"
    return columns(
        [
            about("Wan 2.1, image to video", text, url, UMT5, WAN_VAE, eye),
            _model(url, Node("vision", "CLIPVisionLoader", vision, models=(eye,))),
        ],
        [
            stack(SENCACHE, VIOLET, apply("shift.MODEL", 0.55)),
            stack("1. Prompt", GREEN, *prompts(asked)),
            stack(
                "1. First frame",
                GREEN,
                Node("image", "LoadImage", {"image": "example.png"}, title="First frame"),
            ),
        ],
        [
            stack(
                SAMPLE,
                BROWN,
                ksampler("sampler", "apply.model", "make", "make.latent", steps=20, **UNIPC),
            ),
            stack(
                "2. Ask for a clip that starts so",
                GREEN,
                vae(WAN_VAE),
                Node("see", "CLIPVisionEncode", {"crop": "none"}, looked),
                Node("make", "WanImageToVideo", size, made, title="Clip from a first frame"),
            ),
        ],
        [_seen(), save_clip("sencache_wan_i2v", "sampler.LATENT", 16.0)],
    )


def two_experts() -> Columns:
    high, low = (
        f"{WAN22}/diffusion_models/wan2.2_t2v_{which}_noise_14B_fp8_scaled.safetensors"
        for which in ("high", "low")
    )
    text = (
        "Each expert has its own *SenCache Apply*. The high-noise expert draws the layout and is "
        "treated with care (0.7 of its 10 steps), the low-noise expert takes more (0.5): 12 of 20 "
        "steps are computed. With speed LoRAs (4 to 8 steps) leave SenCache out: there are no "
        "steps to spare."
    )
    shared = {"steps": 20, "cfg": 3.5, "sampler_name": "euler", "scheduler": "simple"}
    shared |= {"type": "KSamplerAdvanced", "noise_seed": 1}
    first = {"add_noise": "enable", "start_at_step": 0, "end_at_step": 10}
    first |= {"return_with_leftover_noise": "enable", "title": "KSampler (high noise)"}
    second = {"add_noise": "disable", "start_at_step": 10, "end_at_step": 10000}
    second |= {"return_with_leftover_noise": "disable", "title": "KSampler (low noise)"}
    both = viewer("low.LATENT", "apply_high.stats", stats_2="apply_low.stats")
    return columns(
        [
            about("Wan 2.2, two experts", text, high, low, UMT5, WAN_VAE),
            stack(
                MODEL,
                BLUE,
                unet("unet_high", high, "Expert for high noise"),
                shift("unet_high.MODEL", 5.0, "shift_high"),
                unet("unet_low", low, "Expert for low noise"),
                shift("unet_low.MODEL", 5.0, "shift_low"),
                clip(UMT5, "wan"),
            ),
        ],
        [
            stack(
                SENCACHE,
                VIOLET,
                apply("shift_high.MODEL", 0.7, "apply_high", "SenCache Apply (high noise)"),
                apply("shift_low.MODEL", 0.5, "apply_low", "SenCache Apply (low noise)"),
            ),
            stack(ASKED, GREEN, *prompts(STREET), latent(640, 640, 81)),
        ],
        [
            stack(
                SAMPLE,
                BROWN,
                ksampler("high", "apply_high.model", **shared, **first),
                ksampler("low", "apply_low.model", latent="high.LATENT", **shared, **second),
                vae(WAN_VAE),
            )
        ],
        [stack(SEEN, VIOLET, both), save_clip("sencache_wan22", "low.LATENT", 16.0)],
    )


def vace() -> Columns:
    url = f"{WAN21}/diffusion_models/wan2.1_vace_14B_fp16.safetensors"
    text = (
        "20 steps at cfg 6, 12 of them computed (budget 0.6). Choose a picture of the subject. "
        "This is VACE without the CausVid LoRA; with it, at 4 steps, leave SenCache out."
    )
    made = {
        "positive": "positive.CONDITIONING",
        "negative": "negative.CONDITIONING",
        "vae": "vae.VAE",
        "reference_image": "image.IMAGE",
    }
    size = {"width": 768, "height": 768, "length": 81}
    trim = {"samples": "sampler.LATENT", "trim_amount": "make.trim_latent"}
    saved = save_clip("sencache_vace", "trim.LATENT", 16.0)
    return columns(
        [about("Wan 2.1 VACE", text, url, UMT5, WAN_VAE), _model(url)],
        [
            stack(SENCACHE, VIOLET, apply("shift.MODEL", 0.6)),
            stack("1. Prompt", GREEN, *prompts("the subject turns to the camera and smiles")),
            stack(
                "1. Subject",
                GREEN,
                Node("image", "LoadImage", {"image": "example.png"}, title="Reference picture"),
            ),
        ],
        [
            stack(
                SAMPLE,
                BROWN,
                ksampler("sampler", "apply.model", "make", "make.latent", steps=20, **UNIPC),
            ),
            stack(
                "2. Ask for a clip of the subject",
                GREEN,
                vae(WAN_VAE),
                Node("make", "WanVaceToVideo", size, made, title="Clip of a subject (VACE)"),
            ),
        ],
        [
            _seen(),
            saved._replace(rows=((Node("trim", "TrimVideoLatent", {}, trim),), *saved.rows)),
        ],
    )


def draft_then_final() -> Columns:
    text = (
        "## Draft, then final\n\n"
        "1. **Hunt.** Press *Run* a few times. Each draft has a seed of its own and computes 8 of "
        "30 steps.\n"
        "2. **Choose.** Drag the clip you like onto the canvas: the workflow opens with its seed. "
        "Set *control after generate* of *Seed* to *fixed*.\n"
        "3. **Final.** Right-click the grey group and choose *Set Group Nodes to Always*. *Run* "
        "computes every step of the same seed.\n\n"
        "*aim* is *same clip*, so that a draft shows what the final will be; small details differ."
    )
    settings = {name: value for name, value in UNIPC.items() if name != "seed"} | {"steps": 30}
    seed = Node("seed", "PrimitiveInt", {"value": 1, "control": "randomize"}, title="Seed")

    def sampler(key: str, model: str, title: str, **more) -> Node:
        made = ksampler(key, model, title=title, **settings)
        return made._replace(links={**made.links, "seed": "seed.INT"}, **more)

    drafts = save_clip("draft", "sampler.LATENT", 16.0)._replace(title="4. The draft")
    final = sampler("full", "shift.MODEL", "KSampler (every step)", mode=BYPASS, width=280)
    final = final._replace(links={name: f"{came} | below" for name, came in final.links.items()})
    (row,) = save_clip("final", "full.LATENT", 16.0).rows
    renamed = {"decode.IMAGE": "final_decode.IMAGE", "video.VIDEO": "final_video.VIDEO"}
    row = tuple(
        node._replace(
            key=f"final_{node.key}",
            mode=BYPASS,
            links={name: renamed.get(came, came) for name, came in node.links.items()},
        )
        for node in row
    )
    return columns(
        [note(text, (SMALL, UMT5, WAN_VAE), 420), _model(SMALL)],
        [
            stack(SENCACHE, VIOLET, apply("shift.MODEL", 0.25, aim="same clip")),
            stack("1. Prompt, size and seed", GREEN, *prompts(FOX), latent(832, 480, 33), seed),
        ],
        [
            stack(
                "3. Sample a draft",
                BROWN,
                sampler("sampler", "apply.model", "KSampler (draft)"),
                vae(WAN_VAE),
            ),
        ],
        [
            _seen(),
            drafts,
            Group("5. The final: off until you want it", GREY, ((final,), row)),
        ],
    )
