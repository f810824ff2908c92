"""Train one of the tiny video models on procedural clips.

    python tools/train_tiny.py --family wan --minutes 30 --work-dir .train --resume --export

The work directory holds the latent pool, the checkpoint (model, average, optimizer, step, random
state), the loss log and the sample sheets. ``--export`` writes the averaged weights (fp16, under
ComfyUI's names) into the package.

The bundled weights were trained from scratch as above, mostly on windows of more varied clips, and
then continued on the clips of ``data.py`` as they are now: about 1700 steps each with AdamW alone,
then 2100 to 2600 with Muon for the matrices (Jordan et al. 2024), which lowers the loss about twice
as much in as many steps:

    python tools/train_tiny.py --family wan --start bundled --clips 12000 --batch 16 --rate 1e-3 \\
        --muon 2e-3 --ema 0.998 --crop-until 0.3 --train-shift 5 --dropout 0.08 --decay 0.65 \\
        --threads 1 --minutes 86 --bf16 --compile --resume --export

The same command with more ``--minutes`` goes on from there. ``--fit-kernels`` refits what decodes
and leaves the latents, and so the weights, their meaning; ``--fit-codec`` refits both.

Models that nothing of the package was measured or tuned on, for ``sencache bench --checkpoint``:
of another width, depth, data and seed, a quarter of an hour each, not bundled:

    for family in wan cogvideox; do for variant in narrow wide; do
        python tools/train_tiny.py --family $family --variant $variant --clips 6000 --batch 16 \\
            --rate 1e-3 --muon 2e-3 --ema 0.998 --crop-until 0.3 --train-shift 5 --dropout 0.08 \\
            --decay 0.65 --threads 1 --minutes 14 --bf16 --compile --resume
    done; done

LTX-Video's loss is no number after 150 to 175 steps of that. ``--rate 5e-4 --muon 7e-4`` without
``--bf16`` holds for the 225 steps that were tried.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sencache_core import tiny
from sencache_core.tiny import data, sampling
from sencache_core.tiny.sheet import contact_sheet

SHAPE_WEIGHT = 4.0
"""Extra weight of a cell that differs from its frame's median by 1 or more."""


class Variant(NamedTuple):
    """A model that differs from the bundled one of its family.

    Attributes:
        sizes: by family, arguments of the transformer's class other than the bundled model's.
        pan: how far the camera moves over a clip, in widths of the picture.
        seed: of clips, weights and batches.
    """

    sizes: dict[str, dict[str, int]]
    pan: float
    seed: int


VARIANTS = {
    "narrow": Variant(
        {
            "wan": {"num_attention_heads": 1, "ffn_dim": 512, "num_layers": 8},
            "ltx": {"attention_head_dim": 6, "cross_attention_dim": 192, "num_layers": 6},
            "cogvideox": {"num_attention_heads": 2, "num_layers": 8},
        },
        pan=0.0,
        seed=21,
    ),
    "wide": Variant(
        {
            "wan": {"num_attention_heads": 3, "ffn_dim": 384, "num_layers": 4},
            "ltx": {"attention_head_dim": 10, "cross_attention_dim": 320, "num_layers": 3},
            "cogvideox": {"num_attention_heads": 4, "num_layers": 4},
        },
        pan=0.25,
        seed=22,
    ),
}


def film(spec: data.ClipSpec, family: str, seed: int, pan: float) -> torch.Tensor:
    """A clip ``[frames, 3, side, side]`` as a camera sees it that is not centred.

    A window of 60 to 100 % of a larger scene, anywhere in it; it moves by ``pan`` of its width.
    """
    frames, side = tiny.SPECS[family].frames, tiny.SPECS[family].pixels
    rng = random.Random(seed)
    size = round(side * rng.uniform(1.0, 1.6))
    scene = data.make_clip(spec, family, seed, size=(frames, size))
    room = size - side
    start, end = [rng.uniform(0, room) for _ in range(2)], [rng.uniform(0, room) for _ in range(2)]
    clip = []
    for k, frame in enumerate(scene):
        share = min(1.0, pan * side / max(math.dist(start, end), 1e-6)) * k / (frames - 1)
        top, left = (round(a + share * (b - a)) for a, b in zip(start, end))
        clip.append(frame[:, top : top + side, left : left + side])
    return torch.stack(clip)


def fit_codec(family: str, clips: int = 200, kernels_only: bool = False) -> None:
    """Fit and save the codec, or its decoding kernels alone, on random training clips."""
    rng = random.Random(11)
    torch.manual_seed(11)
    videos = [
        data.make_clip(data.random_spec(rng), family, 10_000_000 + index)
        for index in tqdm(range(clips), desc=f"{family} codec")
    ]
    tiny.codec_path(family).parent.mkdir(exist_ok=True)
    if kernels_only:
        codec = tiny.Codec.load(family)
        codec.fit_kernels(videos)
    else:
        codec = tiny.Codec.fit(videos, family)
    codec.save(tiny.codec_path(family))
    tiny.Codec.load.cache_clear()


def latent_pool(
    family: str, work_dir: Path, clips: int, variant: str = ""
) -> tuple[torch.Tensor, list[str]]:
    """fp16 latents ``[clips, C, F, H, W]`` and their prompts, cached in the work directory."""
    path = work_dir / f"pool_{family}{variant and '_' + variant}_{clips}.pt"
    if path.exists():
        saved = torch.load(path)
        return saved["latents"], saved["prompts"]
    codec, other = tiny.Codec.load(family), VARIANTS.get(variant)
    rng = random.Random(other.seed if other else 12)
    latents = torch.empty(clips, *tiny.SPECS[family].latent, dtype=torch.float16)
    prompts = []
    for index in tqdm(range(clips), desc=f"{family} clips", mininterval=5):
        spec = data.random_spec(rng)
        if other:
            clip = film(spec, family, 1_000_000 * other.seed + index, other.pan)
        else:
            clip = data.make_clip(spec, family, index)
        latents[index] = codec.encode(clip).half()
        prompts.append(spec.prompt)
    torch.save({"latents": latents, "prompts": prompts}, path)
    return latents, prompts


def init_weights(module: torch.nn.Module) -> None:
    """Start blocks near the identity and the output at zero; widen the text projection."""
    text = ("text_proj.weight", "text_embedder.linear_1.weight")
    text += ("caption_projection.linear_1.weight",)
    scales = ("time_proj.weight", "time_embed.linear.weight", "norm1.linear.weight")
    scales += ("norm2.linear.weight", "norm_out.linear.weight")
    gates = ("norm1.linear.bias", "norm2.linear.bias", "scale_shift_table")
    for name, parameter in module.named_parameters():
        if name.startswith("proj_out."):
            torch.nn.init.zeros_(parameter)
        elif name.endswith(text):
            torch.nn.init.normal_(parameter, std=0.06)
        elif name.endswith(scales):
            parameter.data.mul_(0.1)
        elif "blocks." in name and name.endswith(gates):
            parameter.data.zero_()
            parameter.data.view(6, -1)[[2, 5]] = 0.5


def plain_attention(query, key, value, attn_mask=None, scale=None, **_):
    """Attention as two matrix products.

    On a CPU this is two to four times as fast, forward and backward, as PyTorch's fused bfloat16
    kernel for sequences as short as these.
    """
    shape, size = value.shape, query.shape[-1]
    query, key, value = (x.reshape(-1, *x.shape[-2:]) for x in (query, key, value))
    with torch.autocast("cpu", enabled=False):
        scores = torch.baddbmm(
            query.new_empty(1), query, key.transpose(1, 2), beta=0, alpha=scale or size**-0.5
        )
        if attn_mask is not None:
            raise NotImplementedError("no masks in training")
        out = torch.bmm(scores.softmax(-1), value)
    return out.view(*shape[:-2], query.shape[1], shape[-1])


def make_optimizers(
    module: torch.nn.Module, rate: float, muon: float
) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices at rate ``muon`` (0: AdamW for them too), AdamW for the rest.

    No decay for gains and biases; a lower rate for the wide text projection.
    """
    matrices, gains, text = [], [], []
    for name, parameter in module.named_parameters():
        if parameter.shape[-1] == 4096:
            text.append(parameter)
        elif "blocks." in name and parameter.ndim == 2 and min(parameter.shape) > 8:
            matrices.append(parameter)
        else:
            gains.append(parameter)
    groups = [{"params": gains, "weight_decay": 0.0}, {"params": text, "lr": rate * 0.3}]
    if not muon:
        groups.append({"params": matrices})
    optimizers = [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.97), weight_decay=0.02)]
    if muon:
        optimizers.append(
            torch.optim.Muon(
                matrices, lr=muon, momentum=0.95, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base"] = group["lr"]
    return optimizers


def loss_of(family, module, clean, context, generator, train_shift, bf16=False):
    """One batch of the family's objective; noise levels are stratified over the batch."""
    batch = len(clean)
    u = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    noise = torch.randn(clean.shape, generator=generator)
    if tiny.SPECS[family].prediction == "flow":
        t = train_shift * u / (1 + (train_shift - 1) * u)
        s = t.view(-1, 1, 1, 1, 1)
        noisy, target = (1 - s) * clean + s * noise, noise - clean
    else:
        # The square root favours the noisy timesteps, which decide about shape and motion.
        t = (u.sqrt() * 1000).long().clamp_max(999)
        alpha = sampling.cog_alphas()[t].view(-1, 1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        out = tiny.forward(family, module, noisy, t, context)
    return ((out.float() - target).square() * shape_weights(clean)).mean()


def shape_weights(clean: torch.Tensor) -> torch.Tensor:
    """Weights ``[B, 1, F, H, W]`` of the cells, mean 1: cells of the moving shape count more.

    The shape covers a tenth of the picture and holds most of what the prompt says.
    """
    weights = 1 + SHAPE_WEIGHT * contrast(clean).mean(1, keepdim=True).clamp_max(1)
    return weights / weights.mean((2, 3, 4), keepdim=True)


def contrast(clean: torch.Tensor) -> torch.Tensor:
    """Absolute difference of each value to the median of its channel and frame."""
    return (clean - clean.flatten(3).median(-1).values[..., None, None]).abs()


def salient_crop(clean: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """One window of ``size`` x ``size`` cells per clip, mostly on the moving shape.

    With rotary positions the networks see relative positions only, so most of what they learn on
    windows holds for whole clips, at a fraction of the price.
    """
    score = F.avg_pool2d(contrast(clean).mean((1, 2)), size, stride=1)
    weights = score.flatten(1).div(score.flatten(1).mean(1, keepdim=True)).pow(8)
    places = torch.multinomial(weights, 1, generator=generator).flatten().tolist()
    windows = []
    for clip, place in zip(clean, places):
        top, left = divmod(place, score.shape[-1])
        windows.append(clip[..., top : top + size, left : left + size])
    return torch.stack(windows)


def export(family: str, state_dict: dict, path: Path | None = None) -> Path:
    """Write fp16 weights under ComfyUI's names."""
    path = path or tiny.weights_path(family)
    path.parent.mkdir(exist_ok=True)
    renamed = tiny.to_comfyui_keys(family, state_dict)
    save_file({k: v.detach().half().contiguous() for k, v in renamed.items()}, path)
    path.chmod(0o644)
    return path


def sample_sheet(
    family: str, state_dict: dict, path: Path, rows: int, steps: int | None, **sizes: int
) -> None:
    """PNG of held-out prompts, one per row; the weights are rounded to fp16 first."""
    module = tiny.build(family, **sizes).eval()
    module.load_state_dict({k: v.half().float() for k, v in state_dict.items()})
    prompts = tiny.held_out_prompts()[:rows]
    latents = tiny.sample(family, module, prompts, seed=100, steps=steps)
    contact_sheet(tiny.Codec.load(family).decode(latents), prompts, path)


def train(args: argparse.Namespace, work_dir: Path) -> dict:
    """Run the training loop; returns the averaged weights (diffusers names, float32)."""
    family = args.family
    latents, prompts = latent_pool(family, work_dir, args.clips, args.variant)
    words = {prompt: tiny.encode_prompt(prompt) for prompt in set(prompts)}
    torch.manual_seed(args.seed)
    module = tiny.build(family, **args.sizes).train()
    if args.start == "bundled":
        module.load_state_dict(tiny.to_diffusers_keys(family, load_file(tiny.weights_path(family))))
    else:
        init_weights(module)
    optimizers = make_optimizers(module, args.rate, args.muon)
    if args.compile:
        for block in module.blocks if family == "wan" else module.transformer_blocks:
            block.compile(dynamic=False)
    average = {k: v.detach().clone() for k, v in module.state_dict().items()}
    generator = torch.Generator().manual_seed(args.seed)
    step, seconds, checkpoint = 0, 0.0, work_dir / f"{args.name}.pt"
    if args.resume and checkpoint.exists():
        saved = torch.load(checkpoint)
        module.load_state_dict(saved["model"])
        average, step, seconds = saved["average"], saved["step"], saved["seconds"]
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        generator.set_state(saved["rng"])
    log = work_dir / f"{args.name}.log"

    def save() -> None:
        torch.save(
            {
                "model": module.state_dict(),
                "average": average,
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": step,
                "seconds": seconds,
                "rng": generator.get_state(),
            },
            checkpoint.with_suffix(".tmp"),
        )
        checkpoint.with_suffix(".tmp").replace(checkpoint)

    budget = args.minutes * 60 if args.minutes else math.inf
    bar = tqdm(total=args.steps, initial=step, desc=family, mininterval=10)
    recent, saved_at = [], time.time()
    while seconds < budget and (not args.steps or step < args.steps):
        started = time.time()
        progress = min(1.0, max(seconds / budget, step / args.steps if args.steps else 0.0))
        factor = min(1.0, (step + 1) / args.warmup) * min(1.0, (1.02 - progress) / args.decay)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * factor
        index = torch.randint(len(latents), (args.batch,), generator=generator)
        context = torch.stack([words[prompts[i]] for i in index.tolist()])
        context[torch.rand(args.batch, generator=generator) < args.dropout] = 0
        clean = latents[index].float()
        if progress < args.crop_until:
            clean = salient_crop(clean, clean.shape[-1] * 5 // 8, generator)
        loss = loss_of(family, module, clean, context, generator, args.train_shift, args.bf16)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        rate = min(args.ema, step / (step + 10))
        with torch.no_grad():
            for name, value in module.state_dict().items():
                average[name].lerp_(value, 1 - rate)
        recent.append(loss.item())
        seconds += time.time() - started
        bar.update()
        if step % args.print_every == 0:
            line = f"step {step} minutes {seconds / 60:.2f} loss {sum(recent) / len(recent):.4f}"
            with log.open("a", encoding="utf-8") as file:
                print(line, file=file)
            bar.set_postfix_str(line)
            recent = []
        if time.time() - saved_at > 120:
            save()
            saved_at = time.time()
    save()
    return average


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=list(tiny.SPECS), required=True)
    parser.add_argument("--minutes", type=float, default=0.0, help="training time (0: no limit)")
    parser.add_argument("--steps", type=int, default=0, help="training steps (0: no limit)")
    parser.add_argument("--work-dir", type=Path, default=Path(".train"))
    parser.add_argument("--variant", choices=list(VARIANTS), default="", help="not the bundled one")
    parser.add_argument("--name", default="", help="name of the checkpoint and the log")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--start", choices=("random", "bundled"), default="random")
    parser.add_argument("--export", action="store_true", help="write the weights into the package")
    parser.add_argument("--sheet", type=int, default=0, help="rows of a sample sheet to write")
    parser.add_argument("--sheet-steps", type=int, default=None)
    parser.add_argument("--fit-codec", action="store_true", help="refit the codec first")
    parser.add_argument("--fit-kernels", action="store_true", help="refit what decodes first")
    parser.add_argument("--clips", type=int, default=10000, help="size of the latent pool")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument(
        "--muon", type=float, default=0.0, help="Muon's rate for matrices (0: AdamW)"
    )
    parser.add_argument("--compile", action="store_true", help="compile the blocks")
    parser.add_argument("--ema", type=float, default=0.995)
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--decay", type=float, default=0.5, help="final share with falling rate")
    parser.add_argument("--dropout", type=float, default=0.12, help="share of empty prompts")
    parser.add_argument("--train-shift", type=float, default=3.0)
    parser.add_argument("--crop-until", type=float, default=0.75, help="share on windows")
    parser.add_argument("--print-every", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--bf16", action="store_true", help="in bfloat16: faster where the CPU has it, else slower"
    )
    args = parser.parse_args()
    other = VARIANTS.get(args.variant)
    args.sizes = other.sizes[args.family] if other else {}
    args.name = args.name or args.family + (args.variant and f"-{args.variant}")
    if other:
        args.seed = other.seed
        if args.start == "bundled" or args.fit_codec or args.fit_kernels:
            parser.error("a variant starts from random weights and takes the bundled codec")
    torch.set_num_threads(args.threads)
    F.scaled_dot_product_attention = plain_attention
    args.work_dir.mkdir(parents=True, exist_ok=True)
    if args.fit_codec or args.fit_kernels or not tiny.codec_path(args.family).exists():
        fit_codec(args.family, kernels_only=args.fit_kernels and not args.fit_codec)
    checkpoint = args.work_dir / f"{args.name}.pt"
    if args.minutes or args.steps:
        weights = train(args, args.work_dir)
    elif checkpoint.exists():
        weights = torch.load(checkpoint)["average"]
    else:
        weights = tiny.to_diffusers_keys(args.family, load_file(tiny.weights_path(args.family)))
    if other:
        print("wrote", export(args.family, weights, args.work_dir / f"{args.name}.safetensors"))
    elif args.export:
        print("wrote", export(args.family, weights))
    if args.sheet:
        path = args.work_dir / f"{args.name}_sheet.png"
        sample_sheet(args.family, weights, path, args.sheet, args.sheet_steps, **args.sizes)
        print("wrote", path)


if __name__ == "__main__":
    main()
