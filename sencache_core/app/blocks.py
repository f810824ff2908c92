"""``sencache profile-blocks``: which blocks of a bundled model may be reused."""

from __future__ import annotations

import argparse

from ..measure.blocks import ATTENTION, BACKGROUND, CHANGE, BlockProfile
from ..measure.profile import ProfileError
from ..tiny import SPECS
from .demo import calibration_prompts, load_diffusers, make_scheduler, sample


def profile_blocks(family: str, seed: int = 0, steps: int | None = None) -> BlockProfile:
    """What one uncached run of a bundled model shows of its blocks.

    Args:
        family: key of ``tiny.SPECS``.
        seed: of the run's noise, and of its prompt.
        steps: sampling steps; ``None`` takes the family's default (50).

    Raises:
        ProfileError: too few steps.
    """
    from ..hosts.diffusers import watch_blocks

    module, scheduler, found = load_diffusers(family), make_scheduler(family), []
    prompts, steps = calibration_prompts(), steps or SPECS[family].steps
    with watch_blocks(module, found.append, scheduler):
        sample(family, module, scheduler, prompts[seed % len(prompts)], seed, steps)
    return found[0].profile()


def add_command(commands) -> None:
    """Add it to the subcommands of a parser."""
    command = commands.add_parser(
        "profile-blocks",
        help="which blocks of a bundled tiny model may be reused, for ProfilingDiT",
    )
    command.add_argument("--family", choices=list(SPECS), required=True)
    command.add_argument("--steps", type=int, help="sampling steps (50)")
    command.add_argument("--seed", type=int, default=0, help="of the clip (0)")
    share = {"type": float, "default": BACKGROUND, "metavar": "SHARE"}
    command.add_argument("--share", **share, help=f"of the blocks, that is reused ({BACKGROUND:g})")
    command.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.steps is not None and arguments.steps < 2:
        raise ValueError(f"--steps is a whole number from 2 on, not {arguments.steps}")
    if not 0 < arguments.share < 1:
        raise ValueError(f"--share lies between 0 and 1, not at {arguments.share:g}")
    profile = profile_blocks(arguments.family, arguments.seed, arguments.steps)
    print("by         blocks to reuse          what that changes of all that blocks add")
    for by in (CHANGE, ATTENTION):
        try:
            blocks = profile.background(by, arguments.share)
        except ProfileError as error:
            print(f"{by:9s}  {error}")
            continue
        listed = profile.listed(by, arguments.share)
        print(f"{by:9s}  {listed:22s}  {profile.expected(blocks):.3f}")
    return 0
