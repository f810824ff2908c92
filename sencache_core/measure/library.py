"""What lies in the folders of profiles and of learnt models: a row a file, for lists of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .learnt import LearntProfile
from .learnt_store import LearntStore
from .profile import Profile, ProfileHeader
from .profile_file import AnotherKind, ProfileError

PROFILE, LEARNT = "profile", "learnt"


@dataclass(frozen=True)
class Row:
    """One file.

    Attributes:
        kind: ``"profile"`` or ``"learnt"``.
        name: as it is picked or listed, without extension.
        size: bytes.
        when: when it was written, seconds since 1970.
        header: what it rests on; ``None`` if that cannot be told.
        problem: why not, else empty.
        error: median of how far forecasts were off in learnt runs, relative; ``None`` if unknown.
    """

    kind: str
    name: str
    size: int
    when: float
    header: ProfileHeader | None = None
    problem: str = ""
    error: float | None = None

    def to_dict(self) -> dict:
        """For JSON. ``fingerprint`` tells checkpoints apart; ``steps`` and ``guidance`` are 0 where
        unknown."""
        own = {"kind": self.kind, "name": self.name, "size": self.size, "when": self.when}
        own |= {"problem": self.problem, "error": self.error}
        if self.header is not None:
            names = "family fingerprint samples steps sampler scheduler guidance tap label source"
            own |= {name: getattr(self.header, name) for name in names.split()}
            own["shape"] = list(self.header.shape)
        return own


def profile_rows(files: Iterable[tuple[str, Path]]) -> Iterator[Row]:
    """Rows of profiles, given by name and path. One that is gone meanwhile is left out."""
    for name, path in files:
        try:
            size, when = _stat(path)
        except OSError:
            continue
        try:
            yield Row(PROFILE, name, size, when, Profile.load(path).header)
        except ProfileError as error:
            yield Row(PROFILE, name, size, when, problem=str(error))


def learnt_rows(store: LearntStore) -> Iterator[Row]:
    """Rows of a folder of learnt models, by name."""
    for path, found in store.listed():
        try:
            size, when = _stat(path)
        except OSError:
            continue
        if isinstance(found, ProfileError):
            yield Row(LEARNT, path.stem, size, when, problem=str(found))
            continue
        errors = [run.error for run in found.runs if math.isfinite(run.error)]
        error = float(np.median(errors)) if errors else None
        yield Row(LEARNT, path.stem, size, when, found.header, error=error)


def read(path: str | Path) -> Profile | LearntProfile:
    """What a file holds, whichever of the two.

    Raises:
        ProfileError: neither, damaged, or of a newer version.
    """
    try:
        return Profile.load(path)
    except AnotherKind:
        return LearntProfile.load(path)


def _stat(path: Path) -> tuple[int, float]:
    found = path.stat()
    return found.st_size, found.st_mtime
