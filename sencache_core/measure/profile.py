"""Measured sensitivities of one model, in one safetensors file with a JSON header."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..forecast.moments import Moments
from ..model.families import FAMILIES, Family

FORMAT_VERSION = 1
_HEADER_KEY = "sencache_profile"

#: Curves over time, each ``[T]``: sensitivities (RMS per RMS, RMS per unit t), speed of the latent
#: (RMS of dx per unit t), size of the output (RMS) and its ratio to the step before.
CURVES = ("alpha_x", "alpha_t", "speed", "output_rms", "ratio")

#: Arrays of the moments, see ``moments.py``.
MOMENTS = ("t", "gram", "gain", "response", "lead", "gap")


class ProfileError(ValueError):
    """A profile cannot be read or does not belong to the model. The message says what to do."""


@dataclass(frozen=True)
class ProfileHeader:
    """Where a profile comes from.

    Attributes:
        family: key in ``FAMILIES``.
        fingerprint: of the checkpoint (see ``fingerprint.py``), empty if unknown.
        sampler, scheduler: names as the host has them, empty if unknown.
        sigmas: noise levels of the calibration run.
        guidance: guidance scale of the calibration run, 0 if unknown.
        shape: latent ``[B, C, ...]`` it was measured on; of each modality in turn if several.
        dtype: of the latent.
        samples: trajectories averaged.
        tap: ``"output"`` or ``"stack"``: what was measured.
        source: free text: who made it, from what.
    """

    family: str
    fingerprint: str = ""
    sampler: str = ""
    scheduler: str = ""
    sigmas: tuple[float, ...] = ()
    guidance: float = 0.0
    shape: tuple[int, ...] = ()
    dtype: str = ""
    samples: int = 1
    tap: str = "output"
    source: str = ""


@dataclass(frozen=True, eq=False)
class Profile:
    """Curves indexed by the family's time coordinate, with their spread over samples.

    Attributes:
        header: where it comes from.
        t: ``[T]`` float64, strictly rising.
        mean: arrays ``[T]`` by curve name; always ``alpha_x`` and ``alpha_t``.
        spread: standard deviations over samples, of the same shapes; may be empty.
        moments: of the guided outputs, ``None`` in files that lack them.
    """

    header: ProfileHeader
    t: np.ndarray
    mean: Mapping[str, np.ndarray]
    spread: Mapping[str, np.ndarray] = field(default_factory=dict)
    moments: Moments | None = None

    def __post_init__(self) -> None:
        if self.header.family not in FAMILIES:
            raise ProfileError(
                f"the profile is for family {self.header.family!r}, which this version does not "
                f"know (it knows {', '.join(FAMILIES)})"
            )
        t = self.t
        if np.ndim(t) != 1 or not len(t) or not np.isfinite(t).all() or (np.diff(t) <= 0).any():
            raise ProfileError("the profile's times must be one strictly rising list")
        for name in ("alpha_x", "alpha_t"):
            if name not in self.mean:
                raise ProfileError(f"the profile lacks the curve {name!r}")
        for name, curve in (*self.mean.items(), *self.spread.items()):
            if np.shape(curve) != t.shape or not np.isfinite(curve).all():
                raise ProfileError(f"the curve {name!r} is not {len(t)} finite values long")

    def at(self, t: float) -> tuple[float, float]:
        """``(alpha_x, alpha_t)`` at ``t``, interpolated linearly, held outside the measured range.

        Paper, section on finite differences: RMS of the output's change per RMS of the latent's
        and per unit of the time coordinate.
        """
        return self.curve("alpha_x", t), self.curve("alpha_t", t)

    def speed(self, t: float) -> float:
        """RMS displacement of the latent per unit ``t``; the family's prior if not measured."""
        if "speed" in self.mean:
            return self.curve("speed", t)
        return FAMILIES[self.header.family].prior(t)[2]

    def curve(self, name: str, t: float) -> float:
        """Mean value of the curve ``name`` at ``t``."""
        return float(np.interp(t, self.t, self.mean[name]))

    def mismatches(self, other: ProfileHeader) -> list[str]:
        """Plain sentences on what differs between the calibration and the run ``other``.

        Raises:
            ProfileError: another family, or another tap: its figures would mean nothing there.
        """
        own = self.header
        if own.family != other.family:
            raise ProfileError(
                f"this profile was measured on {own.family}, but the model is {other.family}; "
                "choose a profile of the same family, or none to use the built-in prior"
            )
        if own.tap != other.tap:
            raise ProfileError(
                f"this profile was measured at the {own.tap} tap, but the run caches the "
                f"{other.tap}; calibrate with the same tap"
            )
        notes = []
        if own.fingerprint and other.fingerprint and own.fingerprint != other.fingerprint:
            notes.append("the profile was measured on another checkpoint of this family")
        if own.sampler and other.sampler and own.sampler != other.sampler:
            notes.append(f"the profile was measured with {own.sampler}, this is {other.sampler}")
        if own.sigmas and other.sigmas and not _covers(own.sigmas, other.sigmas):
            notes.append("the run visits noise levels that the calibration did not")
        if own.guidance and other.guidance and abs(own.guidance - other.guidance) > 0.5:
            notes.append(
                f"the profile was measured at guidance {own.guidance:g}, this is {other.guidance:g}"
            )
        return notes

    def save(self, path: str | Path) -> None:
        """Write one safetensors file. The header goes into its metadata as JSON."""
        arrays = {"t": self.t}
        arrays |= {f"mean.{k}": v for k, v in self.mean.items()}
        arrays |= {f"spread.{k}": v for k, v in self.spread.items()}
        if self.moments is not None:
            known = {k: v for k, v in vars(self.moments).items() if isinstance(v, np.ndarray)}
            arrays |= {f"moments.{k}": v for k, v in known.items() if k in MOMENTS}
        header = {"format": FORMAT_VERSION, **asdict(self.header)}
        save_file(
            {k: np.ascontiguousarray(v, dtype=np.float64) for k, v in arrays.items()},
            str(path),
            metadata={_HEADER_KEY: json.dumps(header)},
        )

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read a file written by :meth:`save`.

        Raises:
            ProfileError: no such file, not a profile, or of a newer format.
        """
        try:
            with safe_open(str(path), framework="numpy") as file:
                text = (file.metadata() or {}).get(_HEADER_KEY)
                keys = file.keys() if text is not None else ()  # do not read a whole checkpoint
                arrays = {key: file.get_tensor(key) for key in keys}
        except (OSError, TypeError, SafetensorError) as error:
            raise ProfileError(f"cannot read the profile {path}: {error}") from error
        if text is None:
            raise ProfileError(f"{path} is a safetensors file, but not a SenCache profile")
        try:
            raw = dict(json.loads(text))
            version = raw.pop("format")
            if version > FORMAT_VERSION:
                raise ProfileError(f"{path} has format {version}; update SenCache to read it")
            raw["sigmas"], raw["shape"] = tuple(raw["sigmas"]), tuple(raw["shape"])
            return cls(
                ProfileHeader(**raw),
                arrays.pop("t"),
                _known(_below("mean.", arrays)),
                _known(_below("spread.", arrays)),
                Moments(**moments) if (moments := _below("moments.", arrays)) else None,
            )
        except ProfileError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise ProfileError(f"{path} has a damaged profile header: {error}") from error


def _below(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _known(curves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those curves that this version reads: files may hold others."""
    return {name: curve for name, curve in curves.items() if name in CURVES}


def _covers(measured: Sequence[float], asked: Sequence[float]) -> bool:
    """Whether ``asked`` lies within ``measured``, but for a factor of 2 at the low end.

    Noise level 0 ends a list and is never evaluated.
    """
    measured, asked = ([s for s in sigmas if s > 0] or [0.0] for sigmas in (measured, asked))
    return min(asked) >= min(measured) / 2 and max(asked) <= max(measured) * 1.01


@dataclass(frozen=True)
class Recording:
    """What one calibration trajectory gave: times as visited and one value (row) per time.

    Attributes:
        t: ``[T]``, in the order of the run.
        curves: ``[T]`` by name.
        visited: ``[N]`` times of all rounds, in the order of the run.
        gram: ``[N, N]`` inner products of the guided outputs at them, ``None`` if not seen.
        lead: ``[N, N]``, the same of the leading branch.
        gap: ``[N, N]``, the same of their difference; ``None`` where there is none.
        travels: what each probe found, see ``probe.Travel``.
    """

    t: tuple[float, ...]
    curves: Mapping[str, np.ndarray]
    visited: tuple[float, ...] = ()
    gram: np.ndarray | None = None
    lead: np.ndarray | None = None
    gap: np.ndarray | None = None
    travels: Sequence[tuple[float, float, float, float]] = ()


def combine(recordings: Sequence[Recording], header: ProfileHeader) -> Profile:
    """Average recordings of the same schedule.

    Raises:
        ProfileError: no recordings, of different schedules, or with values that are not finite.
    """
    if not recordings or not recordings[0].t:
        raise ProfileError("nothing was recorded: the run ended before its second evaluation")
    for number, recording in enumerate(recordings, start=1):
        found = (*recording.curves.values(), recording.gram, np.array(recording.travels))
        if not all(np.isfinite(values).all() for values in found if values is not None):
            raise ProfileError(
                f"sample {number} of {len(recordings)} gave values that are not finite: the model "
                "breaks down on it, uncached as it is; try another seed, or a wider dtype"
            )
    first = recordings[0]
    same = (len(r.t) == len(first.t) and np.allclose(r.t, first.t, atol=1e-6) for r in recordings)
    if not all(same):
        raise ProfileError("the recordings follow different schedules; calibrate with one")
    order = np.argsort(first.t)
    mean, spread = {}, {}
    for name in first.curves:
        rows = np.stack([r.curves[name] for r in recordings])[:, order]
        mean[name], spread[name] = rows.mean(axis=0), rows.std(axis=0)
    t = np.asarray(first.t, dtype=np.float64)[order]
    return Profile(header, t, mean, spread, _moments(recordings))


def _moments(recordings: Sequence[Recording]) -> Moments | None:
    """Second moments of all samples on the times of the first; gains between probed times."""
    first = recordings[0]
    if any(r.gram is None or len(r.visited) != len(first.visited) for r in recordings):
        return None
    order = np.argsort(first.visited)
    t = np.asarray(first.visited, dtype=np.float64)[order]
    gram = np.stack([r.gram[np.ix_(order, order)] for r in recordings])
    lead = np.mean([r.lead for r in recordings], axis=0)[np.ix_(order, order)]
    gap = None
    if all(r.gap is not None for r in recordings):
        gap = np.mean([r.gap for r in recordings], axis=0)[np.ix_(order, order)]
    if not any(r.travels for r in recordings):
        return Moments(t, gram, lead=lead, gap=gap)
    gains = np.full((len(recordings), len(t)), np.nan)
    responses = gains.copy()
    for number, recording in enumerate(recordings):
        if not recording.travels:
            continue
        when, gain, answered, response = np.array(sorted(recording.travels), dtype=np.float64).T
        # At the end of the run a displacement is the final latent's own.
        logs = np.log(np.maximum([1.0, *gain], 1e-6))
        gains[number] = np.interp(t, [min(0.0, when[0] - 1e-6), *when], logs)
        responses[number] = np.interp(t, answered, response)
    for curves in (gains, responses):  # a sample that was not probed is like the others
        curves[:] = np.where(np.isnan(curves), np.nanmean(curves, axis=0), curves)
    return Moments(t, gram, np.exp(gains), responses, lead, gap)


def import_npz(path: str | Path, family: Family, timestep_to_t, numel: int) -> Profile:
    """Read a table as the paper's authors publish it.

    Their files hold L2 norms over one calibration shape against timesteps 0..1000, so
    ``alpha_x`` carries over while ``alpha_t`` is divided by ``sqrt(numel)`` and by the length of a
    timestep in the family's coordinate.

    Args:
        path: ``.npz`` with keys ``timesteps``, ``J_x_norm``, ``J_t_norm`` (each ``[T]``).
        family: row the table belongs to.
        timestep_to_t: maps a timestep to the family's coordinate.
        numel: entries of the calibration latent, see ``AUTHORS_NUMEL``.

    Raises:
        ProfileError: missing file, missing keys, or arrays of unequal length.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            timesteps, j_x, j_t = (
                np.asarray(file[k], dtype=np.float64).reshape(-1)
                for k in ("timesteps", "J_x_norm", "J_t_norm")
            )
    except KeyError as error:
        raise ProfileError(
            f"{path} has no {error}; expected the keys timesteps, J_x_norm and J_t_norm"
        ) from error
    except (OSError, TypeError, ValueError, BadZipFile) as error:
        raise ProfileError(f"cannot read {path}: {error}") from error
    if not len(timesteps) == len(j_x) == len(j_t):
        raise ProfileError(f"{path} holds arrays of unequal length")
    t = np.array([timestep_to_t(value) for value in timesteps])
    per_timestep = np.array([(timestep_to_t(v + 0.5) - timestep_to_t(v - 0.5)) for v in timesteps])
    keep = np.unique(t, return_index=True)[1]
    mean = {"alpha_x": j_x[keep], "alpha_t": (j_t / np.sqrt(numel) / np.abs(per_timestep))[keep]}
    header = ProfileHeader(
        family=family.name,
        sigmas=tuple(family.sigma(v) for v in t[keep]),
        samples=0,
        source=Path(path).name,
    )
    return Profile(header, t[keep], mean)


#: Latent entries of the authors' calibration runs: the squares of the factors in their code
#: (1447.978, 1099.818 and 1015.969; sencache.py of each model in vita-epfl/SenCache).
AUTHORS_NUMEL = {
    "wan": 16 * 21 * 60 * 104,
    "cogvideox": 14 * 16 * 60 * 90,
    "ltx": 128 * 21 * 16 * 24,
}
