"""Learning-to-Cache: at every other step, the layers that a table leaves out are reused."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import ClassVar

import numpy as np
import torch

from ..forecast.reuse import Gradient, Hold, ReuseRule
from ..types import MLP, SELF
from ..words import Message
from .base import RunInfo
from .layered import KINDS, WHERE_HELP, Changes, Reused, Work

#: Scores of a router above which a layer runs, as in the repository's commands.
ACTIVE = 0.1
#: Reads a class that PyTorch's safe loader does not know; before 2.5 it could not be told to.
_allowing = getattr(torch.serialization, "safe_globals", nullcontext)


def read_router(path: str) -> dict[str, np.ndarray]:
    """A router: by kind ``[depth, steps]``, whether a layer is reused.

    Two forms are read. The authors' checkpoint: ``routers`` holds ``<n>.prob`` ``[2 depth]``, of
    which even entries are attention and odd ones feed-forward, for the ``n``-th timestep from the
    end; a layer runs where its sigmoid lies above 0.1, and every other ``n``, from 0, is a step of
    reuse. Or JSON: by kind (``"self"``, ``"cross"``, ``"mlp"``) a list of steps in the order of
    sampling, each a list of blocks: true or 1 where the layer runs.

    Raises:
        ValueError: it is neither.
        OSError: it cannot be read.
    """
    if Path(path).suffix == ".json":
        return _of_json(json.loads(Path(path).read_text(encoding="utf-8")))
    try:
        with _allowing([Namespace]):  # the authors' hold their options
            routers = torch.load(path, map_location="cpu", weights_only=True)["routers"]
        rows = {
            int(name.split(".")[0]): torch.sigmoid(row).numpy() for name, row in routers.items()
        }
        scores = np.stack([rows[number] for number in range(len(rows))])
    except (LookupError, RuntimeError, TypeError, ValueError, UnpicklingError) as error:
        raise ValueError(f"{path} holds no routers") from error
    steps, count = scores.shape
    if count % 2:
        raise ValueError(f"{path} has routers of {count} layers, an odd number")
    reused = (scores <= ACTIVE) & (np.arange(steps) % 2 == 0)[:, None]
    reused = reused[::-1].T  # in the order of sampling
    return {SELF: reused[0::2], MLP: reused[1::2]}


def _of_json(raw: object) -> dict[str, np.ndarray]:
    if not isinstance(raw, dict) or not raw or not raw.keys() <= set(KINDS):
        raise ValueError(f"a router in JSON has lists by kind of layer: {', '.join(KINDS)}")
    found = {}
    for kind, rows in raw.items():
        table = np.array(rows)
        if table.ndim != 2 or table.dtype.kind not in "bi" or not np.isin(table, (0, 1)).all():
            raise ValueError(f"{kind!r} in it is no list of steps with 0 or 1 for each block")
        found[kind] = table.T == 0
    if len({table.shape for table in found.values()}) != 1:
        raise ValueError("its kinds differ in steps or blocks")
    return found


@cache
def _router(path: str, _changed: float) -> dict[str, np.ndarray]:
    return read_router(path)


@dataclass(frozen=True)
class LearningToCache(Changes):
    """Every other step in full, in between only the layers that change enough for their work.

    Source: Ma et al., "Learning-to-Cache: Accelerating Diffusion Transformer via Layer Caching"
    (arXiv 2406.01733): steps alternate between full ones and steps of reuse, at which a router,
    trained for a model, a sampler and a number of steps, says which layers run; the others answer
    with their output of the step before, taken before its gate. Its checkpoints are read
    (:func:`read_router`), for models of as many blocks and runs of as many steps.

    Ours, in place of training: a greedy search. Of all layers at all steps of reuse those are
    reused first whose relative L1 change, per share of the work that is spared, is smallest, until
    the budget is met or the change reaches ``threshold``.

    Args:
        threshold: largest relative L1 change from a step to the next of a layer that is reused, for
            a layer as large as the largest, less for smaller ones; 0 computes everything.
        router: file of a router; empty: the greedy search. A budget then has no say.
        gradient: ``eta`` of Gradient-Optimized Cache (Qiu et al., arXiv 2503.05156), by which
            reused outputs go on as they changed: 0.8 in its variant of this method, 0 holds them.
            See ``Gradient`` for what differs.
        where: which kinds of layers the greedy search may reuse.
    """

    name: ClassVar[str] = "learning_to_cache"
    title: ClassVar[str] = "Learning-to-Cache (layers)"
    decides: ClassVar[str] = (
        "at every other step, which layers of which block change least for the work they are: "
        "these are reused from the step before (Learning-to-Cache, with a greedy search on "
        "measured changes in place of its training; its routers can be read). At least half of the "
        "work is spent, and an output of every layer is kept, a great deal of memory"
    )
    #: Every other round is full.
    least: ClassVar[float] = 0.5
    threshold: float = field(
        default=0.2,
        metadata={
            "strictest": 0.0,
            "loose": 1.0,
            "min": 0.0,
            "max": 5.0,
            "step": 0.01,
            "help": "Largest relative change from one step to the next of a layer that is reused. "
            "Higher reuses more layers, at every other step. 0 computes everything.",
        },
    )
    router: str = field(
        default="",
        metadata={
            "help": "File with a trained router: the authors' checkpoint (.pt, .pth), or JSON with "
            "1 where a layer runs. Empty: layers are chosen by how they were measured to change.",
        },
    )
    gradient: float = field(
        default=0.0,
        metadata={
            "min": 0.0,
            "max": 2.0,
            "step": 0.05,
            "help": "How far reused outputs go on as they changed, as a share of a straight line. "
            "0 repeats them; 0.8 is that of Gradient-Optimized Cache for this method.",
        },
    )
    where: str = field(default="all", metadata=WHERE_HELP)

    @property
    def fixed(self) -> bool:
        return bool(self.router)

    @property
    def rules(self) -> Mapping[str, ReuseRule]:
        return {self.tap: Gradient(eta=self.gradient) if self.gradient else Hold()}

    def misfit(self, run: RunInfo) -> Message | None:
        if not self.router:
            return super().misfit(run)
        try:
            table = self._table()
        except (OSError, ValueError) as error:
            return Message.of("off.router_unreadable", router=self.router, error=str(error))
        steps, rounds = next(iter(table.values())).shape[1], len(run.times)
        if steps != rounds:
            counts = {"steps": steps, "evaluations": rounds}
            return Message.of("off.router_steps", router=self.router, **counts)
        return None

    def _table(self) -> dict[str, np.ndarray]:
        return _router(self.router, Path(self.router).stat().st_mtime)

    def measured(self, run: RunInfo, work: Work) -> Mapping[str, np.ndarray]:
        """Of a router: its table. Else by kind ``[depth, rounds]``: change since the round before,
        per share of the work, that of the largest layer being 1; ``inf`` at full rounds.
        """
        if self.router:
            return self._table()
        largest, rounds = max(float(s.max()) for s in work.shares.values()), len(run.times)
        found = {}
        for kind, changes in self.changes(run, work).items():
            size = np.maximum(work.shares[kind] / largest, 1e-9)[:, None]
            table = np.full((work.depth, rounds), np.inf)
            table[:, 1:] = changes[0] / size
            table[:, ::2] = np.inf
            found[kind] = table
        return found

    def schedule(self, measured, work: Work, forced: Sequence[bool]) -> Reused:
        if self.router:
            return {kind: table for kind, table in measured.items() if kind in work.shares}
        strict = self.threshold <= 0
        return {k: (t <= self.threshold) & (not strict) for k, t in measured.items()}
