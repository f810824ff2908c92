"""Measured sensitivities of one model, in one safetensors file with a JSON header."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from ..forecast.layers import LayerCurve, LayerCurves
from ..forecast.moments import Moments
from ..model.families import FAMILIES
from ..sampler.schedule import sampler_key
from ..types import CROSS, MLP, SELF
from ..words import Message, about
from . import layers as layer_watch
from . import profile_file
from .profile_checks import (
    LARGEST_GAIN,
    LARGEST_RESPONSE,
    check_curve,
    check_header,
    check_layers,
    check_moments,
    check_times,
)
from .profile_file import NewerFormat, ProfileError

FORMAT_VERSION = 1
_HEADER_KEY = "sencache_profile"

#: Curves over time, each ``[T]``: sensitivities (RMS per RMS, RMS per unit t), speed of the latent
#: (RMS of dx per unit t), size of the output (RMS) and its ratio to the step before; and where it
#: was seen, mean absolute change to the next step, over the mean size, of what TeaCache looks at
#: and of the output.
CHANGES = ("signal_change", "output_change")
CURVES = ("alpha_x", "alpha_t", "speed", "output_rms", "ratio", *CHANGES)

#: Arrays of the moments, see ``moments.py``.
MOMENTS = ("t", "gram", "gain", "response", "lead", "gap")

#: Arrays of the curves of each kind of layer, see ``forecast/layers.py``.
LAYERS = ("change", "inner", "square", "mean")
LAYER_KINDS = (SELF, CROSS, MLP)

#: Names of the arrays that this version reads from a file.
_ARRAYS = frozenset(
    {
        "t",
        *(f"{kind}.{name}" for kind in ("mean", "spread") for name in CURVES),
        *(f"moments.{name}" for name in MOMENTS),
        "layers.t",
        *(f"layers.{kind}.{name}" for kind in LAYER_KINDS for name in LAYERS),
    }
)


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
        seeds: noise seeds of the samples, as far as they are known.
        label: what a person calls it, empty where the file's name says that.
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
    seeds: tuple[int, ...] = ()
    label: str = ""

    @property
    def steps(self) -> int:
        """Of the run that it was measured on, 0 if unknown."""
        return max(len(self.sigmas) - 1, 0)


@dataclass(frozen=True, eq=False)
class Profile:
    """Curves indexed by the family's time coordinate, with their spread over samples.

    Attributes:
        header: where it comes from.
        t: ``[T]`` float64, strictly rising.
        mean: arrays ``[T]`` by curve name; always ``alpha_x`` and ``alpha_t``.
        spread: standard deviations over samples, of the same shapes; may be empty.
        moments: of the guided outputs, ``None`` in files that lack them.
        layers: how its layers change, ``None`` where that was not measured.
    """

    header: ProfileHeader
    t: np.ndarray
    mean: Mapping[str, np.ndarray]
    spread: Mapping[str, np.ndarray] = field(default_factory=dict)
    moments: Moments | None = None
    layers: LayerCurves | None = None

    def __post_init__(self) -> None:
        check_header(vars(self.header))
        if self.header.family not in FAMILIES:
            raise ProfileError(
                f"it is for the family {self.header.family!r}, which this version does not know "
                f"(it knows {', '.join(FAMILIES)})"
            )
        check_times(self.t, "the profile")
        for name in ("alpha_x", "alpha_t"):
            if name not in self.mean:
                raise ProfileError(f"the profile lacks the curve {name!r}")
        for name, curve in (*self.mean.items(), *self.spread.items()):
            check_curve(name, curve, len(self.t))
        if self.moments is not None:
            check_moments(self.moments)
        if self.layers is not None:
            check_layers(self.layers)

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

    def changes(self) -> tuple[np.ndarray, np.ndarray] | None:
        """``[T]`` each: changes to the next step of TeaCache's signal and of the output."""
        if not all(name in self.mean for name in CHANGES):
            return None
        return tuple(self.mean[name] for name in CHANGES)

    def curve(self, name: str, t: float) -> float:
        """Mean value of the curve ``name`` at ``t``."""
        return float(np.interp(t, self.t, self.mean[name]))

    def mismatches(self, other: ProfileHeader) -> list[Message]:
        """What differs between the calibration and the run ``other``.

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
            notes.append(Message.of("profile.checkpoint"))
        samplers = sampler_key(own.sampler), sampler_key(other.sampler)
        if all(samplers) and samplers[0] != samplers[1]:
            names = {"measured": own.sampler, "used": other.sampler}
            notes.append(Message("profile.sampler", names))
        if own.sigmas and other.sigmas and not _covers(own.sigmas, other.sigmas):
            notes.append(Message.of("profile.levels"))
        if own.guidance and other.guidance and abs(own.guidance - other.guidance) > 0.5:
            scales = {"measured": about(own.guidance), "used": about(other.guidance)}
            notes.append(Message("profile.guidance", scales))
        return notes

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all. The header is JSON in its metadata.

        Raises:
            ProfileError: it cannot be written there.
        """
        arrays = {"t": self.t}
        arrays |= {f"mean.{k}": v for k, v in self.mean.items()}
        arrays |= {f"spread.{k}": v for k, v in self.spread.items()}
        if self.moments is not None:
            known = {k: v for k, v in vars(self.moments).items() if isinstance(v, np.ndarray)}
            arrays |= {f"moments.{k}": v for k, v in known.items() if k in MOMENTS}
        if self.layers is not None:
            arrays["layers.t"] = self.layers.t
            for kind, curve in self.layers.kinds.items():
                arrays |= {f"layers.{kind}.{k}": v.astype("f4") for k, v in vars(curve).items()}
        header = {"format": FORMAT_VERSION, **asdict(self.header)}
        profile_file.write(path, {_HEADER_KEY: json.dumps(header, default=_plain)}, arrays)

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read a file written by :meth:`save`. What a newer version may have added is passed over.

        Raises:
            ProfileError: no such file, not a profile, damaged, or of a newer format.
        """
        text, arrays = profile_file.read(path, _HEADER_KEY, _ARRAYS.__contains__)
        try:
            header = header_of(text, FORMAT_VERSION)
            if "t" not in arrays:
                raise ProfileError("it holds no times")
            moments = _below("moments.", arrays)
            for name in ("t", "gram"):
                if moments and name not in moments:
                    raise ProfileError(f"it lacks the array 'moments.{name}'")
            return cls(
                header,
                arrays["t"],
                _below("mean.", arrays),
                _below("spread.", arrays),
                Moments(**moments, guidance=header.guidance) if moments else None,
                _layers(_below("layers.", arrays)),
            )
        except (TypeError, ValueError) as error:
            raise ProfileError(
                f"{path} cannot be used: {error}. Calibrate again, or choose another profile"
            ) from error


def header_of(text: str, newest: int) -> ProfileHeader:
    """The header that a file's JSON holds. Keys that this version does not know are passed over.

    Args:
        text: JSON.
        newest: format of its kind that this version reads.

    Raises:
        ProfileError: it is none, or of a newer format.
    """
    try:
        raw = json.loads(text)
    except RecursionError as error:
        raise ProfileError("its header is nested too deeply") from error
    if not isinstance(raw, dict):
        raise ProfileError("its header is not a JSON object")
    version = raw.get("format")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ProfileError("its header does not give its format as a number")
    if version > newest:
        raise NewerFormat(f"it has format {version}, which a newer SenCache can read: update it")
    if "family" not in raw:
        raise ProfileError("its header does not name a model family")
    names = {f.name for f in fields(ProfileHeader)}
    known = {name: value for name, value in raw.items() if name in names}
    return ProfileHeader(**{k: tuple(v) if isinstance(v, list) else v for k, v in known.items()})


def _plain(number: np.generic) -> int | float:
    return number.item()


def _below(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _layers(arrays: Mapping[str, np.ndarray]) -> LayerCurves | None:
    """The curves of layers among a file's arrays; ``None``: it has none."""
    if not arrays:
        return None
    kinds = {kind: _below(f"{kind}.", arrays) for kind in LAYER_KINDS}
    for name in ("t", *(f"{k}.{part}" for k, found in kinds.items() if found for part in LAYERS)):
        if name not in arrays:
            raise ProfileError(f"it lacks the array 'layers.{name}'")
    return LayerCurves(arrays["t"], {k: LayerCurve(**found) for k, found in kinds.items() if found})


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
        layers: how its layers changed; ``None``: they were not watched.
    """

    t: tuple[float, ...]
    curves: Mapping[str, np.ndarray]
    visited: tuple[float, ...] = ()
    gram: np.ndarray | None = None
    lead: np.ndarray | None = None
    gap: np.ndarray | None = None
    travels: Sequence[tuple[float, float, float, float]] = ()
    layers: LayerCurves | None = None


def combine(recordings: Sequence[Recording], header: ProfileHeader) -> Profile:
    """Average recordings of the same schedule.

    Raises:
        ProfileError: no recordings, of different schedules, or with values that are not finite.
    """
    if not recordings or not recordings[0].t:
        raise ProfileError("nothing was recorded: the run ended before its second evaluation")
    for number, recording in enumerate(recordings, start=1):
        found = (*recording.curves.values(), recording.gram, np.array(recording.travels))
        if recording.layers is not None:
            found += tuple(v for c in recording.layers.kinds.values() for v in vars(c).values())
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
    moments = _moments(recordings)
    if moments is not None:
        moments = replace(moments, guidance=header.guidance)
    layers = layer_watch.average([recording.layers for recording in recordings])
    return Profile(header, t, mean, spread, moments, layers)


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
    gains = np.minimum(np.exp(gains), LARGEST_GAIN)
    responses = np.clip(responses, -LARGEST_RESPONSE, LARGEST_RESPONSE)
    return Moments(t, gram, gains, responses, lead, gap)
