"""The file that a profile lives in: read once and whole, written whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from . import whole_file

#: Bytes of the largest profile read: 64 samples of 1000 steps with two evaluations make 2 GB.
LARGEST = 1 << 32
#: Bytes of the largest header that the format allows.
_LARGEST_HEADER = 100_000_000
#: Bytes that a trial write asks for: a profile of 50 steps and a few samples has half as many.
_TRIAL = 1 << 20
_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


class ProfileError(ValueError):
    """A profile cannot be read, written or used with the model. The message says what to do."""


class NewerFormat(ProfileError):
    """A file that only a newer version can read."""


class AnotherKind(ProfileError):
    """A safetensors file of something else."""


def read(
    path: str | Path, key: str, known: Callable[[str], bool]
) -> tuple[str, dict[str, np.ndarray]]:
    """The text under ``key`` of a safetensors file's metadata, and the arrays that are ``known``.

    The file is opened once and read into memory, not mapped: what replaces or shortens it meanwhile
    does no harm. A checkpoint that was picked by mistake is not read beyond its header.

    Args:
        path: file to read.
        key: metadata entry that tells a profile from any other safetensors file.
        known: which arrays, by name, to hand back; the others may be of any kind.

    Returns:
        The text, and float64 arrays by name.

    Raises:
        ProfileError: no such file, or it is not a profile.
        AnotherKind: it has no such metadata.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ProfileError(f"cannot read the profile {path}: it is not a file")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if length > min(size, _LARGEST_HEADER):
                raise SafetensorError("it is not a safetensors file")
            header = file.read(length)
            text = _metadata(header).get(key)
            if text is None:
                raise AnotherKind(
                    f"{path} is a safetensors file, but not a SenCache profile; choose another file"
                )
            if size > LARGEST:
                raise ProfileError(f"cannot read the profile {path}: it is larger than 4 GB")
            tensors = deserialize(start + header + file.read())
    except ProfileError:
        raise
    except OSError as error:
        raise ProfileError(f"cannot read the profile {path}: {error.strerror or error}") from error
    except RecursionError as error:
        raise ProfileError(
            f"cannot read the profile {path}: its header is nested too deeply"
        ) from error
    except (MemoryError, SafetensorError, TypeError, ValueError) as error:
        raise ProfileError(f"cannot read the profile {path}: {error}") from error
    return text, {name: _array(path, name, found) for name, found in tensors if known(name)}


def _metadata(header: bytes) -> Mapping[str, str]:
    parsed = json.loads(header)
    metadata = parsed.get("__metadata__") if isinstance(parsed, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def _array(path: str | Path, name: str, found: Mapping) -> np.ndarray:
    dtype = _DTYPES.get(found["dtype"])
    if dtype is None:
        raise ProfileError(
            f"cannot read the profile {path}: {name!r} holds {found['dtype']} values, not float64; "
            "calibrate again, or choose another profile"
        )
    try:
        array = np.frombuffer(found["data"], dtype).reshape(found["shape"])
    except ValueError as error:  # empty, with dimensions that no array can have
        raise ProfileError(f"cannot read the profile {path}: {name!r}: {error}") from error
    return array.astype(np.float64)


def write(path: str | Path, metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a safetensors file, whole or not at all.

    Arrays are written as float64, but for those of float32.

    Raises:
        ProfileError: it cannot be written there.
    """
    whole = {
        name: np.ascontiguousarray(v, None if v.dtype == np.float32 else np.float64)
        for name, v in arrays.items()
    }
    _put(path, save(whole, metadata=dict(metadata)), keep=True)


def check_writable(path: str | Path) -> None:
    """Try out whether a profile can be written to ``path``, before hours are spent on it.

    Raises:
        ProfileError: it cannot. What lies there stays as it is.
    """
    _put(path, bytes(_TRIAL), keep=False)


def _put(path: str | Path, data: bytes, keep: bool) -> None:
    try:
        target = Path(os.path.realpath(path))  # a link goes on pointing to its file
        found = None
        with suppress(FileNotFoundError):  # but not a name that is too long
            found = os.stat(target).st_mode
        if found is not None and not (stat.S_ISREG(found) and os.access(target, os.W_OK)):
            raise ProfileError(
                f"cannot write the profile {path}: what has this name cannot be replaced; choose "
                "another name"
            )
        whole_file.put(target, data, keep)
    except ProfileError:
        raise
    except (OSError, ValueError) as error:
        raise ProfileError(
            f"cannot write the profile {path}: {getattr(error, 'strerror', None) or error}; "
            "choose another folder or name, or free some space"
        ) from error
