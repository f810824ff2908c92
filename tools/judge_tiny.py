"""Judge the clips of the tiny models: does the named shape, colour and motion come out?

    python tools/judge_tiny.py --work-dir .train

A small convolutional classifier is trained on procedural clips at a fixed seed (about three
minutes on one core, kept in the work directory) and first judged itself: on fresh procedural clips
of the held-out prompts, as drawn and after a round trip through each codec. Then each bundled model
samples every held-out prompt, and the shares of clips are printed whose shape, colour, motion, and
all three at once, the classifier reads as the prompt says. ``--sheets`` writes contact sheets too.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sencache_core import tiny
from sencache_core.tiny import data
from sencache_core.tiny.sheet import contact_sheet

FRAMES, SIDE = 7, 64
ATTRIBUTES = {"shape": data.SHAPES, "colour": tuple(data.COLOURS), "motion": tuple(data.MOTIONS)}


class Judge(nn.Module):
    """Reads shape, colour and motion off clips of ``FRAMES`` frames and ``SIDE`` pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.frame = nn.Sequential(
            nn.Conv2d(3, 16, 5, 2, 2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(32, 48, 3, 2, 1),
            nn.ReLU(),
        )
        self.clip = nn.Sequential(
            nn.Conv2d(48 * FRAMES, 128, 3, 1, 1), nn.ReLU(), nn.Conv2d(128, 128, 3, 2, 1), nn.ReLU()
        )
        self.pooled = nn.Linear(48, 64)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(128 * 16 + 64, len(words)) for name, words in ATTRIBUTES.items()}
        )

    def forward(self, clips: torch.Tensor) -> dict[str, torch.Tensor]:
        """``[B, FRAMES, 3, SIDE, SIDE]`` in 0..1 -> scores ``[B, words]`` per attribute."""
        cells = self.frame(clips.flatten(0, 1) * 2 - 1)
        # The strongest response over space and time tells shape and colour wherever they are.
        strongest = self.pooled(cells.amax((2, 3)).unflatten(0, (-1, FRAMES)).mean(1))
        cells = self.clip(cells.view(len(clips), -1, *cells.shape[2:])).flatten(1)
        features = torch.cat([cells, strongest], 1)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, clips: torch.Tensor) -> list[dict[str, str]]:
        """Most likely words for clips ``[B, F, 3, H, W]`` in 0..1 of any size."""
        chosen = torch.linspace(0, clips.shape[1] - 1, FRAMES).round().long()
        small = F.interpolate(clips[:, chosen].flatten(0, 1), (SIDE, SIDE), mode="area")
        best = {k: v.argmax(1).tolist() for k, v in self(small.unflatten(0, (-1, FRAMES))).items()}
        return [
            {name: ATTRIBUTES[name][best[name][i]] for name in ATTRIBUTES}
            for i in range(len(clips))
        ]


def disturb(clips: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift, blur and noise, so that the judge reads what a viewer would, not the pixels."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    flat = clips.flatten(0, 1)
    flat = F.pad(flat, (4, 4, 4, 4), mode="replicate")
    left, top = (int(uniform(0, 8.99)) for _ in range(2))
    flat = flat[..., top : top + SIDE, left : left + SIDE]
    if (blur := uniform(-0.5, 1.0)) > 0:
        flat = torch.lerp(flat, F.avg_pool2d(flat, 3, 1, 1, count_include_pad=False), blur)
    flat = flat + uniform(0, 0.06) * torch.randn(flat.shape, generator=generator)
    return flat.view_as(clips)


def train_judge(steps: int, batch: int = 32, seed: int = 5) -> Judge:
    """Train on fresh procedural clips, all combinations of words alike."""
    torch.manual_seed(seed)
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    judge = Judge()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    tables = (data.COLOURS, data.SHAPES, data.MOTIONS, data.TONES, data.PATTERNS)
    for step in (bar := tqdm(range(steps), desc="judge", mininterval=5)):
        specs = [data.ClipSpec(*(rng.choice(list(t)) for t in tables)) for _ in range(batch)]
        clips = torch.stack(
            [
                data.make_clip(spec, seed=20_000_000 + step * batch + i, size=(FRAMES, SIDE))
                for i, spec in enumerate(specs)
            ]
        )
        scores = judge(disturb(clips, generator))
        loss = sum(
            F.cross_entropy(
                scores[name], torch.tensor([words.index(getattr(s, name)) for s in specs])
            )
            for name, words in ATTRIBUTES.items()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return judge.eval()


def load_judge(work_dir: Path, steps: int) -> Judge:
    """The judge of the work directory, trained first if there is none."""
    path = work_dir / "judge.pt"
    if path.exists():
        judge = Judge().eval()
        judge.load_state_dict(torch.load(path))
        return judge
    judge = train_judge(steps)
    work_dir.mkdir(parents=True, exist_ok=True)
    torch.save(judge.state_dict(), path)
    return judge


def shares(judge: Judge, clips: torch.Tensor, prompts: list[str]) -> dict[str, float]:
    """Share of clips read as their prompt says, per attribute and for all three together."""
    right = [
        {name: word == getattr(data.parse_prompt(prompt), name) for name, word in words.items()}
        for words, prompt in zip(judge.read(clips), prompts, strict=True)
    ]
    out = {name: sum(row[name] for row in right) / len(right) for name in ATTRIBUTES}
    return out | {"all": sum(all(row.values()) for row in right) / len(right)}


def report(label: str, result: dict[str, float]) -> None:
    """Print one line."""
    figures = "  ".join(f"{name} {share:6.1%}" for name, share in result.items())
    print(f"{label:34} {figures}", flush=True)


def sampled(family: str, prompts: list[str], seed: int, steps: int | None) -> torch.Tensor:
    """Decoded clips of the bundled model, one per prompt."""
    module = tiny.load_diffusers(family)
    clips = []
    for start in range(0, len(prompts), 8):
        part = prompts[start : start + 8]
        clips.append(tiny.sample(family, module, part, seed=seed + start, steps=steps))
    return tiny.decode_video(family, torch.cat(clips))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=list(tiny.SPECS), action="append")
    parser.add_argument("--work-dir", type=Path, default=Path(".train"))
    parser.add_argument("--judge-steps", type=int, default=900)
    parser.add_argument("--clips", type=int, default=1, help="procedural clips per prompt")
    parser.add_argument("--seed", type=int, default=100, help="seed of the first sample")
    parser.add_argument("--steps", type=int, default=None, help="sampling steps")
    parser.add_argument("--sheets", action="store_true", help="write a contact sheet per family")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    judge = load_judge(args.work_dir, args.judge_steps)
    prompts = tiny.held_out_prompts()
    for family in args.family or tiny.SPECS:
        pairs = list(itertools.product(range(args.clips), prompts))
        clips = torch.stack(
            [tiny.make_clip(p, family, seed=30_000_000 + seed) for seed, p in pairs]
        )
        names = [prompt for _, prompt in pairs]
        report(f"{family}, {len(clips)} procedural clips", shares(judge, clips, names))
        codec = tiny.Codec.load(family)
        decoded = torch.stack([codec.decode(codec.encode(clip)) for clip in clips])
        report(f"{family}, after the codec", shares(judge, decoded, names))
        samples = sampled(family, prompts, args.seed, args.steps)
        report(f"{family}, {len(prompts)} samples", shares(judge, samples, prompts))
        if args.sheets:
            path = args.work_dir / f"{family}_judged.png"
            contact_sheet(samples, prompts, path, every=3)
            print("wrote", path)


if __name__ == "__main__":
    main()
