"""What ComfyUI's samplers carry on from step to step: its own functions, run over a few numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..sampler.response import Multistep, measure

#: Measurements that are kept at most: by function, options, kind of model and noise levels.
_MOST_KNOWN = 16
_KNOWN: dict[Any, Multistep | None] = {}


class _Denoiser:
    """Stands in for the model that a sampler is handed; what samplers read of it is the model's."""

    def __init__(self, answer: Callable[[Tensor, float], Tensor], patcher: Any) -> None:
        self._answer, self.model_patcher = answer, patcher

    @property
    def inner_model(self) -> _Denoiser:
        return self

    @property
    def model_sampling(self) -> Any:
        return self.model_patcher.get_model_object("model_sampling")

    def __call__(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        return self._answer(x, float(sigma.reshape(-1)[0]))


def multistep_of(sampler: Any, patcher: Any, sigmas: Tensor) -> Multistep | None:
    """Measure a sampler of ComfyUI; ``None`` if it is not one of those, or not linear.

    Functions of other packs are not called: what else they do is not known.

    Args:
        sampler: ComfyUI's sampler object.
        patcher: of the model.
        sigmas: its noise levels, ``[steps + 1]`` float32.
    """
    function = getattr(sampler, "sampler_function", None)
    if not getattr(function, "__module__", "").startswith("comfy."):
        return None
    levels = sigmas.detach().cpu()
    sampling, options = patcher.get_model_object("model_sampling"), sampler.extra_options
    key = function, repr(options), type(sampling).__mro__[1:], tuple(levels.tolist())
    if key not in _KNOWN:

        def run(model: Callable[[Tensor, float], Tensor], x: Tensor) -> Tensor:
            fake = _Denoiser(model, patcher)
            more = {"extra_args": {"seed": 0}, "callback": None, "disable": True, **options}
            return function(fake, x, levels.clone(), **more)

        while len(_KNOWN) >= _MOST_KNOWN:
            del _KNOWN[next(iter(_KNOWN))]
        try:
            with torch.no_grad():
                _KNOWN[key] = measure(run, key[-1])
        except Exception:  # it asks for more than a denoiser: guidance with branches of its own
            _KNOWN[key] = None
    return _KNOWN[key]
