"""What lies on disk: rows, and the clips that they are compared with, which are sampled once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sencache_core.model.fingerprint import fingerprint

from .host import Shot
from .models import Model

#: Start of the names of rows of uncached sampling.
UNCACHED = "uncached"
#: Fields that name a row.
KEYS = ("family", "regime", "method", "budget")

#: See ``bench.run_bench``.
Row = dict[str, Any]
Key = tuple[str, str, str, float]
#: Final latent ``[1, C, F, H, W]`` of a clip, and one figure that belongs to it.
Kept = tuple[Tensor, float]


def identity(model: Model) -> str:
    """Twelve hex digits from all that a model's clips depend on but for the way of sampling."""
    noise = torch.randn((1, *model.spec.latent), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = model.call(noise, 0.5, model.encode("a red circle"))
    said = model.spec.latent, model.levels, fingerprint(model.module), f"{float(out.std()):.3e}"
    return hashlib.sha256(repr(said).encode()).hexdigest()[:12]


class Store:
    """Files of one model.

    Attributes:
        identity: of the model; clips of another with the same name are not taken for its own.
    """

    def __init__(self, folder: Path, model: Model) -> None:
        self.identity = identity(model)
        self._stem = folder / f"{model.name.replace(os.sep, '_')}-{self.identity}"
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """A file of this model."""
        return self._stem.with_name(f"{self._stem.name}-{name}.safetensors")

    def all(
        self,
        kind: str,
        shots: Sequence[Shot],
        make: Callable[[Sequence[Shot]], Iterator[tuple[int, Tensor, float]]],
    ) -> list[Kept]:
        """Kept clips in the order of ``shots``; those that are missing are made and written.

        Args:
            kind: how they are made, as part of a file name.
            shots: prompt and seed of each.
            make: given those that are missing, yields the number of one of them, its latent and its
                figure, in any order; each is written at once.
        """
        files = [self.path(f"{kind}-{seed}-{_digits(prompt)}") for prompt, seed in shots]
        missing = [k for k, file in enumerate(files) if not file.is_file()]
        if missing:
            for k, latent, figure in make([shots[k] for k in missing]):
                _write(files[missing[k]], latent, figure)
        return [_read(file) for file in files]


def _digits(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[:6]


def _write(file: Path, latent: Tensor, figure: float) -> None:
    beside = file.with_suffix(".part")
    save_file({"latent": latent.contiguous()}, beside, {"figure": repr(figure)})
    os.replace(beside, file)


def _read(file: Path) -> Kept:
    with safe_open(file, "pt") as kept:
        return kept.get_tensor("latent"), float(kept.metadata()["figure"])


def read(path: Path) -> dict[Key, Row]:
    """The rows of a file by key.

    Raises:
        ValueError: it holds none.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(rows, list) or not all("clips" in row for row in rows):
            raise TypeError("no list of rows with clips")
        return {tuple(row[name] for name in KEYS): row for row in rows}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} holds no rows of a bench: {error}") from error


def write(path: Path, rows: dict[Key, Row]) -> None:
    """Replace the file as a whole, so that an interrupt leaves the old one or the new one."""
    text = json.dumps(list(rows.values()), indent=1, allow_nan=False) + "\n"
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
