"""Learning from ordinary runs in a live ComfyUI: one graph queued again and again.

``python -m benchmarks.live --weights FILE --plot learning.png`` starts ComfyUI (``COMFYUI_PATH``,
or ``~/ComfyUI``) and queues the tiny Wan graph once for each prompt, three clips each from the same
noise: uncached, cached with learning, and cached by the bundled prior alone. It prints the PSNR of
the two to the uncached clip, what each plan rests on, and the size of what was learnt.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from shutil import copy2

from sencache_core.app import comfy_demo
from sencache_core.tiny import held_out_prompts, weights_path

from .models import REGIMES, Regime

#: Nodes of the demo's graph.
LOADER, PROMPT, SHIFT, APPLY, CACHED, UNCACHED, DECODED, TRUTH = (
    "2",
    "3",
    "5",
    "7",
    "8",
    "9",
    "12",
    "14",
)
#: Nodes that are added to it: apply, sampler, stats and decoder without learning; comparisons.
PLAIN, PLAIN_RUN, PLAIN_STATS, PLAIN_DECODED, LEARNT_DB, PLAIN_DB = (f"9{k}" for k in range(6))


def graph(weights: str, regime: Regime, budget: float, prompt: str, seed: int) -> dict:
    """A prompt for ComfyUI's ``/prompt`` route."""
    nodes = json.loads(comfy_demo.PROMPT.read_text(encoding="utf-8"))
    for pictures in ("11", "13", "15", "16", "17"):
        del nodes[pictures]
    nodes[LOADER]["inputs"]["unet_name"] = weights
    nodes[PROMPT]["inputs"]["text"] = prompt
    nodes[SHIFT]["inputs"]["shift"] = regime.shift
    nodes[APPLY]["inputs"] |= {"budget": budget, "learn": "on"}
    for sampler in (CACHED, UNCACHED):
        nodes[sampler]["inputs"] |= {"seed": seed, "steps": regime.steps, "cfg": regime.guidance}

    def like(node: str, **inputs) -> dict:
        return {**nodes[node], "inputs": nodes[node]["inputs"] | inputs}

    nodes[PLAIN] = like(APPLY, learn="off")
    nodes[PLAIN_RUN] = like(CACHED, model=[PLAIN, 0])
    nodes[PLAIN_STATS] = like("10", latent=[PLAIN_RUN, 0], stats=[PLAIN, 1])
    nodes[PLAIN_DECODED] = like(DECODED, latent=[PLAIN_STATS, 0])
    for name, clip in ((LEARNT_DB, DECODED), (PLAIN_DB, PLAIN_DECODED)):
        compared = {"amplify": 4.0, "reference": [TRUTH, 0], "image": [clip, 0]}
        nodes[name] = {"class_type": "SenCacheCompare", "inputs": compared}
        nodes[f"{name}0"] = {"class_type": "PreviewImage", "inputs": {"images": [name, 4]}}
    return nodes


def live(
    comfyui: Path, weights: Path, regime: Regime, budget: float, runs: int, base: Path
) -> Iterator[tuple[float, float, str, int]]:
    """Queue the graph ``runs`` times.

    Yields:
        For each time PSNR with and without learning in dB, what the plan with learning rests on,
        and bytes learnt so far.

    Raises:
        ComfyError: ComfyUI did not start, or refused or failed.
    """
    prompts = held_out_prompts()
    with comfy_demo.serve(comfyui, base, base / "server.log") as (url, process):
        (base / "models" / "diffusion_models").mkdir(exist_ok=True)
        copy2(weights, base / "models" / "diffusion_models" / weights.name)
        for k in range(runs):
            body = graph(weights.name, regime, budget, prompts[k % len(prompts)], k)
            entry = comfy_demo.queue(url, process, body)
            shown = entry["outputs"]
            learnt, plain = (float(shown[n]["text"][0].split()[1]) for n in (LEARNT_DB, PLAIN_DB))
            run = comfy_demo.runs_in(shown["10"])[-1]
            folder = base / "user" / "default" / "sencache" / "learnt"
            size = sum(file.stat().st_size for file in folder.glob("**/*") if file.is_file())
            rests = run["basis"] + (f" {run['learnt_from']}" if run.get("learnt_from") else "")
            yield learnt, plain, rests, size


def plot(rows: list[tuple[float, float, str, int]], title: str, file: Path) -> None:
    """What learning gains over the number of runs before."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    axis.axhline(0, color="grey", lw=1)
    gains = [learnt - plain for learnt, plain, *_ in rows]
    axis.bar(range(len(rows)), gains, color="tab:blue", alpha=0.5, label="this clip")
    means = [sum(gains[max(0, k - 4) : k + 1]) / min(5, k + 1) for k in range(len(rows))]
    axis.plot(means, color="tab:blue", label="mean of the last five")
    axis.set(xlabel="runs before", ylabel="PSNR gained over the bundled prior, dB", title=title)
    axis.legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=weights_path("wan"), help="a Wan model's")
    parser.add_argument("--regime", choices=list(REGIMES), default="rough")
    parser.add_argument("--budget", type=float, default=0.5)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--plot", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    comfyui = Path(os.environ.get("COMFYUI_PATH") or "~/ComfyUI").expanduser()
    rows = []
    with tempfile.TemporaryDirectory(prefix="sencache-") as base:
        print("run  learnt  prior  plan rests on    bytes learnt")
        where = arguments.weights.expanduser(), REGIMES[arguments.regime], arguments.budget
        for row in live(comfyui, *where, arguments.runs, Path(base)):
            rows.append(row)
            print(
                f"{len(rows):3d}  {row[0]:6.1f} {row[1]:6.1f}  {row[2]:15s}  {row[3]}", flush=True
            )
    half = rows[len(rows) // 2 :]
    gained = sum(learnt - plain for learnt, plain, *_ in half) / len(half)
    print(f"gained by learning, mean of the second half: {gained:+.1f} dB")
    if arguments.plot:
        plot(rows, f"{arguments.weights.stem}, {arguments.regime}", arguments.plot)


if __name__ == "__main__":
    main()
