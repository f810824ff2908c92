"""The ``sencache`` command."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import numpy as np

from .. import __version__
from ..forecast.reuse import REUSE_RULES, Fitted
from ..measure.authors import AUTHORS_NUMEL, import_npz
from ..measure.profile import Profile
from ..model.families import FAMILIES
from ..policies import POLICIES, Planned
from ..tiny import SPECS
from ..tiny.sampling import cog_alphas
from . import blocks, left
from .comfy_demo import ComfyError, run_comfyui

#: Rows that ``profile show`` prints at most.
ROWS = 12


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Errors that the user can mend print one line and give 2; what a command's own code 1 means, its
    help says.
    """
    try:
        arguments = _parser().parse_args(argv)
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("sencache: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, ComfyError) as error:
        print(f"sencache: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


class _Parser(argparse.ArgumentParser):
    """Wrong arguments raise ValueError, as everything else does that the user can mend."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message.removeprefix("argument "))


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"a budget is a share above 0 and up to 1, not {text!r}")
    return value


def _shares(text: str) -> list[float]:
    return [_share(part) for part in text.split(",")]


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"a whole number from {least} on, not {text!r}")
        return value

    return number


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sencache", description="Skip the calls of a video diffusion model that change little."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="sample bundled tiny models with and without the cache")
    demo.add_argument("--family", choices=[*SPECS, "all"], help="model to sample (all)")
    demo.add_argument("--budget", type=_share, default=0.5, help="share of evaluations (0.5)")
    demo.add_argument("--steps", type=_at_least(2), help="sampling steps (50)")
    demo.add_argument("--clips", type=_at_least(1), help="clips per family (4)")
    demo.add_argument("--rule", choices=list(REUSE_RULES), default=Fitted.name)
    demo.add_argument("--policy", choices=list(POLICIES), help=f"({Planned.name})")
    demo.add_argument("--profile", metavar="FILE", help="measured sensitivities to use")
    demo.add_argument("--out", metavar="DIR", default="sencache-demo", help="folder for the clips")
    demo.add_argument("--json", metavar="FILE", help="also write the figures as JSON")
    demo.add_argument(
        "--animate", metavar="WEBP", help="only draw one clip as it is sampled, without and with"
    )
    demo.add_argument(
        "--comfyui", metavar="DIR", help="run the example workflow in this ComfyUI instead"
    )
    demo.set_defaults(run=_demo)

    calibrate = commands.add_parser("calibrate", help="measure the profile of a bundled tiny model")
    calibrate.add_argument("--family", choices=list(SPECS), required=True)
    samples = {"type": _at_least(1), "default": 8}
    calibrate.add_argument("--samples", **samples, help="trajectories to average (8)")
    calibrate.add_argument("--steps", type=_at_least(2), help="sampling steps (50)")
    calibrate.add_argument("--out", metavar="FILE", required=True)
    calibrate.set_defaults(run=_calibrate)

    bench = commands.add_parser(
        "bench",
        help="compare caching methods at the same cost",
        epilog="A method that cannot run has its error in the row. The exit code is 1 if a method "
        "named with --methods failed anywhere, or if nothing could be measured of some model and "
        "regime; failed rows are listed at the end in any case.",
    )
    bench.add_argument(
        "--json", metavar="FILE", required=True, help="rows, rewritten after each clip"
    )
    bench.add_argument("--family", choices=list(SPECS), action="append", help="may be repeated")
    bench.add_argument("--regime", choices=["smooth", "rough"], action="append", help="as --family")
    bench.add_argument("--sampler", action="append", help="of ComfyUI, run there; as --family")
    bench.add_argument("--budgets", type=_shares, default=[0.5, 0.36], help="shares (0.5,0.36)")
    bench.add_argument("--samples", type=_at_least(1), default=16, help="test clips (16)")
    bench.add_argument("--tune-samples", type=_at_least(1), default=2, help="to tune on (2)")
    bench.add_argument("--calibration-samples", **samples, help="to calibrate on (8)")
    bench.add_argument("--methods", type=_names, metavar="A,B", help="only these, by name")
    bench.add_argument(
        "--checkpoint",
        metavar="PATH",
        action="append",
        help="safetensors, or a folder of diffusers, to use instead; may be repeated",
    )
    bench.add_argument("--config", metavar="FILE", help="JSON that describes the checkpoints")
    bench.add_argument(
        "--references", metavar="DIR", help="exact solutions and uncached clips, kept between runs"
    )
    bench.add_argument("--resume", action="store_true", help="keep the file's rows, add the others")
    bench.set_defaults(run=_bench)

    methods = commands.add_parser(
        "methods", help="every caching method: what it does, and where it runs"
    )
    methods.add_argument("--json", metavar="FILE", help="run each on tiny models, write what came")
    methods.add_argument("--family", action="append", help="may be repeated (all)")
    methods.add_argument("--host", choices=["comfyui", "diffusers"], action="append", help="(both)")
    methods.add_argument("--methods", type=_names, metavar="A,B", help="only these, by name")
    methods.set_defaults(run=_methods)

    profile = commands.add_parser("profile", help="look at a profile, or import one")
    actions = profile.add_subparsers(required=True, metavar="ACTION")
    show = actions.add_parser("show", help="print what a profile holds")
    show.add_argument("file", metavar="FILE")
    show.add_argument("--plot", metavar="PNG", help="also draw its curves")
    show.set_defaults(run=_show)
    load = actions.add_parser("import", help="convert a table published by the paper's authors")
    load.add_argument("file", metavar="FILE.npz")
    load.add_argument("--family", choices=list(AUTHORS_NUMEL), required=True)
    load.add_argument("--out", metavar="FILE", required=True)
    load.set_defaults(run=_import)

    blocks.add_command(commands)
    left.add_commands(commands)
    return parser


def _demo(arguments: argparse.Namespace) -> int:
    if arguments.comfyui:
        return _demo_in_comfyui(arguments)
    if arguments.animate:
        return _animate(arguments)
    from .demo import CAVEAT, run_demo

    _make_folder(arguments.json)
    results = run_demo(
        list(SPECS) if arguments.family in (None, "all") else [arguments.family],
        budget=arguments.budget,
        out_dir=arguments.out,
        clips=arguments.clips or 4,
        steps=arguments.steps,
        rule=arguments.rule,
        policy=arguments.policy or Planned.name,
        profile=Profile.load(arguments.profile) if arguments.profile else None,
    )
    print("                                      seconds a clip, median")
    print("family     evaluations  share asked   uncached   cached  speed-up  ", end="")
    print("PSNR mean / worst   SSIM mean")
    for r in results:
        print(
            f"{r['family']:9s}  {r['evaluations']:5.1f} of {r['steps']:<3d}"
            f"  {r['evaluations'] / r['steps']:5.2f} {r['budget']:5.2f}"
            f"   {r['seconds_uncached']:8.2f} {r['seconds_cached']:8.2f}"
            f"  {r['speedup']:7.2f}x  {r['psnr_mean']:6.1f} / {r['psnr_worst']:5.1f} dB"
            f"  {r['ssim_mean']:10.4f}"
        )
    for message in dict.fromkeys(line for r in results for line in r["messages"]):
        sayers = [r["family"] for r in results if message in r["messages"]]
        print(f"{', '.join(sayers)}: {message}")
    print(CAVEAT)
    print(f"Clips, plots and reports: {Path(arguments.out).resolve()}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def _animate(arguments: argparse.Namespace) -> int:
    from .animation import animate
    from .demo import CAVEAT

    family = "wan" if arguments.family in (None, "all") else arguments.family
    made = animate(arguments.animate, family, arguments.budget, arguments.steps)
    print(
        f"{made['prompt']}: {made['evaluations']} of {made['steps']} steps computed, "
        f"{made['seconds_uncached']:.2f} s uncached and {made['seconds_cached']:.2f} s cached "
        f"(one thread's own time), {made['psnr_mean']:.1f} dB"
    )
    print(f"{arguments.animate}\n{CAVEAT}")
    return 0


def _demo_in_comfyui(arguments: argparse.Namespace) -> int:
    from .demo import CAVEAT

    names = ("policy", "clips", "profile")
    given = [f"--{name}" for name in names if getattr(arguments, name) is not None]
    if arguments.family not in (None, "wan"):
        given.insert(0, f"--family {arguments.family}")
    if given:
        raise ValueError(
            f"--comfyui runs the example workflow of the tiny Wan model: no {', '.join(given)}"
        )
    _make_folder(arguments.json)
    result = run_comfyui(
        arguments.comfyui, arguments.out, arguments.budget, arguments.steps, arguments.rule
    )
    for line in (*result["summaries"], *result["messages"], *result["texts"], CAVEAT):
        print(line)
    print(f"Clips, history and server log: {Path(arguments.out).resolve()}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def _make_folder(file: str | None) -> None:
    """The folder of a file that is written at the end, so that nothing is lost then."""
    if file:
        Path(file).parent.mkdir(parents=True, exist_ok=True)


def _calibrate(arguments: argparse.Namespace) -> int:
    from .demo import calibrate

    profile, complete = calibrate(
        arguments.family, arguments.out, arguments.samples, arguments.steps
    )
    done = f"{profile.header.samples} of {arguments.samples} samples"
    moments = profile.moments
    followed = "with" if moments is not None and moments.gain is not None else "without"
    levels = f"{len(profile.t)} noise levels"
    print(f"{arguments.out}: {done}, {levels}, {followed} terminal sensitivity")
    if not complete:
        print("sencache: interrupted; what had been measured is saved", file=sys.stderr)
        return 130
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    return _in_the_tree("bench", "bench", arguments)


def _methods(arguments: argparse.Namespace) -> int:
    _make_folder(arguments.json)
    return _in_the_tree("catalogue", "run", arguments)


def _in_the_tree(module: str, function: str, arguments: argparse.Namespace) -> int:
    """A command of the folder ``benchmarks``, which no wheel has; it imports more than we need."""
    try:
        return getattr(import_module(f"benchmarks.{module}"), function)(arguments)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"this command needs {error.name}: in the source tree, pip install -e '.[bench]'"
        ) from error


def _show(arguments: argparse.Namespace) -> int:
    profile = Profile.load(arguments.file)
    header = profile.header
    facts = {
        "family": header.family,
        "source": header.source,
        "samples": header.samples or "unknown",
        "sampler": header.sampler,
        "guidance": f"{header.guidance:g}" if header.guidance else "",
        "latent": " x ".join(map(str, header.shape)),
        "dtype": header.dtype,
        "tap": header.tap,
        "checkpoint": header.fingerprint,
    }
    for name, value in facts.items():
        if value:
            print(f"{name:11s} {value}")
    columns = {"t": profile.t, **profile.mean, **_followed(profile)}
    print("\n" + "".join(f"{name:>12s}" for name in columns))
    for row in np.unique(np.linspace(0, len(profile.t) - 1, ROWS).round().astype(int)):
        print("".join(f"{column[row]:12.4f}" for column in columns.values()))
    if arguments.plot:
        from .plots import profile_plot

        profile_plot(profile, arguments.plot)
    return 0


def _followed(profile: Profile) -> dict[str, np.ndarray]:
    """How errors travel to the end of the run, by curve name; nothing if it was not measured."""
    moments = profile.moments
    if moments is None or moments.gain is None:
        return {}
    gains = moments.gains_at(profile.t)
    return {
        "gain": np.array([moments.gain_at(t) for t in profile.t]),
        "gain min": gains.min(axis=0),
        "gain max": gains.max(axis=0),
        "response": np.array([moments.response_at(t) for t in profile.t]),
    }


def _import(arguments: argparse.Namespace) -> int:
    family = FAMILIES[arguments.family]
    to_t = flow_time if family.prediction == "flow" else cogvideox_time
    profile = import_npz(arguments.file, family, to_t, AUTHORS_NUMEL[family.name])
    profile.save(arguments.out)
    print(f"{arguments.out}: {len(profile.t)} noise levels of {family.title}")
    return 0


def flow_time(timestep: float) -> float:
    """Coordinate of a flow model's timestep 0..1000."""
    return timestep / 1000


def cogvideox_time(timestep: float) -> float:
    """Coordinate of a timestep 0..999 of CogVideoX1.5-5B, whole or not, linear between whole ones.

    Its training schedule: scaled-linear betas 0.00085 to 0.012, zero terminal SNR. Beyond the ends
    the last slope goes on, so that a derivative can be taken there.
    """
    alphas = cog_alphas().double()
    low = min(max(math.floor(timestep), 0), len(alphas) - 2)
    ends = [math.acos(math.sqrt(float(a))) * 2 / math.pi for a in alphas[low : low + 2]]
    return ends[0] + (timestep - low) * (ends[1] - ends[0])


if __name__ == "__main__":
    sys.exit(main())
