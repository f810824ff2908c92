"""The pack's door to ComfyUI; everything else lives in ``nodes`` and ``sencache_core``."""

if __package__:  # absent when pytest imports this file as a lone module
    from .nodes import comfy_entrypoint

    WEB_DIRECTORY = "./web"
    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
