"""Signals: what a policy may look at before it decides, and where a host's module has it."""

from __future__ import annotations

from dataclasses import dataclass

#: Output of the time embedding's MLP, ``[B, width]``, one row a token where tokens have times of
#: their own.
TIME_EMBEDDING = "time embedding"
#: What it is projected to, once for all blocks: their scales, shifts and gates.
TIME_PROJECTION = "time projection"
#: What the first block's self-attention reads ``[B, tokens, dim]``: its input, normalised, scaled
#: and shifted.
MODULATED_INPUT = "modulated input"
#: The latent that the sampler asks about, ``[B, ...]``, without channels that are conditions. It is
#: there when a round begins, in no module.
NOISY_LATENT = "noisy latent"
#: What the first blocks add to the first stream ``[B, tokens, dim]``.
FIRST_RESIDUAL = "residual of the first blocks"
#: What the first stream is before and behind them ``[B, 2, tokens, dim]``.
FIRST_STATES = "states around the first blocks"
#: Signals that a tap shows, which knows how many blocks are the first.
OF_FIRST_BLOCKS = (FIRST_RESIDUAL, FIRST_STATES)


@dataclass(frozen=True)
class FromModule:
    """The output of a module that runs before the blocks.

    Attributes:
        name: its dotted name.
        part: which part of its output, where that is a tuple.
    """

    name: str
    part: int | None = None


@dataclass(frozen=True)
class FromArgument:
    """An argument that every block is called with.

    Attributes:
        name: by which it is passed.
        place: among the positional ones.
    """

    name: str
    place: int


@dataclass(frozen=True)
class FromWithin:
    """What a module inside the first block is called with.

    Attributes:
        name: of the module in its block. All that lies before it is run for the look alone.
    """

    name: str


Signal = FromModule | FromArgument | FromWithin
