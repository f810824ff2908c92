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
    """The guider's one scale; 0 if it has none, or several, or it is not known.

    A scale of 1, no guidance, is what guiders begin with: of those that have scales of their own it
    says nothing.
    """
    scale = getattr(guider, "cfg", None)
    if not isinstance(scale, int | float) or (scale == 1.0 and not _ruled_by_scale(guider)):
        return 0.0
    return float(scale)


def _ruled_by_scale(guider: Any) -> bool:
    """Whether a guider sums one positive and one negative, as ComfyUI's do by ``guider.cfg``."""
    conds = getattr(guider, "conds", None) or getattr(guider, "original_conds", None) or {}
    method = getattr(guider, "predict_noise", None)
    own = getattr(method, "__func__", method)
    plain = own is comfy.samplers.CFGGuider.predict_noise or _name(own) in _FIXED
    return plain and {*conds} <= {"positive", "negative"}


def _name(function: Any) -> tuple[str | None, str | None]:
    """Module and name of a function."""
    return getattr(function, "__module__", None), getattr(function, "__qualname__", None)


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
        if _name(own) not in _FIXED:
            return False
    return True
