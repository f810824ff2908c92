"""MagCache: reuse while the block stack's residual has hardly changed in size."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import ClassVar

from ..forecast.reuse import Hold, ReuseRule
from ..types import OUTPUT, SAME_TIME, STACK, Step
from ..words import Message
from .base import Guards, Preset, Prior, RunInfo
from .threshold import Threshold

AUTO, MEASURED = "auto", "measured"
#: Shift of the authors' schedules where they do not say (Wan's own default).
_SHIFT = 5.0
#: From this time coordinate on a run has begun at full noise (ours).
_FULL_NOISE = 0.98


@dataclass(frozen=True)
class Table:
    """Published ratios of one model.

    Attributes:
        family: key in ``FAMILIES``.
        cond, uncond: by step: mean over tokens of the residual's norm over that of the step before.
        boundary: noise level below which a second expert runs; ``None``: there is one model.
        shift: of the schedule that they were measured on.
    """

    family: str
    cond: tuple[float, ...]
    uncond: tuple[float, ...]
    boundary: float | None = None
    shift: float | None = None

    def part(self, ratios: Sequence[float], start: float, end: float) -> Sequence[float]:
        """Of ``ratios`` those between two time coordinates; all of them for a whole run."""
        count = len(ratios)
        first = 0 if start >= _FULL_NOISE else round(self._share(start) * count)
        last = count if end <= 0 else round(self._share(end) * count)
        first = min(first, count - 1)
        return ratios[first : max(last, first + 1)]

    def _share(self, t: float) -> float:
        """Share of the authors' steps that lie before the time ``t``."""
        if self.family != "wan":
            return 1 - t
        shift = self.shift or _SHIFT
        return 1 - t / (shift - (shift - 1) * t)


@cache
def tables() -> Mapping[str, Table]:
    """Published ratios by the name that people pick; their source is said in the file."""
    text = Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
    return {
        name: Table(
            row["family"], tuple(row["cond"]), tuple(row["uncond"]), row["boundary"], row["shift"]
        )
        for name, row in json.loads(text)["models"].items()
    }


#: Which table a family takes where nothing tells its models apart.
_OF_FAMILY = {"wan": "Wan 2.1 T2V 14B", "cogvideox": "CogVideoX 2B"}


def nearest(ratios: Sequence[float], steps: int) -> list[float]:
    """``ratios`` for another number of steps, each the nearest one; a single step has the last."""
    if steps == 1:
        return [ratios[-1]]
    scale = (len(ratios) - 1) / (steps - 1)
    return [ratios[round(step * scale)] for step in range(steps)]


@dataclass
class MagState:
    """Run state of :class:`MagCache`.

    Attributes:
        times: time coordinate of every step.
        ratios: by step.
        retained: by step, whether it is computed as part of a run's, or an expert's, start.
        index: step of the round before.
        ratio: product of the ratios since the last true evaluation.
        error: sum of what that has been off 1.
    """

    times: Sequence[float]
    ratios: Sequence[float]
    retained: Sequence[bool]
    index: int = 0
    ratio: float = 1.0
    error: float = 0.0


@dataclass(frozen=True)
class MagCache(Threshold):
    """Reuse while ``E = sum |1 - R| < threshold``, ``R`` the ratios' product since the evaluation.

    Source: Ma et al., "MagCache: Fast Video Generation with Magnitude-Aware Cache"
    (arXiv 2506.09045): the residual of the block stack shrinks from step to step by ratios that
    hardly depend on the prompt. They are published for each model and branch (:func:`tables`);
    other numbers of steps take the nearest ones. The paper's skip limit ``K`` is
    ``Guards.longest_run``. The schedule is known before the run.

    Unlike the repository's: one decision a round, by the ratios of the branch asked for (there each
    branch by its own); a run of a part of the noise levels takes that part of the ratios; what was
    accumulated is dropped at every evaluation, also where Wan 2.2's second expert begins.

    Measured ratios come from the connected profile, for what is kept: RMS of the conditional output
    (or residual) over that at the step before. Those of outputs are other numbers than the
    published ones, which are of the stack. LTX-Video and LTX-2 have no published ones.

    Args:
        threshold: largest accumulated error; 0 computes everything.
        model: whose ratios; ``"auto"``: the connected profile's, else the family's; ``"measured"``.
        retention: share of the steps computed at the start, of Wan 2.2 at that of each expert (I2V:
            all of the first expert's).
        branch: whose published ratios rule.
        place: what is kept: the stack's residual, as theirs, or the model's output.
    """

    name: ClassVar[str] = "magcache"
    title: ClassVar[str] = "MagCache (size of the residual)"
    decides: ClassVar[str] = (
        "how far the block stack's residual has changed in size since the last true evaluation, "
        "by published ratios of the model or those of a profile, under a budget or a threshold "
        "(MagCache). It keeps that residual; LTX-Video needs a profile, or the output kept"
    )
    threshold: float = field(
        default=0.12,
        metadata={
            "strictest": 0.0,
            "loose": 0.24,
            "min": 0.0,
            "max": 2.0,
            "step": 0.01,
            "help": "Largest accumulated error of size. Higher reuses more, up to the longest run. "
            "The authors': 0.12 for Wan 1.3B, 0.24 for 14B, 0.06 for Wan 2.2.",
        },
    )
    model: str = field(
        default=AUTO,
        metadata={
            "choices": (AUTO, MEASURED, *tables()),
            "help": "Whose ratios. auto: the connected profile's, else those published for the "
            "family; measured: always measured ones, of the profile or bundled.",
        },
    )
    retention: float = field(
        default=0.2,
        metadata={
            "min": 0.0,
            "max": 1.0,
            "step": 0.01,
            "help": "Share of the steps computed at the start (authors': 0.2; Wan 2.2 T2V 0.4, "
            "I2V 0.1). Higher keeps layout and motion nearer to the uncached clip.",
        },
    )
    branch: str = field(
        default="cond",
        metadata={
            "choices": ("cond", "uncond"),
            "help": "Which branch's published ratios decide. They differ by 0.01 at most.",
        },
    )
    place: str = field(
        default=STACK.tap,
        metadata={
            "choices": (STACK.tap, OUTPUT.tap),
            "help": "What is kept for reuse. stack: the change over the block stack, as the "
            "authors do. output: the model's output, by measured ratios.",
        },
    )

    def __post_init__(self) -> None:
        if self.threshold < 0 or not 0 <= self.retention <= 1:
            raise ValueError("threshold must not be negative and retention must lie in 0..1")
        self.check_choices()

    @classmethod
    def presets(cls) -> Mapping[str, Preset]:
        points = {
            "Wan 2.1 T2V 1.3B": {"fast": (0.12, 4, 0.2), "slow": (0.12, 2, 0.2)},
            "Wan 2.1 T2V 14B": {"": (0.24, 6, 0.2)},
            "Wan 2.1 I2V 14B 480p": {"": (0.24, 6, 0.2)},
            "Wan 2.1 I2V 14B 720p": {"": (0.24, 6, 0.2)},
            "Wan 2.1 VACE 1.3B": {"": (0.02, 3, 0.2)},
            "Wan 2.2 T2V A14B": {"": (0.06, 2, 0.4)},
            "Wan 2.2 I2V A14B": {"": (0.06, 2, 0.1)},
            "Wan 2.2 TI2V 5B": {"": (0.06, 2, 0.2)},
            "Wan 2.2 TI2V 5B from image": {"": (0.06, 2, 0.2)},
            "CogVideoX 2B": {"": (0.08, 5, 0.1)},
        }
        found = {}
        for name, speeds in points.items():
            whose = "RA-CFGCache" if name.startswith("Cog") else "MagCache"
            for speed, (threshold, longest, retention) in speeds.items():
                guards = Guards(1, 0, longest)
                note = f"{whose}, repository, {name}: {threshold:g}, K {longest}, {retention:g}."
                policy = cls(threshold, name, retention)
                preset = Preset(tables()[name].family, policy, Hold(), guards, note)
                found[f"MagCache {name} {speed}".strip()] = preset
        return found

    @property
    def tap(self) -> str:
        return self.place

    @property
    def rules(self) -> Mapping[str, ReuseRule]:
        return {STACK.tap: Hold()}

    def _table(self, run: RunInfo) -> Table | None:
        """Published ratios to go by; ``None``: measured ones."""
        if self.model in tables():
            return tables()[self.model]
        profiled = not isinstance(run.slopes, Prior)
        if self.model == MEASURED or profiled or self.place == OUTPUT.tap:
            return None
        return tables().get(_OF_FAMILY.get(run.family.name))

    def misfit(self, run: RunInfo) -> Message | None:
        table, family = self._table(run), run.family
        if table is None:
            if run.moments is None:
                return Message.of("off.ratios_unknown", family=family.title)
            if self.place == STACK.tap and isinstance(run.slopes, Prior):
                return Message.of("off.ratios_of_stack_unknown", family=family.title)
        elif table.family != family.name:
            return Message.of("off.ratios_of_another", model=self.model, family=family.title)
        elif self.place == OUTPUT.tap:
            return Message.of("off.ratios_of_stack_only", model=self.model)
        return None

    def with_tolerance(self, tolerance: float) -> MagCache:
        return replace(self, threshold=tolerance)

    def start(self, run: RunInfo) -> MagState:
        sigmas, steps = run.schedule.sigmas, run.schedule.num_steps
        times = [run.family.time(sigma) for sigma in sigmas]
        table = self._table(run)
        if table is not None:
            published = getattr(table, self.branch)
            ratios = nearest(table.part(published, times[0], times[-1]), steps)
        elif run.moments is not None:
            sizes = [max(g, 0.0) ** 0.5 for g in run.moments.lead_at(times[:-1]).diagonal()]
            pairs = zip(sizes[1:], sizes[:-1], strict=True)
            ratios = [1.0, *(now / before if before else math.inf for now, before in pairs)]
        else:
            ratios = [math.inf] * steps
        return MagState(times[:-1], ratios, self._retained(times[:-1], table))

    def _retained(self, times: Sequence[float], table: Table | None) -> list[bool]:
        """By step, whether it is computed; counted as in the repository, by two calls a step."""
        steps, ret = len(times), self.retention
        boundary = table.boundary if table is not None else None
        split = steps if boundary is None else sum(t >= boundary for t in times)
        calls = [2 * k + (self.branch == "uncond") for k in range(steps)]
        if not 0 < split < steps:
            return [call < int(2 * steps * ret) for call in calls]
        ahead = 2 * (split + (steps - split) * ret)
        if table is tables()["Wan 2.2 I2V A14B"]:
            return [call < int(ahead) for call in calls]
        return [call < int(2 * split * ret) or 2 * split <= call <= ahead for call in calls]

    def score(self, step: Step, last: Step, state: MagState) -> float:
        index = min(step.index, len(state.ratios) - 1)
        for passed in range(state.index + 1, index + 1):
            state.ratio *= state.ratios[passed]
            state.error += abs(1 - state.ratio)
        state.index = index
        return math.inf if state.retained[index] else state.error

    def observe(self, step: Step, state: MagState) -> MagState:
        state.index, state.ratio, state.error = step.index, 1.0, 0.0
        return state

    def expected(self, last_t: float, t: float, state: MagState) -> float:
        first, index = (self._step_at(time, state) for time in (last_t, t))
        if state.retained[index]:
            return math.inf
        ratio, error = 1.0, 0.0
        for passed in range(first + 1, index + 1):
            ratio *= state.ratios[passed]
            error += abs(1 - ratio)
        return error

    @staticmethod
    def _step_at(t: float, state: MagState) -> int:
        """The step whose evaluations lie at ``t``."""
        return max(sum(time >= t - SAME_TIME for time in state.times) - 1, 0)

    def limit(self, share: float) -> float:
        return self.threshold
