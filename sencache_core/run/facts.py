"""What a host knows of a run: where it lies in its clip, how it is guided and sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..policies import Guards
from ..sampler.response import Multistep
from ..sampler.schedule import Schedule
from ..sampler.solver import Clean
from ..types import Reason
from .stats import RunReport


@dataclass(frozen=True)
class Part:
    """One of the runs that a clip is sampled in.

    Attributes:
        schedule: its noise levels.
        fingerprint: of its checkpoint; empty: not known.
        guidance: its scale of guidance; 0: not known.
    """

    schedule: Schedule
    fingerprint: str = ""
    guidance: float = 0.0


@dataclass(frozen=True)
class Stage:
    """Where a run lies in its clip, which may be sampled in several calls.

    Attributes:
        before: steps of the clip that other runs have done.
        whole: steps of the clip in all, as far as can be told; 0: those up to this run's end.
        carry: evaluations left over from the budget of the runs before; negative: overspent.
        later: what is to follow, as far as can be told. A plan shares the clip's budget with it.
    """

    before: int = 0
    whole: int = 0
    carry: float = 0.0
    later: tuple[Part, ...] = ()

    def steps(self, own: int) -> int:
        """Steps of the clip in all, ``own`` of them this run's."""
        return max(self.whole, self.before + own)

    def left(self, report: RunReport) -> float:
        """Evaluations that this run leaves to the next stage, as :attr:`carry`.

        What its plan has left to later stages, or taken from them, and what it came to spend else.
        A run whose caching was off may use up what was left over, but owes nothing: the next stage
        is not to be ruined for it.
        """
        if report.budget is None:
            return 0.0
        rounds = len(report.steps) - report.idle
        carry = self.carry + (report.budget - report.cost) * rounds
        off = any(record.reason == Reason.OFF.value for record in report.steps)
        return max(carry, min(self.carry, 0.0)) if off else carry

    def guards(self, guards: Guards, own: int) -> Guards:
        """Guards of the clip as they hold for this run of ``own`` steps."""
        whole = self.steps(own)
        if whole == own:
            return guards

        def here(share: float) -> float:
            """As share of this run's steps, what is a share of the clip's."""
            below = sum(step / whole < share for step in range(whole))
            return min(max(below - self.before, 0), own) / own

        return replace(
            guards,
            warmup=max(guards.warmup - self.before, 1),
            cooldown=max(guards.cooldown - (whole - self.before - own), 0),
            start=here(guards.start or 0.0),
            end=here(guards.end),
        )


@dataclass(frozen=True)
class Facts:
    """What a host knows of a run beside its family and noise levels.

    Attributes:
        prediction: what the model's own sampling object says it predicts (see
            ``Family.prediction``); ``None``: as its family does.
        linear_guidance: whether the guided output is one fixed linear combination of the branches,
            with weights that sum to 1.
        x0_seen: whether the clean latent that an output stands for is seen, and not put right by
            the host (see ``Session.keep_offsets``).
        stage: of its clip.
        clean: how its sampler sees the clean latent, see ``solver.py``.
        guided: whether more than the conditional branch is asked, as far as can be told. Distilled
            models are sampled without guidance.
        multistep: measures what the sampler carries on from step to step, see ``response.py``;
            asked only where that is of use. ``None``: the host cannot.
        channels: dimension of the latent that holds its channels; ``None``: it is no grid.
        blocks: of the model's block stack; ``None``: not known.
        guidance: its scale of guidance; 0: not known.
    """

    prediction: str | None = None
    linear_guidance: bool = True
    x0_seen: bool = False
    stage: Stage = Stage()
    guided: bool = True
    clean: Clean | None = None
    multistep: Callable[[], Multistep | None] | None = None
    channels: int | None = 1
    blocks: int | None = None
    guidance: float = 0.0
