"""Digests of what rules a model call, equal in every process and at any time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor

#: Hex digits of a digest: 128 bits, so that two different calls never share one by chance.
DIGITS = 32
#: Entries that are read of a weight: fine-tuning and other number formats change nearly all.
_ENTRIES = 64


class Opaque(ValueError):
    """A value that cannot be compared between runs. The message names it."""


def digest(*values: Any) -> str:
    """:data:`DIGITS` hex digits of ``values``: plain types, containers, and tensors in full.

    Raises:
        Opaque: a function, or an object of another class.
    """
    found = hashlib.sha256()
    for value in values:
        _add(found, value)
    return found.hexdigest()[:DIGITS]


def of_weights(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Digest of a model's weights: names, shapes, formats, and some values of each to the bit.

    Unlike ``fingerprint``, it tells a merged LoRA or another number format from the original.

    Raises:
        Opaque: a weight is of a kind whose bytes cannot be read.
    """
    found = hashlib.sha256()
    for name, tensor in tensors:
        found.update(f"{name}:".encode())
        _add_entries(found, tensor)
    return found.hexdigest()[:DIGITS]


def of_patches(patches: Mapping[str, Any]) -> str:
    """Digest of nested patches of weights (LoRAs): as :func:`digest`, tensors as in
    :func:`of_weights`. An object that carries ``name`` and ``weights`` counts as these.

    Raises:
        Opaque: as for the other two.
    """
    found = hashlib.sha256()
    _add(found, patches, whole=False)
    return found.hexdigest()[:DIGITS]


def _add(found: Any, value: Any, whole: bool = True) -> None:
    if value is None or isinstance(value, str | bytes | bool | int | float | complex):
        found.update(f"{type(value).__name__} {value!r};".encode())
    elif isinstance(value, Enum):
        found.update(f"{type(value).__qualname__} {value.name};".encode())
    elif isinstance(value, torch.dtype | torch.device):
        found.update(f"{value};".encode())
    elif isinstance(value, Mapping):
        found.update(f"{len(value)} entries;".encode())
        for key in sorted(value, key=repr):
            _add(found, key, whole)
            _add(found, value[key], whole)
    elif isinstance(value, list | tuple):
        found.update(f"{len(value)} of a list;".encode())
        for entry in value:
            _add(found, entry, whole)
    elif isinstance(value, Tensor) and not whole:
        _add_entries(found, value)
    elif type(value) in (Tensor, torch.nn.Parameter):
        found.update(f"{tuple(value.shape)} {value.dtype};".encode())
        found.update(_bytes(value.detach().reshape(-1)).cpu().numpy())
    elif not whole and hasattr(value, "weights") and isinstance(getattr(value, "name", None), str):
        _add(found, (type(value).__qualname__, value.name, value.weights), whole)
    else:
        raise Opaque(getattr(value, "__qualname__", type(value).__qualname__))


def _add_entries(found: Any, tensor: Tensor) -> None:
    """Some entries of a tensor; of one that is made of others, of all of these."""
    tensor = tensor.detach()
    if hasattr(tensor, "__tensor_flatten__"):
        names, facts = tensor.__tensor_flatten__()
        found.update(f"{type(tensor).__qualname__} {facts!r};".encode())
        for name in names:
            _add_entries(found, getattr(tensor, name))
        return
    try:
        flat = tensor.as_subclass(Tensor).reshape(-1)
        found.update(f"{tuple(tensor.shape)} {flat.dtype};".encode())
        if flat.numel():
            count, size = min(_ENTRIES, flat.numel()), flat.element_size()
            places = torch.arange(count) * (flat.numel() - 1) // max(count - 1, 1)
            offsets = (places[:, None] * size + torch.arange(size)).reshape(-1)
            found.update(_bytes(flat)[offsets.to(flat.device)].cpu().numpy())
    except (RuntimeError, NotImplementedError, TypeError) as error:
        raise Opaque(type(tensor).__qualname__) from error


def _bytes(flat: Tensor) -> Tensor:
    return flat.contiguous().view(torch.uint8)
