"""How much of the transformer blocks really ran."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

#: Names under which attention modules hold their query and key projections.
PROJECTIONS = (("to_q", "to_k"), ("q", "k"))


class BlockWork:
    """Counts the arithmetic of the matrix products executed inside transformer blocks.

    Methods replace the ``forward`` of a model, of its blocks or of the attention inside, but a
    linear layer whose work is saved is not called by any of them. So the count stands on the linear
    layers: each adds ``2 x rows x inputs x outputs``, and each attention the two products of its
    queries, keys and values, ``4 x queries x keys x width``. A block that ran in full counts the
    same for every method, half a batch counts half, and a block without its attention its share.

    Args:
        blocks: the blocks, or any modules, to watch.

    Attributes:
        flops: multiplications and additions since the start or the last :meth:`reset`.
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        self.flops = 0
        self._hooks = []
        for module in (m for block in blocks for m in block.modules()):
            if isinstance(module, nn.Linear):
                self._hooks.append(module.register_forward_hook(self._linear))
            for query, key in PROJECTIONS:
                pair = getattr(module, query, None), getattr(module, key, None)
                if all(isinstance(layer, nn.Linear) for layer in pair):
                    self._watch(*pair)

    def reset(self) -> int:
        """Start at 0 again and return what had been counted."""
        flops, self.flops = self.flops, 0
        return flops

    def close(self) -> None:
        """Take all hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _linear(self, layer: nn.Linear, inputs, output) -> None:
        self.flops += 2 * output.numel() * layer.in_features

    def _watch(self, query: nn.Linear, key: nn.Linear) -> None:
        seen = [0]

        def note_queries(_, inputs, output) -> None:
            seen[0] = output.numel()

        def add_attention(_, inputs, output) -> None:
            self.flops += 4 * seen[0] * output.shape[-2]

        self._hooks.append(query.register_forward_hook(note_queries))
        self._hooks.append(key.register_forward_hook(add_attention))
