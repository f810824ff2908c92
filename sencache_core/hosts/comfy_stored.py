"""ComfyUI: model calls kept on disk, and answered from there in later runs.

A stand-in for the model's innermost method, in place from OUTER_SAMPLE's start to its end: it sees
what the network gives below every wrapper, caches included, so that a forecast is never taken for
an output.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import torch
from torch import Tensor

from ..measure.stored import CallFacts, CallKey, CallStore, StoreError, pooled
from ..model.digest import Opaque, digest
from ..model.families import GENERIC
from ..sampler.schedule import Schedule, as_floats
from ..words import Message, Speaker
from .comfy import sampler_name
from .comfy_call import CallKeys
from .comfy_guidance import guidance_scale
from .comfy_keys import CALL, KEY
from .comfy_run import UnsupportedModel, model_family

_WRAPPERS = comfy.patcher_extension.WrappersMP
STORED = "sencache_stored"

#: How many calls of a run were asked for, answered, or kept.
Told = Callable[["Count"], None]


@dataclass
class Count(Speaker):
    """What became of a run's model calls.

    Attributes:
        calls: all of them.
        answered: from the store, bit for bit what the model would have given.
        similar: from the store, for a similar prompt.
        cosines: of the most similar stored prompt, where one was looked for and there was any.
        kept: newly in the store.
        steps: of the schedule.
        first: step of the first call that the model ran for, ``None``: it ran for none.
        differs: parts in which the nearest stored run begins otherwise, where nothing was answered.
        messages: what else there is to say.
    """

    calls: int = 0
    answered: int = 0
    similar: int = 0
    cosines: list[float] = field(default_factory=list)
    kept: int = 0
    steps: int = 0
    first: int | None = None
    differs: tuple[str, ...] = ()
    messages: list[Message] = field(default_factory=list)


@dataclass(frozen=True)
class Stored:
    """What a model does with the store. Holds no run state.

    Attributes:
        keep: store to write to, ``None``: nothing is kept.
        resume: store to answer from, ``None``: every call is computed.
        least: smallest cosine of pooled text embeddings at which a call may be answered by what the
            model gave for another prompt; 1 or more: never.
        share: of the steps, from the first one on, in which that may happen.
        told: called at the end of every run.
    """

    keep: CallStore | None = None
    resume: CallStore | None = None
    least: float = 1.0
    share: float = 0.0
    told: tuple[Told, ...] = ()

    def outer_sample(self, executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        if len(sigmas) < 2:
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        guider = executor.class_obj
        run = _Run(self, guider, Schedule(as_floats(sigmas), sampler_name(sampler)))
        try:
            with run.in_place():
                return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        finally:
            for told in self.told:
                try:
                    told(run.count)
                except Exception:  # costs no sample
                    logging.exception("SenCache: a callback failed")


def keep(model: Any, store: CallStore, told: Told | None = None) -> Any:
    """A clone of ``model`` whose calls are kept in ``store``. ``model`` itself stays as it was.

    Raises:
        UnsupportedModel: the model is causal.
    """
    return _with(model, told, keep=store)


def resume(
    model: Any,
    store: CallStore,
    least: float = 1.0,
    share: float = 0.0,
    told: Told | None = None,
) -> Any:
    """A clone of ``model`` that is not run for calls that ``store`` knows the outcome of.

    Args:
        least, share: see :class:`Stored`.

    Raises:
        UnsupportedModel: the model is causal.
    """
    return _with(model, told, resume=store, least=least, share=share)


def _with(model: Any, told: Told | None, **changes: Any) -> Any:
    if type(model.model).__name__ == "WAN21_CausalAR":
        raise UnsupportedModel(
            "SenCache cannot store calls of causal Wan models, whose key/value cache is filled by "
            "the very calls that would be left out: remove the SenCache node."
        )
    clone = model.clone()
    before = clone.get_attachment(STORED) or Stored()
    all_told = before.told if told is None else (*before.told, told)
    stored = replace(before, told=all_told, **changes)
    clone.set_attachments(STORED, stored)
    clone.remove_wrappers_with_key(_WRAPPERS.OUTER_SAMPLE, STORED)
    clone.add_wrapper_with_key(_WRAPPERS.OUTER_SAMPLE, STORED, stored.outer_sample)
    return clone


class _Run:
    """One sampling run."""

    _METHOD = "_apply_model"

    def __init__(self, stored: Stored, guider: Any, schedule: Schedule) -> None:
        self.stored, self.guider, self.schedule = stored, guider, schedule
        self.count = Count(steps=schedule.num_steps)
        self.model = guider.model_patcher.model
        self.keep = stored.keep
        self._keys = CallKeys(guider.model_patcher)
        self._method: Any = None
        self._run = ""

    @contextmanager
    def in_place(self):
        """The stand-in is what the model calls."""
        own = vars(self.model)
        before = own.get(self._METHOD)
        if before is not None:
            self.count.say("store.opaque", what="the model's inner call")
            yield
            return
        self._method = getattr(type(self.model), self._METHOD).__get__(self.model)
        own[self._METHOD] = self
        try:
            yield
        finally:
            own.pop(self._METHOD, None)

    def __call__(
        self,
        x,
        t,
        c_concat=None,
        c_crossattn=None,
        control=None,
        transformer_options=None,
        **kwargs,
    ):
        options = transformer_options or {}

        def compute() -> Tensor:
            return self._method(x, t, c_concat, c_crossattn, control, options, **kwargs)

        self.count.calls += 1
        step = self.schedule.locate(float(t.reshape(-1)[0]))
        key = self._key(x, t, c_concat, c_crossattn, control, options, kwargs)
        text = c_crossattn if isinstance(c_crossattn, Tensor) else None
        if key is not None and not self._run:
            self._run = digest(key.name)[:12]
        known = None if key is None else self._known(key, step, text, options)
        if known is not None:
            return known.to(x.device)
        if self.count.first is None:
            self.count.first = step
        out = compute()
        if key is not None and self.keep is not None:
            self._keep(key, out, step, text, x.shape)
        return out

    def _key(self, x, t, c_concat, text, control, options, kwargs) -> CallKey | None:
        """``None``: such calls are computed, and not kept."""
        if torch.is_grad_enabled() or getattr(comfy.model_management, "in_training", False):
            return None
        if CALL in options:
            self.count.say("store.inside")
            return None
        try:
            return self._keys.of(x, t, c_concat, text, control, options, kwargs)
        except Opaque as opaque:
            self.count.say("store.opaque", what=str(opaque))
            return None

    def _known(
        self, key: CallKey, step: int, text: Tensor | None, options: Mapping[str, Any]
    ) -> Tensor | None:
        """What the store answers a call with, if it does."""
        store = self.stored.resume
        if store is None:
            return None
        similar_steps = self.stored.share * self.schedule.num_steps if self.stored.least < 1 else 0
        out = store.get(key)
        if out is not None:
            self.count.answered += 1
        elif text is not None and step < similar_steps:
            out, cosine = store.nearest(key, pooled(text), self.stored.least)
            self.count.similar += out is not None
            if cosine is not None:
                self.count.cosines.append(cosine)
        if out is None and self.count.calls == 1:
            self.count.differs = store.why_not(key)
        if out is not None and options.get(KEY) is not None:
            options[KEY].runner.report.say("resumed")
        return out

    def _keep(self, key: CallKey, out: Tensor, step: int, text: Tensor | None, shape) -> None:
        facts = CallFacts(
            run=self._run,
            family=(model_family(self.model) or GENERIC).name,
            step=step,
            steps=self.schedule.num_steps,
            sampler=self.schedule.sampler,
            guidance=guidance_scale(self.guider),
            shape=tuple(shape),
        )
        try:
            new = self.keep.put(key, out, facts, None if text is None else pooled(text))
            self.count.kept += new
        except StoreError as error:
            self.keep = None
            self.count.say("store.full", error=str(error))
