"""Tell checkpoints of one family apart."""

from __future__ import annotations

import hashlib

from torch import nn

#: Small tensors whose values enter the fingerprint, and their largest size. Norms, biases and
#: modulation tables survive quantisation and are seldom touched by LoRAs.
_VALUES, _SIZE = 8, 65_536


def fingerprint(module: nn.Module) -> str:
    """Sixteen hex digits from the names and shapes of all parameters and the values of a few.

    Values are rounded to three significant digits, so that storing the same weights in another
    floating-point type gives the same fingerprint in practice.
    """
    digest = hashlib.sha256()
    parameters = sorted(module.named_parameters())
    for name, parameter in parameters:
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
    readable = [
        p for _, p in parameters if p.is_floating_point() and not p.is_meta and p.numel() <= _SIZE
    ]
    for parameter in readable[:: max(1, len(readable) // _VALUES)]:
        value = parameter.detach().float()
        digest.update(f"{float(value.abs().mean()):.2e}".encode())
    return digest.hexdigest()[:16]
