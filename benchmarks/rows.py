"""Rows of a bench: what names one, and their file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

#: Start of the names of rows of uncached sampling.
UNCACHED = "uncached"
#: Fields that name a row.
KEYS = ("family", "regime", "method", "budget")

#: See ``bench.run_bench``.
Row = dict[str, Any]
Key = tuple[str, str, str, float]


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
