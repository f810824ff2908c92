"""A model as its file describes it, without its weights: for what is asked before a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

#: Under this key a stand-in carries its :class:`Source`.
STAND_IN = "sencache_stand_in"
#: Stand-ins that are kept: two experts, and those looked at before. They hold no weights.
_MOST = 4


class Unreadable(ValueError):
    """What a file holds cannot be told without loading it."""


@dataclass(frozen=True)
class Source:
    """Where a stand-in's weights lie.

    Attributes:
        path: of the file, ``.safetensors``.
        stamp: when it was written, and its size.
        dtype: number format that the loader was asked for, ``None``: the file's.
    """

    path: str
    stamp: tuple[int, int]
    dtype: torch.dtype | None = None

    @classmethod
    def of(cls, path: str, dtype: torch.dtype | None = None) -> Source:
        """The file as it is now.

        Raises:
            Unreadable: it is gone, or of a kind that is not read here.
        """
        if Path(path).suffix not in (".safetensors", ".sft"):
            raise Unreadable(Path(path).name)
        try:
            found = Path(path).stat()
        except OSError as error:
            raise Unreadable(Path(path).name) from error
        return cls(path, (found.st_mtime_ns, found.st_size), dtype)

    @property
    def fingerprint(self) -> str:
        """As ``hosts.comfy.fingerprint`` gives it of the loaded model."""
        return _fingerprint(self)


def stand_in(source: Source) -> Any:
    """``ModelPatcher`` around the model of a file, on the meta device: its class, its sampling and
    its layers are ComfyUI's own, its weights are not there.

    Raises:
        Unreadable: ComfyUI does not recognise it.
    """
    return _patcher(source)


@lru_cache(maxsize=_MOST)
def _patcher(source: Source) -> Any:
    import comfy.model_patcher

    model, _ = _built(source)
    cpu = torch.device("cpu")
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)
    patcher.set_attachments(STAND_IN, source)
    return patcher


@lru_cache(maxsize=_MOST)
def _fingerprint(source: Source) -> str:
    from ..sencache_core.hosts.comfy import fingerprint

    model, weights = _built(source)
    network = model.diffusion_model
    formats = {name: p.dtype for name, p in network.named_parameters()}
    # Assigned, not copied: what is not looked at is not read from the disk either.
    network.load_state_dict(weights(), strict=False, assign=True)
    for name, p in network.named_parameters():
        if p.dtype != formats.get(name, p.dtype) and p.is_floating_point() and p.ndim < 2:
            p.data = p.data.to(formats[name])  # as a loader that copies would have it
    return fingerprint(network)


def _built(source: Source) -> tuple[Any, Callable[[], dict]]:
    """ComfyUI's model on the meta device, and its weights by name.

    The steps of ``comfy.sd.load_diffusion_model_state_dict`` but for the loading.
    """
    import comfy.model_management
    import comfy.utils
    from comfy import model_detection

    try:
        with safe_open(source.path, framework="pt") as file:
            names, metadata = file.keys(), file.metadata()
            state = {name: file.get_tensor(name) for name in names}
        convert = getattr(comfy.utils, "convert_old_quants", None)
        if convert is not None:
            state, metadata = convert(state, "", metadata=metadata)
        prefix = model_detection.unet_prefix_from_state_dict(state)
        inner = comfy.utils.state_dict_prefix_replace(state, {prefix: ""}, filter_keys=True)
        if inner:
            state = inner
            if convert is not None:
                state, metadata = convert(state, "", metadata=metadata)
        more = {"metadata": metadata} if convert is not None else {}
        config = model_detection.model_config_from_unet(state, "", **more)
        if config is None:
            raise Unreadable(Path(source.path).name)
        quantised = getattr(config, "quant_config", None) is not None
        device = comfy.model_management.get_torch_device()
        kinds = list(config.supported_inference_dtypes)
        dtype = source.dtype or comfy.model_management.unet_dtype(
            model_params=comfy.utils.calculate_parameters(state),
            supported_dtypes=kinds,
            weight_dtype=None if quantised else comfy.utils.weight_dtype(state),
        )
        cast = comfy.model_management.unet_manual_cast(None if quantised else dtype, device, kinds)
        config.set_inference_dtype(dtype, cast)
        model = config.get_model(state, "", device=torch.device("meta"))
    except Unreadable:
        raise
    except Exception as error:  # the boundary to files, and to a host of many releases
        logging.getLogger("sencache").debug("no stand-in of %s: %s", source.path, error)
        raise Unreadable(Path(source.path).name) from error
    return model, lambda: config.process_unet_state_dict(dict(state))
