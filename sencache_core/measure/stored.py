"""Model outputs of earlier runs on disk, shared by all processes that sample.

Approximate caching over requests (Agarwal et al. 2024, NIRVANA, arXiv 2312.04429; FlexCache, arXiv
2501.04012) starts a request from the intermediate latent of another one. Here a request is answered
call by call instead: what the model gave for the very same input is what it would give again, so
that any sampler goes through the same latents, bit for bit, without the model having run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from . import whole_file

#: Environment variable that names the folder, where nobody has named another.
VARIABLE = "SENCACHE_STORED"
#: Seconds to wait while another process makes room (ours): listing a folder takes milliseconds.
PATIENCE = 10.0
#: Seconds after which an unfinished file is one that a killed process has left (ours).
_ABANDONED = 3600.0
#: Stored calls that are looked at for the nearest prompt (ours), the last used ones.
_MOST_NEAR = 32

_LOCK = ".lock"
_KEY = "sencache_call"
_FORMAT = 1
_NAME = re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}\.safetensors")
_LARGEST_HEADER = 1 << 20


def named_folder() -> Path | None:
    """The folder that ``SENCACHE_STORED`` names, ``None``: none."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


@dataclass(frozen=True)
class CallKey:
    """Digests of all that rules what a model call gives, see ``model/digest.py``.

    Attributes:
        model: weights, and the patches on them.
        machine: device and software.
        latent: the noisy latent ``x``, and so seed, sampler, steps and guidance so far.
        level: noise level.
        inputs: everything else that is handed to the model.
        prompt: the text's embedding.
    """

    model: str
    machine: str
    latent: str
    level: str
    inputs: str
    prompt: str

    @property
    def rest(self) -> str:
        """Digest of all but the prompt."""
        parts = (self.model, self.machine, self.latent, self.level, self.inputs)
        return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]

    @property
    def name(self) -> str:
        return f"{self.rest}-{self.prompt}"

    def differs(self, other: CallKey) -> tuple[str, ...]:
        """Names of the parts that are not the other's."""
        return tuple(
            f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)
        )


@dataclass(frozen=True)
class CallFacts:
    """What people want to know of a stored call.

    Attributes:
        run: digits that all calls share whose runs began alike.
        family: of the model.
        step: of the sampler's schedule, from 0.
        steps: of the schedule.
        sampler: its name.
        guidance: the guider's scale, 0: none, or several.
        shape: of the noisy latent that was handed to the model.
    """

    run: str
    family: str
    step: int
    steps: int
    sampler: str
    guidance: float
    shape: tuple[int, ...]


class StoreError(OSError):
    """Nothing can be written to the store. The message says why."""


@dataclass(frozen=True)
class CallStore:
    """One file a model call, named by its key. The least recently used ones make room.

    Attributes:
        folder: where they lie; made when there is something to write. Other files in it are left
            alone.
        most_bytes: what they may take up together.
    """

    folder: Path
    most_bytes: int = 10**10

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))

    def path(self, key: CallKey) -> Path:
        """Of the file of this call, whether or not there is one."""
        return self.folder / f"{key.name}.safetensors"

    def get(self, key: CallKey) -> Tensor | None:
        """What the model gave, as it was given, on the CPU; ``None`` if that is not known.

        A damaged file is removed.
        """
        return _output(self.path(key))

    def nearest(
        self, key: CallKey, pooled: Tensor, least: float
    ) -> tuple[Tensor | None, float | None]:
        """What the model gave for another prompt, all else being equal.

        Args:
            pooled: ``[branches, width]``, see :func:`pooled`.
            least: smallest cosine between the two, of the branch where it is smallest.

        Returns:
            The output for the most similar prompt, ``None`` if none is as similar, and its cosine,
            ``None`` if there is no other prompt.
        """
        found = []
        same = sorted(self.folder.glob(f"{key.rest}-*.safetensors"), key=_used, reverse=True)
        for path in same[:_MOST_NEAR]:
            with suppress(OSError, SafetensorError), safe_open(path, "pt") as file:
                if "pooled" in file.keys():  # noqa: SIM118 (it is no mapping)
                    found.append((_cosine(file.get_tensor("pooled"), pooled), path))
        for cosine, path in sorted(found, reverse=True):
            output = _output(path) if cosine >= least else None
            if output is not None or cosine < least:
                return output, cosine
        return None, None

    def put(
        self, key: CallKey, output: Tensor, facts: CallFacts, pooled: Tensor | None = None
    ) -> bool:
        """Keep what the model gave, if there is room for it at all.

        Args:
            output: of any shape and dtype.
            pooled: of the prompt, for :meth:`nearest`.

        Returns:
            Whether it was written; not where it lies there already, which counts as a use of it.

        Raises:
            StoreError: it cannot be written.
        """
        path = self.path(key)
        if _touched(path):
            return False
        tensors = {"output": output.detach().cpu().contiguous()}
        if pooled is not None:
            tensors["pooled"] = pooled.detach().float().cpu().contiguous()
        text = json.dumps({"format": _FORMAT, "key": asdict(key), "facts": asdict(facts)})
        data = save(tensors, metadata={_KEY: text, "sha256": _sum(tensors["output"])})
        if len(data) > self.most_bytes:
            return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / _LOCK, timeout=PATIENCE):
                self._make_room(len(data))
                whole_file.put(path, data)
        except Timeout as error:
            raise StoreError(f"{self.folder} is locked by another process") from error
        except OSError as error:
            raise StoreError(f"cannot write to {self.folder}: {error.strerror}") from error
        return True

    def _make_room(self, size: int) -> None:
        """Remove the least recently used calls until ``size`` more bytes fit."""
        known = []
        for path in self._paths():
            with suppress(OSError):
                found = path.stat()
                known.append((found.st_mtime_ns, found.st_size, path))
        held = sum(entry[1] for entry in known)
        for _, bytes_, path in sorted(known):
            if held + size <= self.most_bytes:
                break
            with suppress(FileNotFoundError):
                path.unlink()
            held -= bytes_
        for part in self.folder.glob(".*.part"):
            with suppress(OSError):
                if time.time() - part.stat().st_mtime > _ABANDONED:
                    part.unlink()

    def _paths(self) -> Iterator[Path]:
        return (path for path in self.folder.glob("*.safetensors") if _NAME.fullmatch(path.name))

    def nbytes(self) -> int:
        """Of all stored calls."""
        total = 0
        for path in self._paths():
            with suppress(OSError):
                total += path.stat().st_size
        return total

    def listed(self) -> Iterator[tuple[Path, tuple[CallKey, CallFacts] | None]]:
        """All files, and what is in them; ``None`` where that cannot be told."""
        for path in sorted(self._paths()):
            yield path, _header(path)

    def why_not(self, key: CallKey) -> tuple[str, ...]:
        """Of the stored first calls of runs, by what this one differs from the most similar;
        nothing if there is none.
        """
        first = [found[0] for _, found in self.listed() if found and found[1].step == 0]
        return min((key.differs(other) for other in first), key=len, default=())

    def remove(self, run: str) -> int:
        """Delete the calls whose ``facts.run`` begins with ``run``, damaged ones too if it is
        empty; how many there were.
        """
        count = 0
        for path, found in self.listed():
            if not run or (found and found[1].run.startswith(run)):
                with suppress(FileNotFoundError):
                    path.unlink()
                    count += 1
        return count


def pooled(text: Tensor) -> Tensor:
    """``[branches, width]`` float32: mean of the tokens of ``text`` ``[branches, tokens, width]``
    that are not padding, which is zero.
    """
    text = text.detach().float()
    used = (text != 0).any(dim=-1, keepdim=True)
    return (text * used).sum(dim=1) / used.sum(dim=1).clamp(min=1)


def _cosine(one: Tensor, other: Tensor) -> float:
    """The smallest of all branches; -1 where they cannot be compared."""
    other = other.detach().float().cpu()
    if one.shape != other.shape:
        return -1.0
    return float(torch.nn.functional.cosine_similarity(one.float(), other, dim=-1).min())


def _output(path: Path) -> Tensor | None:
    """The output in a file, which counts as a use of it; a damaged file is removed."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    try:
        output, metadata = load(data)["output"], _metadata(data)
        version = json.loads(metadata[_KEY])["format"]
        whole = version > _FORMAT or metadata["sha256"] == _sum(output)
    except (KeyError, SafetensorError, TypeError, ValueError):
        whole, version = False, 0
    if not whole:
        with suppress(OSError):
            path.unlink()
        return None
    _touched(path)
    return output if version == _FORMAT else None


def _header(path: Path) -> tuple[CallKey, CallFacts] | None:
    try:
        with open(path, "rb") as file:
            start = file.read(8)
            start += file.read(min(int.from_bytes(start, "little"), _LARGEST_HEADER))
        found = json.loads(_metadata(start)[_KEY])
        if found["format"] != _FORMAT:
            return None
        facts = CallFacts(**found["facts"] | {"shape": tuple(found["facts"]["shape"])})
        return CallKey(**found["key"]), facts
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError):
        return None


def _metadata(data: bytes) -> Mapping[str, str]:
    """Of a safetensors file that begins with ``data``."""
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def _sum(output: Tensor) -> str:
    return hashlib.sha256(output.reshape(-1).view(torch.uint8).numpy()).hexdigest()


def _touched(path: Path) -> bool:
    """Take note that a file is in use; whether there is one."""
    try:
        os.utime(path)
    except OSError:
        return False
    return True


def _used(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # gone meanwhile
        return 0
