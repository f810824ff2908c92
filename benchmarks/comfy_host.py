"""Finds ComfyUI and makes it importable in this process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Unavailable(RuntimeError):
    """There is no ComfyUI to be used here. The message says why."""


def find() -> Path | None:
    """Folder of ComfyUI: ``COMFYUI_PATH``, else around this pack, else ``~/ComfyUI``."""
    around = ROOT.parents[1] if ROOT.parent.name == "custom_nodes" else None
    for folder in (os.environ.get("COMFYUI_PATH"), around, Path.home() / "ComfyUI"):
        if folder and (Path(folder) / "comfy" / "sd.py").is_file():
            return Path(folder).resolve()
    return None


def version(folder: Path) -> str:
    """ComfyUI's version, ``"unknown"`` if its file does not say."""
    words = (folder / "comfyui_version.py").read_text().split('"')
    return words[1] if len(words) > 2 else "unknown"


def load() -> Path:
    """Import ComfyUI for the CPU, once per process, and return its folder.

    ComfyUI reads the command line while it is imported, hence the replaced arguments. Its folder
    goes to the front of ``sys.path``, where its own ``nodes.py`` must be found first.

    Raises:
        Unavailable: no ComfyUI, or this Python lacks something that it needs.
    """
    folder = find()
    if folder is None:
        raise Unavailable("no ComfyUI found; set COMFYUI_PATH to its folder")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    argv, sys.argv = sys.argv, ["x", "--cpu"]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args
        import comfy.model_patcher
    except ImportError as error:
        raise Unavailable(f"ComfyUI in {folder} cannot be imported: {error}") from error
    finally:
        sys.argv = argv
    return folder
