"""What the user chose in ComfyUI's settings dialog, as far as the server has to know it.

Everything else is put into the widgets of new nodes by ``web/settings.js``.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any


@cache
def setting(name: str, default: Any) -> Any:
    """The value as it was when ComfyUI started; ``default`` where there is none of that type."""
    import folder_paths

    path = Path(folder_paths.get_user_directory()) / "default" / "comfy.settings.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8")).get(f"SenCache.{name}", default)
    except (OSError, ValueError, AttributeError):
        return default
    return value if type(value) is type(default) else default
