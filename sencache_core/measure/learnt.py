"""What ordinary runs have told of one model, and the moments that follow from it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..forecast.completion import completed, fitted_to
from ..forecast.moments import Moments
from ..run.witness import FEWEST_OUTPUTS, Observed
from ..types import same_time
from . import profile_file
from .profile import ProfileHeader, header_of
from .profile_checks import LARGEST_VALUE, check_header, check_times
from .profile_file import NewerFormat, ProfileError

FORMAT_VERSION = 1
_HEADER_KEY = "sencache_learnt"

#: Runs remembered, and bytes that they may take in a file (ours): plans change little after a few,
#: and a model that is trained on, or asked for other things, is to be followed.
MOST_RUNS, MOST_BYTES = 16, 160_000
#: Runs that the bundled prior counts as much as (ours): with none, a plan follows the chances of a
#: single clip (docs/theory.md, section 8, has figures of models that the prior does not know).
PRIOR_COUNTS = 1


@dataclass(frozen=True, eq=False)
class LearntProfile:
    """The newest runs of one model under one schedule, sampler and guidance.

    Attributes:
        header: which these are; ``samples`` counts all runs that have been told of.
        runs: those that are remembered, the newest last.
    """

    header: ProfileHeader
    runs: tuple[Observed, ...] = ()

    @property
    def name(self) -> str:
        """Of its file, without extension: the family, and a digest of all that rules what was seen.

        Other noise levels, another sampler or guidance lead through other outputs.
        """
        own = self.header
        levels = ",".join(f"{sigma:.4g}" for sigma in own.sigmas)
        ruling = (own.fingerprint, own.sampler, f"{own.guidance:.3g}", own.tap, levels)
        digest = hashlib.sha256("|".join(ruling).encode()).hexdigest()
        return f"{own.family}-{own.fingerprint}-{digest[:12]}"

    def with_run(self, observed: Observed) -> LearntProfile:
        """This, and one more run. The oldest go, those first that have not computed every round."""
        runs = [*self.runs, observed]
        while len(runs) > 1 and (len(runs) > MOST_RUNS or sum(map(_size, runs)) > MOST_BYTES):
            older = range(len(runs) - 1)
            del runs[min(older, key=lambda k: (runs[k].complete, k))]
        header = replace(self.header, samples=self.header.samples + 1)
        return LearntProfile(header, tuple(runs))

    def moments(self, prior: Moments, times: Sequence[float]) -> Moments | None:
        """Moments of the model, by what has been seen of it.

        Inner products of rounds that a run has not computed are filled in from the prior's, see
        ``forecast/completion.py``, and the prior itself, its differences made as large as those
        seen, counts as one more run. How errors travel no ordinary run shows: gains and response
        are the prior's.

        Args:
            prior: of the family.
            times: time coordinates of a run's rounds, in any order.

        Returns:
            ``None`` if none of the runs has been at these times.
        """
        return _moments(self, prior, tuple(times))

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all.

        Raises:
            ProfileError: it cannot be written there.
        """
        arrays, facts = {}, []
        for number, run in enumerate(self.runs):
            arrays[f"{number}.t"] = run.t
            for name in ("gram", "lead"):
                gram = getattr(run, name)
                if name == "gram" or gram is not run.gram:
                    arrays[f"{number}.{name}"] = _packed(gram).astype(np.float32)
            error = run.error if math.isfinite(run.error) else None
            facts.append({"rounds": run.rounds, "error": error})
        header = {"format": FORMAT_VERSION, **asdict(self.header), "runs": facts}
        profile_file.write(path, {_HEADER_KEY: json.dumps(header)}, arrays)

    @classmethod
    def load(cls, path: str | Path) -> LearntProfile:
        """Read a file written by :meth:`save`.

        Raises:
            ProfileError: no such file, another kind of file, damaged, or of a newer format.
        """
        text, arrays = profile_file.read(path, _HEADER_KEY, lambda name: name[:1].isdigit())
        try:
            header = header_of(text, FORMAT_VERSION)
            check_header(vars(header))
            facts = json.loads(text)["runs"]
            runs = tuple(_run(f"{k}.", fact, arrays) for k, fact in enumerate(facts))
            return cls(header, runs)
        except NewerFormat:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ProfileError(f"{path} cannot be used: {error}") from error


@lru_cache(maxsize=8)
def _moments(learnt: LearntProfile, prior: Moments, times: tuple[float, ...]) -> Moments | None:
    """Those of :meth:`LearntProfile.moments`: the same object for the same question, so that
    what follows from it, a planner's costs, is known as well.
    """
    grid = _apart(times)
    placed = [found for run in learnt.runs if (found := _place(run, grid)) is not None]
    if not placed:
        return None

    def together(name: str, likely: np.ndarray) -> np.ndarray:
        seen = [(getattr(run, name)[np.ix_(kept, kept)], places) for run, kept, places in placed]
        each = sum(completed(gram, places, likely) for gram, places in seen)
        own = fitted_to(likely, seen)
        return (each + PRIOR_COUNTS * own) / (len(seen) + PRIOR_COUNTS)

    gap = prior.of_gap()
    return Moments(
        grid,
        together("gram", prior.mean_at(grid))[None],
        np.array([[prior.gain_at(t) for t in grid]]),
        np.array([[prior.response_at(t) for t in grid]]),
        together("lead", prior.lead_at(grid)),
        None if gap is None else gap.mean_at(grid),
    )


def _run(prefix: str, fact: Mapping, arrays: Mapping[str, np.ndarray]) -> Observed:
    t = arrays[f"{prefix}t"]
    check_times(t, "a run")
    gram = _unpacked(arrays[f"{prefix}gram"], len(t))
    lead = gram
    if f"{prefix}lead" in arrays:
        lead = _unpacked(arrays[f"{prefix}lead"], len(t))
    rounds, error = int(fact["rounds"]), fact["error"]
    return Observed(t, gram, lead, rounds, math.nan if error is None else float(error))


def _size(run: Observed) -> int:
    """Bytes in a file."""
    count = len(run.t)
    return 8 * count + (1 + (run.lead is not run.gram)) * 2 * count * (count + 1)


def _packed(gram: np.ndarray) -> np.ndarray:
    """``[N (N + 1) / 2]``: sizes, then mean square differences.

    A forecast's error is a small difference of inner products: kept as differences, these are as
    exact in float32 as they need to be.
    """
    sizes = np.diag(gram)
    above = np.triu_indices(len(gram), 1)
    squares = (sizes[:, None] + sizes - 2 * gram)[above]
    return np.concatenate([sizes, np.maximum(squares, 0)])


def _unpacked(values: np.ndarray, count: int) -> np.ndarray:
    if values.shape != (count * (count + 1) // 2,):
        raise ProfileError("a run in it has inner products of another number of times")
    if not ((values >= 0) & (values <= LARGEST_VALUE)).all() or (values[:count] == 0).any():
        raise ProfileError("a run in it has inner products that are none")
    squares = np.zeros((count, count))
    squares[np.triu_indices(count, 1)] = values[count:]
    sizes = values[:count]
    return (sizes[:, None] + sizes - squares - squares.T) / 2


def _apart(times: Sequence[float]) -> np.ndarray:
    """``[n]`` times, rising, each once."""
    kept: list[float] = []
    for t in sorted(times):
        if not kept or not same_time(t, kept[-1]):
            kept.append(t)
    return np.array(kept, dtype=np.float64)


def _place(run: Observed, grid: np.ndarray) -> tuple[Observed, np.ndarray, np.ndarray] | None:
    """A run, which of its outputs lie on the grid, and where; ``None`` if too few do."""
    places = np.abs(run.t[:, None] - grid).argmin(axis=1)
    kept = [k for k, place in enumerate(places) if same_time(run.t[k], grid[place])]
    return (run, np.array(kept), places[kept]) if len(kept) >= FEWEST_OUTPUTS else None
