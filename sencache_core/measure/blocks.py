"""Which blocks may be reused: ProfilingDiT's profiling, by attention and by what blocks change."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from ..model.families import Family
from ..policies import ProfilingDiT
from ..policies.profilingdit import WAN_14B, parse_blocks, write_blocks
from ..run.rounds import RoundLog
from ..run.runner import EvaluateAt, read_round
from ..run.stats import RunReport, StepRecord
from ..sampler.schedule import Schedule
from ..types import ALL, OUTPUT, Branch, Decision, Key, Reason, sketch
from .profile import ProfileError

#: Share of the blocks that is background in the authors' list for Wan 2.1 14B: 28 of 40.
BACKGROUND = len(parse_blocks(WAN_14B)[0]) / 40
#: Rounds over which residuals are reused at most, at the authors' interval of 6.
LAGS = 5
#: Queries of each head that attention is measured on (ours): a share of 5 % is known to 1 %.
QUERIES = 512
CHANGE, ATTENTION = "change", "attention"


@dataclass(frozen=True, eq=False)
class BlockProfile:
    """What was measured of a model's blocks.

    Attributes:
        changes: ``[n, n]`` mean inner products, by pairs of blocks, of how their residuals have
            changed 1 to 5 rounds later, relative to the mean square of all residuals' sum.
        foreground: ``[n]`` share of the foreground's tokens that a block's attention favours;
            ``None`` where attention was not seen, or no foreground.
    """

    changes: np.ndarray
    foreground: np.ndarray | None

    def background(self, by: str = CHANGE, share: float = BACKGROUND) -> frozenset[int]:
        """The blocks to reuse.

        By ``"change"`` (ours): those whose changes together are least, one after the other. By
        ``"attention"`` (arXiv 2504.03140, section 3.2): those that favour the fewest tokens of the
        foreground.

        Args:
            by: which.
            share: of all blocks, at least one, at most all but one.

        Raises:
            ProfileError: it was not measured.
        """
        count = len(self.changes)
        wanted = min(max(round(share * count), 1), count - 1)
        if by == ATTENTION:
            if self.foreground is None:
                raise ProfileError(
                    "attention was not seen: it is computed elsewhere than in PyTorch's own "
                    "function, or the clip has no foreground; choose blocks by change"
                )
            return frozenset(np.argsort(self.foreground, kind="stable")[:wanted].tolist())
        if by != CHANGE:
            raise ValueError(f"blocks are chosen by {CHANGE} or {ATTENTION}, not by {by!r}")
        chosen: list[int] = []
        while len(chosen) < wanted:
            added = self.changes.diagonal() + 2 * self.changes[:, chosen].sum(axis=1)
            added[chosen] = math.inf
            chosen.append(int(added.argmin()))
        return frozenset(chosen)

    def expected(self, blocks: frozenset[int]) -> float:
        """RMS of what reusing ``blocks`` changes, relative to all that blocks add."""
        listed = sorted(blocks)
        return math.sqrt(max(float(self.changes[np.ix_(listed, listed)].sum()), 0.0))

    def listed(self, by: str = CHANGE, share: float = BACKGROUND) -> str:
        """:meth:`background` as the policy ``profilingdit`` takes it: ``"0, 2-7 of 40"``."""
        return write_blocks(self.background(by, share), len(self.changes))


class BlockWatch:
    """A runner that reuses nothing and measures blocks on the leading branch. Tap ``blocks``.

    What every block adds is compared with what it added in the rounds before. While a block runs,
    PyTorch's own attention function is listened to: which tokens receive attention is compared with
    a mask of the foreground once the round's output is known.
    """

    measures = False
    awaits = ""

    def __init__(self, family: Family, schedule: Schedule) -> None:
        steps = schedule.num_steps
        self.report = RunReport(family.name, "block profile", "none", "blocks", steps)
        self._family, self._schedule = family, schedule
        self._log = RoundLog(self.report)
        self._leader: Branch | None = None
        self._block: int | None = None  # that runs, on which part of the batch
        self._part = 0, 1
        self._mode: _Attention | None = None  # that listens while a block runs
        self._count = 0
        self._sketches: dict[int, Tensor] = {}
        self._received: dict[int, Tensor] = {}
        self._past: deque[Tensor] = deque(maxlen=LAGS)
        self._changes: list[Tensor] = []
        self._shares: list[Tensor] = []
        self._x: Tensor | None = None
        self._sigma = 0.0

    def begin(self, x: Sequence[Tensor], sigma: float | Tensor) -> Decision:
        self._close()
        self._sigma, _ = read_round(sigma, (), None)
        self._log.tick()
        self._x = x[0] if len(x) == 1 else None
        ordinal, t = len(self.report.steps), self._family.time(self._sigma)
        step = self._schedule.step_of(self._sigma, ordinal)
        kind = "computed", "block profile"
        self._log.open(StepRecord(ordinal, step, self._sigma, t, *kind, cost=1.0))
        return Decision(ALL, Reason.OFF)

    def predict(self, keys: Sequence[Key], shape: Sequence[int]) -> None:
        branches = [key.branch for key in keys]
        if self._leader is None:
            self._leader = next((b for b in branches if b.role == "cond"), None)
        site = keys[0].site
        self._listen(None)
        if site.tap == "blocks" and self._leader in branches:
            self._count, self._part = site.count, (branches.index(self._leader), len(branches))
            self._listen(site.index)

    def _listen(self, block: int | None) -> None:
        """Listen to attention in a block from now on; ``None``: to none."""
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
        self._block, self._mode = block, None
        if block is not None and self._settled:
            self._mode = _Attention(self)
            self._mode.__enter__()

    def saw(self, branches: Sequence[Branch], value: Tensor | None) -> None:
        pass

    def branches_changed(self) -> None:
        """Of no account: nothing is forecast."""

    def called(self, branches: Sequence[Branch], share: float) -> None:
        self._log.called(branches, share)

    def observe(
        self, keys: Sequence[Key], y: Tensor, evaluate_at: EvaluateAt | None = None
    ) -> None:
        self._listen(None)
        branches = [key.branch for key in keys]
        if self._leader not in branches:
            return
        part = y.chunk(len(branches))[branches.index(self._leader)]
        if keys[0].site.tap == "blocks":
            self._sketches[keys[0].site.index] = sketch(part)[0]
        elif keys[0].site == OUTPUT and self._received:
            self._compare(part)

    @property
    def _settled(self) -> bool:
        """Whether the layout phase is over, in which all blocks look like background (paper)."""
        return self.report.steps[-1].step / self.report.num_steps >= ProfilingDiT.opening

    def attended(self, query: Tensor, key: Tensor, scale: float | None) -> None:
        """A self-attention ``[n B, heads, tokens, d]`` runs in the present block."""
        if self._block is None or self._block in self._received:
            return
        place, parts = self._part
        size = len(query) // parts
        one, other = (v[place * size : place * size + 1].float() for v in (query, key))
        stride = max(1, one.shape[-2] // QUERIES)
        scale = one.shape[-1] ** -0.5 if scale is None else scale
        received = torch.zeros(other.shape[-2], device=other.device)
        heads = one.shape[1]
        for head in range(heads):  # one at a time: what is held stays small
            scores = one[0, head, ::stride] @ other[0, head].T * scale
            received += scores.softmax(dim=-1).mean(dim=0) / heads
        self._received[self._block] = received

    def _compare(self, output: Tensor) -> None:
        """Note which share of the foreground's tokens each block favours."""
        tokens = len(next(iter(self._received.values())))
        mask = self._foreground(output, tokens)
        if mask is None or len(self._received) < self._count:
            return
        rows = [self._received[k][-len(mask) :] for k in range(self._count)]
        favoured = torch.stack([row > row.mean() for row in rows])
        self._shares.append((favoured & mask).float().sum(dim=1) / mask.sum().clamp_min(1))

    def _foreground(self, output: Tensor, tokens: int) -> Tensor | None:
        """Mask ``[video tokens]`` of a round's output; ``None``: the latent is no such grid."""
        x = self._x
        if x is None or x.shape != output.shape or self._family.prediction not in ("flow", "v"):
            return None
        if self._family.prediction == "flow":
            noise = x[:1].float() + (1 - self._sigma) * output[:1].float()
        else:
            angle = self._family.time(self._sigma) * math.pi / 2
            noise = math.sin(angle) * x[:1].float() + math.cos(angle) * output[:1].float()
        return foreground_mask(noise[0], tokens, self._family.name == "cogvideox")

    def _close(self) -> None:
        if not self.report.steps or self._log.record is None:
            return
        self._log.close()
        if self._sketches and len(self._sketches) == self._count:
            now = torch.stack([self._sketches[k] for k in range(self._count)])
            size = now.sum(dim=0).square().mean().clamp_min(1e-24)
            if self._past and self._past[0].shape == now.shape and self._settled:
                for past in self._past:
                    change = (now - past).double()
                    gram = change @ change.T / now.shape[1]
                    self._changes.append(gram / size)
            self._past.append(now)
        self._sketches, self._received, self._x = {}, {}, None

    def finish(self, completed: bool) -> RunReport:
        if not self.report.ended:
            self._listen(None)
            self._close()
            self._log.finish(completed)
            self._past.clear()
        return self.report

    def profile(self) -> BlockProfile:
        """What was measured.

        Raises:
            ProfileError: too little of the run was seen.
        """
        if not self._changes:
            raise ProfileError(
                "no blocks were measured: the run was too short, or no block stack was found"
            )
        changes = torch.stack(self._changes).mean(dim=0).cpu().numpy()
        shares = torch.stack(self._shares).mean(dim=0).cpu().numpy() if self._shares else None
        return BlockProfile(changes, shares)


class _Attention(TorchFunctionMode):
    def __init__(self, watch: BlockWatch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None):
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention:
            query = args[0] if args else kwargs["query"]
            key = args[1] if len(args) > 1 else kwargs["key"]
            if query.ndim == 4 and query.shape == key.shape:
                self._watch.attended(query, key, kwargs.get("scale"))
        return func(*args, **kwargs)


def foreground_mask(noise: Tensor, tokens: int, channels_second: bool = False) -> Tensor | None:
    """Which video tokens are foreground, by three principal components of the predicted noise.

    The paper hands these components to a segmentation model. Ours: the further a position lies from
    most others (the median), smoothed over neighbours, the likelier it is foreground; Otsu's
    threshold parts the two.

    Args:
        noise: ``[C, F, H, W]``, ``[F, C, H, W]`` or tokens ``[N, C]``, float32.
        tokens: of the attention; text may come before the video's.
        channels_second: whether it is ``[F, C, H, W]``.

    Returns:
        Mask ``[video tokens]``, frames outermost; ``None`` if these are not the latent's.
    """
    if noise.ndim == 2:
        grid = (len(noise),)
        flat = noise
    elif noise.ndim == 4:
        video = noise.movedim(1, 0) if channels_second else noise
        grid, flat = tuple(video.shape[1:]), video.flatten(1).T
    else:
        return None
    flat = flat - flat.mean(dim=0)
    _, _, axes = torch.linalg.svd(flat.T @ flat)
    parts = flat @ axes[:3].T
    if len(grid) == 3:
        maps = parts.T.reshape(-1, *grid).movedim(0, 1)  # [F, 3, H, W]
        maps = torch.nn.functional.avg_pool2d(maps, 3, 1, 1, count_include_pad=False)
        patch = next((p for p in (1, 2) if _count(grid, p) <= tokens), None)
        if patch is None or grid[1] % patch or grid[2] % patch:
            return None
        maps = torch.nn.functional.avg_pool2d(maps, patch)
        parts = maps.movedim(1, -1).reshape(-1, maps.shape[1])
    if len(parts) > tokens:
        return None
    away = (parts - parts.median(dim=0).values).norm(dim=1)
    return away > otsu(away)


def _count(grid: tuple[int, ...], patch: int) -> int:
    return grid[0] * (grid[1] // patch) * (grid[2] // patch)


def otsu(values: Tensor) -> float:
    """The threshold that parts ``values`` ``[n]`` with the most variance between both sides.

    Otsu 1979, "A Threshold Selection Method from Gray-Level Histograms".
    """
    ordered = values.sort().values.double()
    count = torch.arange(1, len(ordered), device=values.device, dtype=torch.float64)
    sums = ordered.cumsum(dim=0)
    low, high = sums[:-1] / count, (sums[-1] - sums[:-1]) / (len(ordered) - count)
    between = count * (len(ordered) - count) * (high - low).square()
    place = int(between.argmax())
    return float((ordered[place] + ordered[place + 1]) / 2)
