"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def put(target: Path, data: bytes, keep: bool = True) -> None:
    """Write ``data`` under a name of its own first, then give it its name.

    A reader sees the old file or the new one, and a failure leaves the old one as it was.

    Args:
        keep: ``False`` only tries it out.

    Raises:
        OSError: it cannot be written there.
    """
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open(part, "xb") as file:
            file.write(data)
        if keep:
            os.replace(part, target)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
