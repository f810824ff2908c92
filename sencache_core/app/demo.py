"""The bundled tiny models with and without the cache, and calibration on them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ..config import CacheConfig
from ..forecast.reuse import REUSE_RULES, Fitted
from ..measure.calibration import PROBES, Calibration
from ..measure.profile import Profile, ProfileHeader, combine
from ..measure.profile_file import check_writable
from ..model.families import FAMILIES
from ..model.fingerprint import fingerprint
from ..policies import POLICIES, Planned
from ..run.stats import RunReport
from ..tiny import (
    COG_SCHEDULER,
    SPECS,
    calibration_prompts,
    decode_video,
    encode_prompt,
    forward,
    held_out_prompts,
    load_diffusers,
    weights_path,
)
from . import plots
from .metrics import Comparison, compare

#: What has to be said wherever figures of this module are shown.
CAVEAT = (
    "Tiny models (5 to 6 million parameters) trained on synthetic clips: these figures show that "
    "the cache works, and say nothing about real models."
)


#: Fewest pairs of runs that times are the medians of, and most clips in the pictures.
PAIRS, SHOWN = 3, 8


def run_demo(
    families: Sequence[str],
    budget: float,
    out_dir: str | Path,
    clips: int = 4,
    steps: int | None = None,
    rule: str = Fitted.name,
    policy: str = Planned.name,
    profile: Profile | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Sample held-out prompts without and with the cache, from the same noise.

    Writes for each family ``<family>.webp`` (uncached and cached clips side by side),
    ``<family>_frames.png``, ``<family>_stats.png`` and ``<family>.json`` (figures and run reports).

    Args:
        families: keys of ``tiny.SPECS``.
        budget: share of evaluations to spend, in (0, 1].
        out_dir: folder for the files; made if missing.
        clips: clips per family, one prompt and seed each.
        steps: sampling steps; ``None`` takes the family's default (50).
        rule: key of ``REUSE_RULES``.
        policy: key of ``POLICIES``.
        profile: measured sensitivities of one of the families; others use the built-in prior.
        progress: show a progress bar.

    Returns:
        One dictionary a family: ``family, steps, budget, policy, rule, clips, evaluations`` (mean
        of a clip), ``seconds_uncached, seconds_cached`` (medians of a clip, run in turns),
        ``speedup`` (the first by the second), ``psnr_mean, psnr_worst`` (dB, over all frames),
        ``ssim_mean``, ``messages`` (what the runs' reports say), ``files``.

    Raises:
        ValueError: unknown family, policy or rule, a budget outside (0, 1], or a profile of none
            of the families.
        FileNotFoundError: the weights of a family are not there.
        ImportError: the ``demo`` extra is not installed.
        ProfileError: the profile was measured at another tap.
    """
    for name, table in ((policy, POLICIES), (rule, REUSE_RULES), *((f, SPECS) for f in families)):
        if name not in table:
            raise ValueError(f"{name!r} is not one of {', '.join(table)}")
    if clips < 1 or (steps is not None and steps < 2):
        raise ValueError("need at least one clip and two steps")
    if profile and profile.header.family not in families:
        raise ValueError(
            f"the profile is of {profile.header.family}, the demo is of {', '.join(families)}"
        )
    for family in families:
        check_weights(family)
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for family in families:
        fitting = profile if profile and profile.header.family == family else None
        config = CacheConfig(
            policy=POLICIES[policy](),
            rule=REUSE_RULES[rule](),
            budget=budget,
            profile=fitting,
            aim="same",  # its figures are likeness to the uncached clip
        )
        results.append(_demo(family, config, out, clips, steps or SPECS[family].steps, progress))
    return results


def _demo(
    family: str, config: CacheConfig, out: Path, clips: int, steps: int, progress: bool
) -> dict[str, Any]:
    from ..hosts.diffusers import attach

    module, scheduler = load_diffusers(family), make_scheduler(family)
    known, pairs = held_out_prompts(), max(clips, PAIRS)
    prompts = [known[k % len(known)] for k in range(clips)]
    seconds: dict[bool, list[float]] = {True: [], False: []}
    reports, rows, figures = [], [], []
    with (
        _fastest_threads(family, module),
        _counted(getattr(module, FAMILIES[family].diffusers_places.blocks)[0]) as count,
        _bar(progress, 2 * pairs * steps, family) as tick,
    ):
        for k in range(pairs):
            prompt, seed, latents = prompts[k % clips], k % clips, {}
            # In turns, each first as often: what else the machine does falls on both alike.
            for cached in (False, True) if k % 2 == 0 else (True, False):
                before = count()
                with (
                    attach(module, config, scheduler, learn=False)
                    if cached
                    else nullcontext() as cache
                ):
                    started = time.perf_counter()
                    latents[cached] = sample(family, module, scheduler, prompt, seed, steps, tick)
                    seconds[cached].append(time.perf_counter() - started)
                if cached:
                    (report,) = cache.reports
                    _agree(report, count() - before)
            if k < clips:
                reports.append(report)
                pair = [decode_video(family, latents[cached])[0] for cached in (False, True)]
                figures.append(compare(*pair))
                rows.append((prompt, *pair))
    names = {
        "video": f"{family}.webp", "frames": f"{family}_frames.png", "stats": f"{family}_stats.png"
    }  # fmt: skip
    plots.side_by_side([row[1:] for row in rows[:SHOWN]], out / names["video"], SPECS[family].fps)
    plots.contact_sheet(rows[:SHOWN], out / names["frames"])
    plots.stats_plot(reports[0], out / names["stats"])
    all_frames = Comparison(
        tuple(v for f in figures for v in f.psnr), tuple(v for f in figures for v in f.ssim)
    )
    result = {
        "family": family,
        "steps": steps,
        "budget": config.budget,
        "policy": config.policy.name,
        "rule": config.rule.name,
        "clips": clips,
        "evaluations": sum(r.evaluations for r in reports) / clips,
        "seconds_uncached": median(seconds[False]),
        "seconds_cached": median(seconds[True]),
        "speedup": median(seconds[False]) / median(seconds[True]),
        "psnr_mean": all_frames.psnr_mean,
        "psnr_worst": all_frames.psnr_worst,
        "ssim_mean": all_frames.ssim_mean,
        "messages": messages_of([report.to_dict() for report in reports]),
        "files": [str(out / name) for name in names.values()],
    }
    detail = {
        **result,
        "note": CAVEAT,
        "prompts": prompts,
        "psnr_of_clips": [f.psnr_mean for f in figures],
        "reports": [report.to_dict() for report in reports],
    }
    (out / f"{family}.json").write_text(json.dumps(detail, indent=1), encoding="utf-8")
    return result


def messages_of(reports: Sequence[dict[str, Any]]) -> list[str]:
    """What run reports, as dictionaries, say to the user, each sentence once."""
    said = [line for one in reports for line in (*one["messages"], one["why"]) if line]
    return list(dict.fromkeys(line["text"] for line in said))


def _agree(report: RunReport, evaluations: int) -> None:
    """Raises RuntimeError where the report counts other evaluations than the network ran."""
    if evaluations != report.evaluations:
        raise RuntimeError(
            f"the network ran {evaluations} times, the report says {report.evaluations}"
        )


@torch.no_grad()
def sample(
    family: str,
    module: nn.Module,
    scheduler: Any,
    prompt: str,
    seed: int,
    steps: int,
    tick=lambda: None,
    saw=lambda x, output, t: None,
) -> Tensor:
    """One clip's latent ``[1, C, F, H, W]``, by diffusers' own scheduler, guidance in one batch."""
    spec = SPECS[family]
    positive = encode_prompt(prompt)
    context = torch.stack([encode_prompt(spec.negative), positive])
    x = torch.randn((1, *spec.latent), generator=torch.Generator().manual_seed(seed))
    if spec.prediction == "flow":
        # By number of steps alone, this scheduler shifts its smallest noise level twice.
        scheduler.set_timesteps(sigmas=[1 - k / steps for k in range(steps)])
    else:
        scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        time_of_model = t if spec.prediction == "v" else t / 1000
        with module.cache_context("cond_uncond"):
            both = forward(family, module, torch.cat([x, x]), time_of_model, context)
        negative, positive = both.chunk(2)
        guided = negative + spec.guidance * (positive - negative)
        saw(x, guided, t)
        x = scheduler.step(guided, t, x, return_dict=False)[0]
        tick()
    return x


def make_scheduler(family: str) -> Any:
    """diffusers' scheduler for a family, with the settings of ``tiny.SPECS``."""
    try:
        import diffusers
    except ImportError as error:
        raise ImportError(
            "the demo needs diffusers: in the source tree, pip install -e '.[demo]'"
        ) from error
    if SPECS[family].prediction == "v":
        return diffusers.CogVideoXDDIMScheduler(**COG_SCHEDULER)
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=SPECS[family].shift)


def calibrate(
    family: str,
    out: str | Path,
    samples: int = 8,
    steps: int | None = None,
    progress: bool = True,
    probes: int = PROBES,
) -> tuple[Profile, bool]:
    """Measure a bundled model on trajectories of training prompts, and save the profile.

    What was measured is saved after every sample and at an interruption, which loses one run at
    most.

    Args:
        family: key of ``tiny.SPECS``.
        out: file to write.
        samples: trajectories to average.
        steps: sampling steps; ``None`` takes the family's default (50).
        progress: show a progress bar.
        probes: runs of each sample in which errors are followed to the end, by parts of a run.

    Returns:
        The profile, and whether all samples were measured (``False`` after Ctrl-C).

    Raises:
        KeyboardInterrupt: interrupted before the first sample was complete.
        ValueError, FileNotFoundError, ImportError: as for :func:`run_demo`; a place that cannot be
            written to is told before the first sample.
    """
    from ..hosts.diffusers import record

    if family not in SPECS:
        raise ValueError(f"{family!r} is not one of {', '.join(SPECS)}")
    if samples < 1 or (steps is not None and steps < 2):
        raise ValueError("need at least one sample and two steps")
    spec, steps = SPECS[family], steps or SPECS[family].steps
    check_weights(family)
    check_writable(out)
    module, scheduler = load_diffusers(family), make_scheduler(family)
    prompts = calibration_prompts()
    runs = Calibration(probes)
    total = steps * samples * runs.runs_of(steps)
    with (
        _fastest_threads(family, module),
        _bar(progress, total, family) as tick,
        record(module, scheduler, None, spec.guidance, probes, layers=True) as measured,
    ):

        def save() -> Profile:
            measured.close()
            header = ProfileHeader(
                family=family,
                fingerprint=fingerprint(module),
                sampler="ddim" if spec.prediction == "v" else "euler",
                scheduler=type(scheduler).__name__,
                sigmas=tuple(step.sigma for step in measured.reports[0].steps),
                guidance=spec.guidance,
                shape=(2, *spec.latent),
                dtype="float32",
                samples=len(measured.recordings),
                source="sencache calibrate, bundled tiny model",
            )
            profile = combine(measured.recordings, header)
            profile.save(out)
            return profile

        try:
            for seed in range(samples):
                for _ in range(runs.runs_of(steps)):
                    prompt = prompts[seed % len(prompts)]
                    sample(family, module, scheduler, prompt, seed, steps, tick)
                profile = save()
        except KeyboardInterrupt:
            measured.close()
            if not measured.recordings:
                raise
            return save(), False
    return profile, True


def check_weights(family: str) -> None:
    """Raises FileNotFoundError where the weights of a tiny model are missing."""
    if not weights_path(family).is_file():
        raise FileNotFoundError(f"the weights of the tiny {family} model are not installed")


@contextmanager
def _counted(block: nn.Module) -> Iterator:
    """Counts how often a block really runs; give the first one, which reuse never reaches."""
    calls = [0]

    def note(*_) -> None:
        calls[0] += 1

    hook = block.register_forward_hook(note)
    try:
        yield lambda: calls[0]
    finally:
        hook.remove()


@contextmanager
def _fastest_threads(family: str, module: nn.Module) -> Iterator[None]:
    """One thread or the usual number, whichever runs the network faster just now.

    On a machine whose cores are taken, threads of small networks wait for each other ten times
    longer than they compute.
    """
    usual, spec, seconds = torch.get_num_threads(), SPECS[family], {}
    x, context = torch.randn(2, *spec.latent), torch.zeros(2, 8, 4096)
    try:
        for threads in sorted({1, usual}):
            torch.set_num_threads(threads)
            for _ in range(2):
                started = time.perf_counter()
                with torch.no_grad():
                    forward(family, module, x, 0.5 if spec.prediction == "flow" else 500, context)
                spent = time.perf_counter() - started
                seconds[threads] = min(spent, seconds.get(threads, spent))
        torch.set_num_threads(min(seconds, key=seconds.get))
        yield
    finally:
        torch.set_num_threads(usual)


@contextmanager
def _bar(show: bool, total: int, title: str) -> Iterator:
    if not show:
        yield lambda: None
        return
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(
            "the progress bar needs tqdm: in the source tree, pip install -e '.[demo]'"
        ) from error
    with tqdm(total=total, desc=title, unit="step", mininterval=0.5) as bar:
        yield lambda: bar.update()
