"""How a ComfyUI guider puts the outputs of its branches together."""

from __future__ import annotations

from typing import Any

import comfy.patcher_extension
import comfy.samplers

from .comfy_keys import KEY

#: Functions that other nodes put into the guider's sum.
_FUNCTIONS = (
    *("sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function"),
    "sampler_calc_cond_batch_function",
)
#: Guiders of ComfyUI with a sum of their own whose weights do not change in a run.
_FIXED = frozenset(
    {
        ("comfy_extras.nodes_custom_sampler", "Guider_DualCFG.predict_noise"),
        ("comfy_extras.nodes_custom_sampler", "Guider_DualModel.predict_noise"),
        ("comfy_extras.nodes_lt", "Guider_LTXAVDualCFG.predict_noise"),
    }
)

#: Wrappers of these kinds see the branches' outputs, or the guided one.
_SUMS = (
    comfy.patcher_extension.WrappersMP.PREDICT_NOISE,
    comfy.patcher_extension.WrappersMP.CALC_COND_BATCH,
)


def guidance_scale(guider: Any) -> float:
    """The guider's one scale; 0 if it has none, or several."""
    scale = getattr(guider, "cfg", None)
    return float(scale) if isinstance(scale, int | float) else 0.0


def plain_guidance(guider: Any) -> bool:
    """Whether the guided output is ``u + cfg (c - u)`` of one positive and one negative."""
    conds = getattr(guider, "conds", None) or getattr(guider, "original_conds", None)
    if not isinstance(conds, dict) or not guidance_scale(guider) or not linear_guidance(guider):
        return False
    return conds.keys() <= {"positive", "negative"} and all(len(c) == 1 for c in conds.values())


def linear_guidance(guider: Any) -> bool:
    """Whether the guided output is known to be a sum of the branches' outputs whose weights add up
    to 1 and stay the same all run long.

    Not so under rescaled, projected, normalised or momentum guidance, and unknown wherever another
    node's function or guider has a say: then it is ``False``.
    """
    options = guider.model_options
    if any(options.get(name) for name in _FUNCTIONS):
        return False
    own = options.get("transformer_options", {}).get("wrappers", {})
    for kind in _SUMS:
        for by_key in (
            own.get(kind, {}),
            getattr(guider.model_patcher, "wrappers", {}).get(kind, {}),
        ):
            if any(functions for key, functions in by_key.items() if key != KEY):
                return False
    for name in ("predict_noise", "outer_predict_noise", "__call__"):
        method = getattr(guider, name, None)
        own = getattr(method, "__func__", method)
        if own is getattr(comfy.samplers.CFGGuider, name):
            continue
        if (getattr(own, "__module__", None), getattr(own, "__qualname__", None)) not in _FIXED:
            return False
    return True
