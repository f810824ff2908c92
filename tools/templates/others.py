"""LTX-Video, LTX-2 and CogVideoX. Samplers, steps, scales and files are those of ComfyUI's own
templates for the same models (comfyui-workflow-templates 0.11), their first pass only."""

from __future__ import annotations

from .parts import (
    ASKED,
    BLUE,
    BROWN,
    GREEN,
    HF,
    MODEL,
    SEEN,
    SENCACHE,
    T5,
    VIOLET,
    Columns,
    Group,
    Node,
    about,
    apply,
    clip,
    columns,
    latent,
    prompts,
    save_clip,
    stack,
    unet,
    vae,
    viewer,
)

VOID = f"{HF}/Comfy-Org/void-model/resolve/main"
STREET = "a cyclist rides along a rainy street at night, neon signs reflected in puddles"
ASK = {"positive": "positive.CONDITIONING", "negative": "negative.CONDITIONING"}


def _name(url: str) -> str:
    return url.rsplit("/", 1)[-1]


def _sampled(conds: str, latent: str, cfg: float) -> Group:
    """SamplerCustom with the nodes ``kind`` and ``sigmas``, and what it did."""
    links = {
        "model": "apply.model",
        "positive": f"{conds}.positive",
        "negative": f"{conds}.negative",
        "sampler": "kind.SAMPLER",
        "sigmas": "sigmas.SIGMAS",
        "latent_image": latent,
    }
    settings = {"add_noise": True, "noise_seed": 1, "cfg": cfg}
    sampler = Node("sampler", "SamplerCustom", settings, links, width=260)
    return Group("3. Sample", BROWN, ((sampler,),))


def _seen() -> Group:
    return stack(SEEN, VIOLET, viewer("sampler.output", "apply.stats | above"))


def _euler() -> Node:
    return Node("kind", "KSamplerSelect", {"sampler_name": "euler"})


def ltx_video() -> Columns:
    url = f"{HF}/Lightricks/LTX-Video/resolve/main/ltx-video-2b-v0.9.safetensors"
    text = (
        "30 steps, 18 of them computed (budget 0.6). The model is small: the VAE and the text "
        "encoder take a good part of the whole time."
    )
    model = Node("model", "CheckpointLoaderSimple", {"ckpt_name": _name(url)}, models=(url,))
    return columns(
        [
            about("LTX-Video, text to video", text, url, T5),
            stack(MODEL, BLUE, model, clip(T5, "ltxv")),
        ],
        [
            stack(SENCACHE, VIOLET, apply("model.MODEL", 0.6)),
            stack(ASKED, GREEN, *prompts(STREET), latent(768, 512, 97, "EmptyLTXVLatentVideo")),
        ],
        [
            stack(
                "2. Sampler and steps",
                BROWN,
                Node("rate", "LTXVConditioning", {"frame_rate": 25.0}, ASK),
                _euler(),
                Node("sigmas", "LTXVScheduler", {"steps": 30}, {"latent": "latent.LATENT"}),
            ),
        ],
        [
            _sampled("rate", "latent.LATENT | below", 3.0),
            _seen(),
            save_clip("sencache_ltx", "sampler.output", 25.0, "model.VAE | below"),
        ],
    )


def ltx2() -> Columns:
    url = f"{HF}/Lightricks/LTX-2/resolve/main/ltx-2-19b-dev-fp8.safetensors"
    gemma = (
        f"{HF}/Comfy-Org/ltx-2/resolve/main/split_files/text_encoders/"
        "gemma_3_12B_it_fp4_mixed.safetensors"
    )
    text = (
        "The full model (dev), not the distilled one: 20 steps at cfg 4, 13 of them computed "
        "(budget 0.65). Picture and sound are both watched, and the one that changes more decides. "
        "The sampler is euler: ancestral samplers add fresh noise at every step, which makes the "
        "model's output harder to predict."
    )
    name = {"ckpt_name": _name(url)}
    both = {"video_latent": "latent.LATENT", "audio_latent": "audio.Latent"}
    heard = {"samples": "split.audio_latent", "audio_vae": "audio_vae.Audio VAE | below"}
    length = {"frames_number": 97, "frame_rate": 24}
    saved = save_clip(
        "sencache_ltx2", "split.video_latent", 24.0, "model.VAE | below", audio="sound.Audio"
    )
    parts = (
        Node("split", "LTXVSeparateAVLatent", {}, {"av_latent": "sampler.output"}, width=240),
        Node("sound", "LTXVAudioVAEDecode", {}, heard, width=240),
    )
    return columns(
        [
            about("LTX-2, video with sound", text, url, gemma),
            stack(
                MODEL,
                BLUE,
                Node("model", "CheckpointLoaderSimple", name, models=(url,)),
                Node(
                    "clip",
                    "LTXAVTextEncoderLoader",
                    {"text_encoder": _name(gemma), **name},
                    models=(gemma,),
                ),
                Node("audio_vae", "LTXVAudioVAELoader", name),
            ),
        ],
        [
            stack(SENCACHE, VIOLET, apply("model.MODEL", 0.65)),
            stack(
                ASKED,
                GREEN,
                *prompts(f"{STREET}, the sound of rain and a passing tram"),
                latent(768, 512, 97, "EmptyLTXVLatentVideo"),
                Node(
                    "audio",
                    "LTXVEmptyLatentAudio",
                    length,
                    {"audio_vae": "audio_vae.Audio VAE"},
                    title="Length of the sound",
                ),
            ),
        ],
        [
            stack(
                "2. Sampler and steps",
                BROWN,
                Node("rate", "LTXVConditioning", {"frame_rate": 24.0}, ASK),
                _euler(),
                Node("sigmas", "LTXVScheduler", {"steps": 20}, {"latent": "latent.LATENT"}),
                Node("both", "LTXVConcatAVLatent", {}, both, title="Picture and sound together"),
            )
        ],
        [
            _sampled("rate", "both.latent", 4.0),
            _seen(),
            saved._replace(rows=(parts, *saved.rows)),
        ],
    )


def cogvideox() -> Columns:
    url, decoder = (
        f"{VOID}/{path}.safetensors"
        for path in ("diffusion_models/void_pass1", "vae/cogvideox_vae")
    )
    text = (
        "30 steps, 18 of them computed (budget 0.6). Choose a video and a mask picture: black "
        "where the object is, white elsewhere. The prompt describes the scene without the object. "
        "VOID's own sampler keeps the latents at the scale that CogVideoX was trained on."
    )
    made = {**ASK, "vae": "vae.VAE", "video": "parts.images", "quadmask": "mask.quadmask"}
    steps = {"scheduler": "simple", "steps": 30}
    masked = {"image": "your_mask.png", "channel": "red"}
    return columns(
        [
            about("CogVideoX: remove an object (VOID)", text, url, T5, decoder),
            stack(MODEL, BLUE, unet("unet", url), clip(T5, "cogvideox")),
            stack(
                "1. Video",
                GREEN,
                Node("load", "LoadVideo", {"file": "your_video.mp4"}, title="Video to clean"),
            ),
        ],
        [
            stack(SENCACHE, VIOLET, apply("unet.MODEL", 0.6)),
            stack("1. Prompt", GREEN, *prompts("an empty snowy mountain slope", "")),
            stack(
                "1. Mask",
                GREEN,
                Node("parts", "GetVideoComponents", {}, {"video": "load.VIDEO"}),
                Node("load_mask", "LoadImageMask", masked, title="Mask: black is removed"),
            ),
        ],
        [
            stack(
                "2. Sampler and steps",
                BROWN,
                Node("kind", "VOIDSampler"),
                Node("sigmas", "BasicScheduler", steps, {"model": "apply.model"}),
            ),
            stack(
                "2. Ask for a clip without it",
                GREEN,
                Node("mask", "VOIDQuadmaskPreprocess", {}, {"mask": "load_mask.MASK"}),
                vae(decoder),
                Node("make", "VOIDInpaintConditioning", {}, made),
            ),
        ],
        [
            _sampled("make", "make.latent", 6.0),
            _seen(),
            save_clip("sencache_cogvideox", "sampler.output", 12.0),
        ],
    )
