"""Value objects that cross between hosts, session, policies and reuse rules."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

#: Entries per latent and batch item that a displacement is measured on. An RMS over n independent
#: entries has a relative error of 1/sqrt(2 n): 0.3 % here, far below the spread between samples.
SKETCH_SIZE = 65_536


class Branch(NamedTuple):
    """Key of one chunk of one model call: cond, uncond, a context window, a guidance pass...

    Attributes:
        role: ``"cond"``, ``"uncond"`` or another name the host gives. The first ``"cond"`` branch
            leads: errors are measured on it.
        ident: whatever else tells the chunk from others of the same evaluation round.
        shared: what the branches of one guidance pair have in common, and no other branch has.
    """

    role: str
    ident: Hashable = None
    shared: Hashable = None


class Site(NamedTuple):
    """A place in the model whose output may be spared.

    Attributes:
        tap: name of the tap that reaches it, see ``model/taps``.
        index: which of the places of one kind, from 0 in the order in which they run.
        count: how many places of that kind there are.
        kind: what it is, where a tap has several kinds.
    """

    tap: str
    index: int = 0
    count: int = 1
    kind: str = ""


#: The model's whole output, and the residual of its whole block stack.
OUTPUT, STACK = Site("output"), Site("stack")
#: Places that stand for all of the model.
WHOLE = frozenset({OUTPUT, STACK})
#: Kinds of layers: self-attention, cross-attention, feed-forward.
SELF, CROSS, MLP = "self", "cross", "mlp"
#: The difference of a guidance pair, which no module computes.
GAP = Site("gap")


class Key(NamedTuple):
    """What histories, forecasts and debts are kept by: one place, for one branch."""

    branch: Branch
    site: Site


class Reason(str, Enum):
    """Why a round was computed or reused. The value is what reports and nodes show."""

    WITHIN = "score below limit"
    OVER = "score above limit"
    SCHEDULED_REUSE = "scheduled reuse"
    SCHEDULED_COMPUTE = "scheduled evaluation"
    SCHEDULED_PART = "scheduled partial evaluation"
    BUDGET_SPENT = "budget kept for later"
    BUDGET_LEFT = "budget left to spend"
    FIRST = "first evaluation"
    WARMUP = "warm-up"
    COOLDOWN = "last steps"
    WINDOW = "outside start/end"
    LONGEST_RUN = "longest run reached"
    TIME_ROSE = "noise level rose"
    CHANGED = "latent shape changed"
    NO_HISTORY = "no fresh output to forecast from"
    NO_PAIR = "no guidance pair to rebuild"
    IDLE = "the model was not asked"
    UNEXPECTED = "evaluation that was not expected"
    UNSEEN = "nothing to decide by was seen"
    HOPELESS = "outputs cannot be predicted"
    OFF = "caching is off"


#: Reasons given by guards rather than by a policy's score.
FORCED = frozenset(
    {
        Reason.FIRST,
        Reason.WARMUP,
        Reason.COOLDOWN,
        Reason.WINDOW,
        Reason.LONGEST_RUN,
        Reason.TIME_ROSE,
        Reason.CHANGED,
        Reason.NO_HISTORY,
        Reason.NO_PAIR,
        Reason.UNEXPECTED,
        Reason.UNSEEN,
    }
)


@dataclass(frozen=True)
class Only:
    """What runs in a round: the keys that pass a test. Two of one name are equal.

    Attributes:
        name: what runs, in words: reports and charts show it as it is.
        test: whether the output at a key is to be computed. Of a model call over several branches
            the host asks for :data:`OUTPUT`; taps ask for the places inside the model.
        reused: whether a round that runs no more than this counts as one of reuse, of which guards
            allow so many in a row, and scores go on from the evaluation before it.
    """

    name: str
    test: Callable[[Key], bool] = field(compare=False, repr=False)
    reused: bool = field(default=False, compare=False)


#: Run the whole model, or nothing of it.
ALL = Only("everything", lambda key: True)
NONE = Only("nothing", lambda key: False, reused=True)


class Forecaster(Protocol):
    """Makes a missing output from true ones; see ``ReuseRule``."""

    def predict(self, t: float, anchors: Sequence[Anchor]) -> Tensor: ...


@dataclass(frozen=True)
class Decision:
    """What a policy wants of one evaluation round.

    Attributes:
        compute: what is to run: :data:`ALL`, :data:`NONE`, or a part of it by name. The rest is
            forecast.
        reason: why.
        score: the policy's figure for this round in its own unit, ``None`` if it had none.
        limit: the figure that ``score`` was compared with.
        rule: forecasts this round's outputs at places inside the model; ``None``: the rule of
            their tap.
    """

    compute: Only
    reason: Reason
    score: float | None = None
    limit: float | None = None
    rule: Forecaster | None = field(default=None, compare=False)

    @property
    def partial(self) -> bool:
        """Whether a part of the model, or of the branches, runs."""
        return self.compute not in (ALL, NONE)


#: What a round stands at whose policy has yet to look into the model: all of it runs.
AWAITED = Decision(ALL, Reason.UNSEEN)


class Look(NamedTuple):
    """What was seen inside the model before its blocks ran, see ``model/signals.py``.

    Attributes:
        branch: that it was seen on.
        value: the signal, ``[B, ...]``, a copy of the run's own.
    """

    branch: Branch
    value: Tensor


@dataclass(frozen=True)
class Step:
    """One evaluation round as a policy sees it.

    Attributes:
        x: noisy latent sketched per modality (see :func:`sketch`), each ``[B, n]`` float32.
        moved: RMS displacement of ``x`` since the last true evaluation, the largest over modalities
            and batch items; ``nan`` before the first.
        sigma: noise level the model is asked at.
        t: the family's time coordinate in 0..1, falling during sampling.
        index: schedule step that this round belongs to, from 0.
        num_steps: number of schedule steps of the run.
        ordinal: number of rounds before this one.
        streak: rounds reused since the last true evaluation.
        error: what the forecast in place of the last true output would have erred by, RMS relative
            to that output, on the leading branch; ``nan`` where there was none.
        paired: whether an unconditional output can be rebuilt from the conditional one: the last
            full evaluation held a guidance pair, and the policy asked for pairs to be kept.
        extra: evaluations' worth of model calls that ran in earlier rounds of reuse, for branches
            that had nothing to be forecast from.
        look: what the policy asked to see, ``None`` until it was seen.
        anew: whether of some branch only the last evaluation's output is known, where forecasts
            read more: a prompt has changed, or what was kept was dropped.
        output: of a round that has been evaluated, where the policy reads outputs: sketch of the
            leading branch's, ``[B, n]`` float32.
        work: share of the model's block work at each place that the run has met so far.
    """

    x: tuple[Tensor, ...]
    moved: float
    sigma: float
    t: float
    index: int
    num_steps: int
    ordinal: int
    streak: int = 0
    error: float = float("nan")
    paired: bool = False
    extra: float = 0.0
    look: Look | None = None
    anew: bool = False
    output: Tensor | None = None
    work: Mapping[Site, float] = field(default_factory=dict, repr=False)

    @property
    def share(self) -> float:
        """Share of the run's *steps* that lie before this round, 0..1 (not of its noise levels)."""
        return self.index / self.num_steps


#: Times nearer than this are one time (ours). Samplers come back to a noise level in float32
#: (exp_heun's second evaluation lies 6e-8 beside the list's), and a line through two outputs that
#: near is their rounding times 1e5; steps of a schedule are larger than 1e-5.
SAME_TIME = 1e-6


def same_time(t: float, other: float) -> bool:
    """Whether two time coordinates are the same but for rounding."""
    return abs(t - other) < SAME_TIME


@dataclass(frozen=True)
class Anchor:
    """Owned copy of one true output of one branch.

    Attributes:
        t: time coordinate it was computed at.
        y: the payload (model output, or block-stack residual), as the host gave it.
    """

    t: float
    y: Tensor


def rms(value: Tensor) -> Tensor:
    """Root mean square over everything but the batch, the largest over the batch, float32, 0-d."""
    flat = value.reshape(value.shape[0], -1).float()
    return flat.square().mean(dim=1).sqrt().amax()


def packed(x: Sequence[Tensor]) -> Tensor:
    """The latent as samplers have it, of one tensor a modality: joined along the last dimension."""
    return x[0] if len(x) == 1 else torch.cat(list(x), dim=-1)


def sketch(x: Tensor, size: int = SKETCH_SIZE) -> Tensor:
    """Strided float32 copy ``[B, n]`` of a latent ``[B, ...]`` that displacements are measured on.

    At most about ``size`` entries per batch item are kept; small latents whole. The
    stride is odd, so that it does not fall in step with the even extents of a latent grid.
    """
    flat = x.reshape(x.shape[0], -1)
    stride = max(1, flat.shape[1] // size) | 1
    return flat[:, ::stride].to(torch.float32, copy=True)


def displacement(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Tensor:
    """Largest RMS difference over modalities and batch items, 0-d, left on the device."""
    return torch.stack([rms(p - q) for p, q in zip(a, b, strict=True)]).amax()
