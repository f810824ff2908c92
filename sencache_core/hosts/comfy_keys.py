"""Which chunk of which ComfyUI call is which: one key per chunk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch

from ..types import Branch
from .comfy_values import Labels

KEY = "sencache"
CALL = "sencache_call"

#: Options that say when, where and with what a call is made, or that ComfyUI's networks leave
#: behind. Any other, and its value, marks a special pass (skip-layer guidance, LTX-2 modality
#: guidance...) whose outputs must not be mixed with the plain one's.
_PLAIN_OPTIONS = frozenset(
    (
        *("sigmas", "sample_sigmas", "cond_or_uncond", "uuids", "context_window", "callbacks"),
        *("block", "block_index", "block_type", "total_blocks", "transformer_index", "img_slice"),
        *("grid_sizes", "original_shape", "activations_shape", "reference_image_num_tokens"),
        *("prefetch_dynamic_vbars", "multigpu_thread_device", KEY, CALL),
    )
)

#: Names that ComfyUI's guiders give to their lists of conditions.
_ROLES = {"positive": "cond", "negative": "uncond"}
#: Position of those lists in a call of the plain guider.
_POSITIONS = {0: "cond", 1: "uncond"}


class Keys:
    """Makes the branch keys of one run.

    A cond's uuid alone does not tell: area conds lend theirs to the uncond twin, context windows
    repeat it over other frames, and guidance passes over the very same input. So a key also holds
    model, position of the cond's list, chunk shape, window, the options of the pass by name and
    value, and how many equal chunks came before it in this round.
    """

    def __init__(self) -> None:
        self._roles: dict[Hashable, set[str]] = {}
        self._areas: dict[Hashable, set[Hashable]] = {}
        self._seen: Counter = Counter()
        self._labels = Labels()

    def begin(self, guider: Any) -> None:
        """Open a round. ``guider.conds``, if it has any, holds by now the twins that areas get."""
        self._seen.clear()
        self._labels.begin()
        if not self._roles:
            for name, conds in (getattr(guider, "conds", None) or {}).items():
                for cond in conds or ():
                    uuid = cond.get("uuid")
                    self._roles.setdefault(uuid, set()).add(_ROLES.get(name, name))
                    self._areas.setdefault(uuid, set()).add(_area(cond))

    def branches(
        self, base_model: Any, options: Mapping[str, Any], shape: torch.Size, marks: Hashable
    ) -> list[Branch]:
        """Keys of a call's chunks, in the order of its batch.

        Args:
            base_model: ComfyUI's model; one guider may call several.
            options: ``transformer_options`` of the call.
            shape: of the call's input ``[chunks B, ...]``.
            marks: what else tells this pass from others.
        """
        uuids, indices = options["uuids"], options["cond_or_uncond"]
        chunk = (shape[0] // len(uuids), *shape[1:])
        fixed = (
            *(id(base_model), chunk, _window(options), marks),
            *(self._pass_marks(options), _hooks(base_model)),
        )
        keys = []
        for uuid, index in zip(uuids, indices, strict=True):
            ident = (uuid, index, *fixed)
            self._seen[ident] += 1
            role = self._role(uuid, index)
            # What shares a pass may still lie elsewhere in the frame.
            shared = (*fixed, frozenset(self._areas.get(uuid, ())))
            keys.append(Branch(role, (*ident, self._seen[ident]), shared))
        return keys

    def roles(self, conds: Sequence[Mapping[str, Any]] | None, index: int) -> set[str]:
        """Roles in a list of conditions, the ``index``-th of its call."""
        return {self._role(cond.get("uuid"), index) for cond in conds or ()}

    def _pass_marks(self, options: Mapping[str, Any]) -> Hashable:
        """What an option is worth as a part of a key; see :class:`Labels` for what changes."""
        marks = [
            (name, self._labels.of(name, value))
            for name, value in options.items()
            if name not in _PLAIN_OPTIONS and name != "wrappers" and not _empty(value)
        ]
        # Their order on the model does not matter, and their functions wrap every pass alike.
        wrappers = ((k, key) for k, by in options.get("wrappers", {}).items() for key in by)
        return frozenset(marks), frozenset(wrappers)

    def _role(self, uuid: Hashable, index: int) -> str:
        roles = self._roles.get(uuid, ())
        if len(roles) == 1:
            return next(iter(roles))
        return _POSITIONS.get(index, str(index))


def _empty(value: Any) -> bool:
    return isinstance(value, dict | list | tuple) and not value


def _area(cond: Mapping[str, Any]) -> Hashable:
    """Where in the frame a condition holds; ``None``: everywhere."""
    area = cond.get("area")
    return None if area is None else tuple(area)


def _window(options: Mapping[str, Any]) -> Hashable:
    """Frames of a context window, and the frame put before them."""
    window = options.get("context_window")
    if window is None:
        return None
    return tuple(window.index_list), getattr(window, "causal_anchor_index", None)


def _hooks(base_model: Any) -> Hashable:
    """Weight hooks in force (LoRA schedules) and their strengths."""
    group = getattr(base_model.current_patcher, "current_hooks", None)
    if group is None:
        return None
    return tuple((hook.hook_ref, hook.strength) for hook in group.hooks)
