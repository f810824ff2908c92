"""SenCache Apply in place of nodes of packs that no longer load, where the user asked for it.

ComfyUI offers a replacement for a node that is missing, and queues it in its place. EasyCache and
LazyCache are never missing: ``web/replace.js`` has a menu entry for them.
"""

from __future__ import annotations

import logging

from .settings import setting

#: Widgets by node id, in the order in which workflows save them. None has a counterpart: their
#: thresholds have no unit that a budget could follow from.
DEAD = {
    "TeaCache": ("model_type", "rel_l1_thresh", "start_percent", "end_percent", "cache_device"),
    "MagCache": (
        "model_type",
        "magcache_thresh",
        "retention_ratio",
        "magcache_K",
        "start_step",
        "end_step",
    ),
}

_log = logging.getLogger("sencache")


async def register() -> None:
    """Tell ComfyUI what may stand in for what, where the setting is on and ComfyUI can do it."""
    if not setting("Replace", False):
        return
    try:
        from comfy_api.latest import ComfyAPI, io

        api = ComfyAPI().node_replacement
        for old, widgets in DEAD.items():
            await api.register(
                io.NodeReplace(
                    new_node_id="SenCacheApply",
                    old_node_id=old,
                    old_widget_ids=list(widgets),
                    input_mapping=[
                        {"new_id": "model", "old_id": "model"},
                        {"new_id": "budget", "set_value": 0.5},
                    ],
                    output_mapping=[{"new_idx": 0, "old_idx": 0}],
                )
            )
    except (ImportError, AttributeError) as error:  # an older ComfyUI
        _log.info("SenCache: this ComfyUI cannot replace nodes (%s).", error)
        return
    _log.info(
        "SenCache: where %s is missing, SenCache Apply is offered in its place, with budget 0.5.",
        " or ".join(DEAD),
    )
