"""Import ComfyUI inside the test process."""

import functools
import os
import sys
from pathlib import Path


def comfyui_path() -> Path | None:
    """ComfyUI's folder: $COMFYUI_PATH, else ~/ComfyUI; None if there is none."""
    for candidate in (os.environ.get("COMFYUI_PATH"), Path.home() / "ComfyUI"):
        if candidate and (Path(candidate) / "comfy" / "sd.py").is_file():
            return Path(candidate)
    return None


@functools.cache
def import_comfyui():
    """Import ComfyUI on the CPU and return its ``comfy.sd`` module.

    ComfyUI parses the command line at import and has top-level modules (``nodes``, ``utils``, ...),
    so its folder goes first on the path and the arguments are replaced for the import.
    """
    path = comfyui_path()
    if path is None:
        raise RuntimeError("ComfyUI not found; set COMFYUI_PATH")
    if str(path) in sys.path:
        sys.path.remove(str(path))
    sys.path.insert(0, str(path))
    argv, sys.argv = sys.argv, ["comfyui", "--cpu"]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.sd
    finally:
        sys.argv = argv
    return comfy.sd
