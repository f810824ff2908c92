"""The nodes of the pack, listed one by one. One that fails to load never takes the rest along."""

from __future__ import annotations

import importlib
import logging

from comfy_api.latest import ComfyExtension

from . import folders, library, preview_route, replacements

#: (module, class) of every node. The class name is the node's id and never changes.
NODES = (
    ("apply", "SenCacheApply"),
    ("policy", "SenCachePolicySelect"),
    ("plan", "SenCachePlan"),
    ("calibrate", "SenCacheCalibrate"),
    ("profiles", "SenCacheProfileLoad"),
    ("profiles", "SenCacheProfileSave"),
    ("stored", "SenCacheStore"),
    ("stored", "SenCacheResume"),
    ("viewer", "SenCacheStatsViewer"),
    ("compare", "SenCacheCompare"),
    ("tiny", "SenCacheTinyPrompt"),
    ("tiny", "SenCacheTinyDecode"),
)

_log = logging.getLogger("sencache")


class SenCacheExtension(ComfyExtension):
    """Hands ComfyUI the nodes that load."""

    async def get_node_list(self) -> list[type]:
        folders.register()
        for part in (library, preview_route, replacements):
            try:
                if (waiting := part.register()) is not None:
                    await waiting
            except Exception as error:  # the boundary to a host, as below
                _log.warning("SenCache: %s is unavailable: %s", part.__name__, error)
        return load_nodes()


def load_nodes() -> list[type]:
    """Classes of :data:`NODES` that import and whose schema this ComfyUI accepts."""
    found = []
    for module, name in NODES:
        try:
            node = getattr(importlib.import_module(f".{module}", __package__), name)
            node.GET_SCHEMA()
        except Exception as error:  # the boundary to a host whose releases we cannot foresee
            _log.warning("SenCache: the node %s is unavailable: %s", name, error)
        else:
            found.append(node)
    return found


async def comfy_entrypoint() -> SenCacheExtension:
    """What ComfyUI calls to load the pack."""
    return SenCacheExtension()
