"""The folder of what runs have told, shared by all processes that sample."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from filelock import FileLock, Timeout

from ..model.families import FAMILIES
from ..run.witness import Observed
from .learnt import LearntProfile
from .profile import ProfileHeader
from .profile_file import NewerFormat, ProfileError

#: Seconds that a run's end waits for another process to write (ours): writing takes milliseconds.
PATIENCE = 10.0
_LOCK = ".lock"
_NAME = re.compile(r"[\w-]+")

#: Environment variable that names the folder where nobody has named another, or ``off``.
VARIABLE = "SENCACHE_LEARNT"


def default_folder() -> Path | None:
    """Where what is learnt lies unless told otherwise: ``SENCACHE_LEARNT``, else
    ``sencache/learnt`` in the user's folder for caches; ``None``: the variable says ``off``.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return None if named == "off" else Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "sencache", "learnt")


@dataclass(frozen=True)
class LearntStore:
    """One file a model, sampler, guidance, schedule and tap.

    Attributes:
        folder: where they lie; made when there is something to write.
        full_first: whether a run of which nothing is known yet is computed in full, so that the
            next ones know all of it.
    """

    folder: Path
    full_first: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))

    def path(self, header: ProfileHeader) -> Path:
        """Of the file of such runs, whether or not there is one."""
        return self.folder / f"{LearntProfile(header).name}.safetensors"

    def load(self, header: ProfileHeader) -> LearntProfile | None:
        """What is known of such runs; ``None`` if nothing is.

        Where the guidance is not known, of the newest that differ in nothing else.

        Raises:
            ProfileError: the file cannot be read.
        """
        path = self.path(header)
        if not path.is_file() and not header.guidance:
            path = max(self._alike(header), key=_stamp, default=path)
        return _read(path, _stamp(path)) if path.is_file() else None

    def _alike(self, header: ProfileHeader) -> Iterator[Path]:
        """Files of runs that differ from these in guidance alone."""
        for path, learnt in self.listed():
            if isinstance(learnt, LearntProfile):
                like = replace(header, guidance=learnt.header.guidance)
                if path == self.path(like):
                    yield path

    def add(self, header: ProfileHeader, observed: Observed) -> LearntProfile:
        """Put one run to those that are there, whoever has written them; what is known now.

        A damaged file is replaced, one of a newer version left alone.

        Raises:
            ProfileError: it cannot be written.
        """
        path = self.path(header)
        with self._locked():
            known = None
            try:
                known = LearntProfile.load(path) if path.is_file() else None
            except NewerFormat:
                raise
            except ProfileError:
                pass  # damaged
            learnt = (known or LearntProfile(_blank(header))).with_run(observed)
            learnt.save(path)
            return learnt

    def put(self, learnt: LearntProfile) -> Path:
        """Save what another folder has learnt; the file's path.

        Raises:
            ProfileError: it cannot be written, or does not say of which model it is.
            FileExistsError: there is something of such runs already.
        """
        if learnt.header.family not in FAMILIES or not _NAME.fullmatch(learnt.name):
            raise ProfileError("its header names no model that this version knows")
        path = self.path(learnt.header)
        with self._locked():
            if os.path.lexists(path):
                raise FileExistsError(path.stem)
            learnt.save(path)
        return path

    def label(self, path: Path, text: str) -> None:
        """Call what lies there ``text``; its date stays.

        Raises:
            ProfileError: it cannot be read or written.
        """
        with self._locked():
            learnt = LearntProfile.load(path)
            found = os.stat(path)
            replace(learnt, header=replace(learnt.header, label=text)).save(path)
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / _LOCK, timeout=PATIENCE)
            lock.acquire()
        except Timeout as error:
            raise ProfileError(f"{self.folder} is locked by another process") from error
        except OSError as error:
            raise ProfileError(f"cannot write to {self.folder}: {error.strerror}") from error
        try:
            yield
        finally:
            lock.release()

    def listed(self) -> Iterator[tuple[Path, LearntProfile | ProfileError]]:
        """All files, by name, and what is in them, or why that cannot be told."""
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                yield path, LearntProfile.load(path)
            except ProfileError as error:
                yield path, error

    def remove(self, name: str) -> int:
        """Delete the files whose names begin with ``name``; how many there were."""
        found = [path for path in self.folder.glob("*.safetensors") if path.name.startswith(name)]
        for path in found:
            with suppress(FileNotFoundError):
                path.unlink()
        return len(found)


@lru_cache(maxsize=8)
def _read(path: Path, stamp: tuple[int, int]) -> LearntProfile:
    """A file as it was at ``stamp``; kept, since every look ahead at a run asks for it."""
    return LearntProfile.load(path)


def _stamp(path: Path) -> tuple[int, int]:
    """When a file was written, and its size; zeros if it is gone."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _blank(header: ProfileHeader) -> ProfileHeader:
    return replace(header, samples=0, source="ordinary runs")
