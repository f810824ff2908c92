"""What rules a ComfyUI model call, as digests that are equal in every process."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import comfy.patcher_extension
import torch
from torch import Tensor

from ..measure.stored import CallKey
from ..model.digest import Opaque, digest, of_patches, of_weights
from .comfy_keys import KEY
from .comfy_neighbours import replaced_forward

_WRAPPERS = comfy.patcher_extension.WrappersMP

#: Options that do not rule what the network gives: names, the run's clock (the noise level is an
#: argument of its own), other wrappers' notes, and what networks leave behind.
_IGNORED = frozenset(
    (
        *("sigmas", "sample_sigmas", "uuids", "callbacks", "wrappers", "context_window"),
        *("block", "block_index", "block_type", "total_blocks", "transformer_index", "img_slice"),
        *("grid_sizes", "original_shape", "activations_shape", "reference_image_num_tokens"),
        *("prefetch_dynamic_vbars", "multigpu_thread_device", KEY),
    )
)
#: Arguments of a call that belong to the text.
_TEXT = frozenset({"attention_mask"})
#: Switches of PyTorch that change results in their last digits.
_SWITCHES = ("allow_tf32", "allow_fp16_accumulation", "allow_bf16_reduced_precision_reduction")
#: Parts of the model that other nodes replace and that are read themselves.
_READ = frozenset({"model_sampling", "manual_cast_dtype"})


class CallKeys:
    """Makes the keys of one run's calls.

    Args:
        patcher: of the model.
    """

    def __init__(self, patcher: Any) -> None:
        self._patcher, self._model = patcher, patcher.model
        self._fixed: tuple[str, str] | None = None  # model and machine

    def of(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None,
        text: Tensor | None,
        control: Any,
        options: Mapping[str, Any],
        kwargs: Mapping[str, Any],
    ) -> CallKey:
        """Key of one call, by the arguments of ComfyUI's ``_apply_model``; ``text`` is its
        ``c_crossattn``. The model is loaded by then.

        Raises:
            Opaque: something in or around the call cannot be compared between runs.
        """
        self._refuse_what_cannot_be_read(options)
        if self._fixed is None:
            self._fixed = self._of_model(), self._of_machine(x.device)
        window = options.get("context_window")
        frames = None if window is None else tuple(window.index_list)
        marks = {
            name: _readable(name, value)
            for name, value in options.items()
            if name not in _IGNORED and not _empty(value)
        }
        others = {name: value for name, value in kwargs.items() if name not in _TEXT}
        text_too = {name: value for name, value in kwargs.items() if name in _TEXT}
        return CallKey(
            *self._fixed,
            latent=digest(x),
            level=digest(t),
            inputs=digest(c_concat, control, frames, marks, others),
            prompt=digest(text, text_too),
        )

    def _refuse_what_cannot_be_read(self, options: Mapping[str, Any]) -> None:
        hooks = self._patcher.hook_patches or self._model.current_patcher.current_hooks
        inner = options.get("wrappers", {}).get(_WRAPPERS.DIFFUSION_MODEL, {})
        for name, found in (
            ("a wrapper of the network", [key for key in inner if key != KEY and inner[key]]),
            ("weight wrappers", getattr(self._patcher, "weight_wrapper_patches", None)),
            ("injections", self._patcher.injections),
            ("scheduled LoRAs", hooks),
            ("its forward", replaced_forward(self._model.diffusion_model, {})),
        ):
            if found:
                raise Opaque(name)

    def _of_model(self) -> str:
        """Of the network's weights without patches, of the patches, and of what else makes it."""
        backup = self._patcher.backup
        network = self._model.diffusion_model

        def weights():
            for found in (network.named_parameters(), network.named_buffers()):
                for name, tensor in sorted(found, key=lambda entry: entry[0]):
                    saved = backup.get(f"diffusion_model.{name}")
                    yield name, tensor if saved is None else saved.weight

        names = self._patcher.object_patches.keys() - _READ
        if names:
            raise Opaque(", ".join(sorted(names)))
        sampling = self._model.model_sampling
        return digest(
            type(self._model).__qualname__,
            type(network).__qualname__,
            _plain(network),
            [base.__qualname__ for base in type(sampling).__mro__],
            _plain(sampling),
            dict(sampling.named_buffers()),
            self._model.get_dtype(),
            self._model.manual_cast_dtype,
            of_weights(weights()),
            of_patches(self._patcher.patches),
        )

    def _of_machine(self, device: torch.device) -> str:
        """Of what rounds differently elsewhere: device, PyTorch, ComfyUI, attention."""
        code = sys.modules[type(self._model.diffusion_model).__module__]
        attention = getattr(code, "optimized_attention", None)
        matmul = torch.backends.cuda.matmul
        on_cuda = device.type == "cuda"
        return digest(
            torch.__version__,
            _comfy_version(),
            device.type,
            torch.cuda.get_device_name(device) if on_cuda else torch.get_num_threads(),
            [getattr(matmul, name, None) for name in _SWITCHES] if on_cuda else None,
            torch.get_float32_matmul_precision(),
            f"{getattr(attention, '__module__', '')}.{getattr(attention, '__qualname__', '')}",
        )


def _plain(thing: Any) -> dict[str, Any]:
    """Attributes of a module that are numbers or words."""
    return {k: v for k, v in vars(thing).items() if isinstance(v, int | float | str)}


def _comfy_version() -> str:
    try:
        from comfyui_version import __version__
    except ImportError:
        return ""
    return __version__


def _readable(name: str, value: Any) -> str:
    """Digest of an option, which is named if it cannot be read."""
    try:
        return digest(value)
    except Opaque:
        raise Opaque(name) from None


def _empty(value: Any) -> bool:
    return isinstance(value, dict | list | tuple) and not value
