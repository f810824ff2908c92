"""One sampling run in ComfyUI: what lives from OUTER_SAMPLE's start to its end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import torch
from torch import Tensor
from torch._dynamo import OptimizedModule

from ..model.families import GENERIC, Family, Places, family_of
from ..model.taps import Listener, Tap, Visit, tapped
from ..run.runner import Ahead, Call, Runner, runs_first
from ..types import OUTPUT, Branch, Decision
from .comfy_keys import CALL, Keys
from .comfy_watch import Watch

#: A call that says not, or not rightly, what it is about.
_UNKNOWN = Branch("unknown")

#: Below this noise level dividing by sigma would amplify rounding: the output is not recorded.
_SMALLEST_SIGMA = 1e-3


class UnsupportedModel(ValueError):
    """This model, or this combination of patches, cannot be cached. The message says why."""


class Shared:
    """Is one, whoever holds it: nodes that copy a model's options in mid-run share it."""

    def __deepcopy__(self, memo: dict) -> Any:
        return self


@dataclass
class Run(Shared):
    """Run state. Lies in ``transformer_options``, where every wrapper of the run finds it.

    Attributes:
        runner: caches or measures.
        tap: where outputs are kept.
        enters: whether something inside the model is looked at or answered.
        shapes: latent shape of each modality.
        keys: names the chunks.
        open: inside an evaluation round; model calls elsewhere are none of ours.
        decision: of the round at hand.
        batch: clips sampled at once.
        watched: the model whose passes are counted in the round at hand.
        passes: of any model in this round.
        known: of those, the ones under calls whose branches are known.
        summed: conditions of every sum of the round at hand, and of the round before.
    """

    runner: Runner
    tap: Tap
    enters: bool
    shapes: Sequence[Sequence[int]]
    keys: Keys = field(default_factory=Keys)
    open: bool = False
    decision: Decision | None = None
    batch: int = 1
    watched: Any = None
    passes: int = 0
    known: int = 0
    summed: tuple[list[frozenset], list[frozenset]] = field(default_factory=lambda: ([], []))
    # Multi-GPU setups call the model from several threads at once.
    lock: threading.RLock = field(default_factory=threading.RLock)
    _mine: threading.local = field(default_factory=threading.local)

    @contextmanager
    def round(self, guider: Any, x: Tensor, sigma: Tensor) -> Iterator[None]:
        """One evaluation round: opened, watched, and closed."""
        self._begin(guider, x, sigma)
        self.watched = getattr(guider, "inner_model", None) if self.open else None
        watch = nullcontext() if self.watched is None else Watch(self.watched, self._passed)
        try:
            with watch:
                yield
            if self.open:
                self._book_unknown()
        finally:
            self.open, self.watched = False, None

    def _begin(self, guider: Any, x: Tensor, sigma: Tensor) -> None:
        if torch.is_grad_enabled() or getattr(comfy.model_management, "in_training", False):
            self.runner.report.say("off.gradients")
            return
        self.open, self.batch = True, x.shape[0]
        self.passes = self.known = 0
        self.summed = [], self.summed[0]
        self.keys.begin(guider)
        self.decision = self.runner.begin(self._modalities(x), sigma)

    def _modalities(self, x: Tensor) -> Sequence[Tensor]:
        """Video and audio of a packed LTX-2 latent ``[B, 1, N]``; any other latent as it is."""
        sizes = [torch.Size(shape[1:]).numel() for shape in self.shapes]
        if len(sizes) == 1 or sum(sizes) != x.shape[-1]:
            return (x,)
        return x.split(sizes, dim=-1)

    def _passed(self, model: Any) -> None:
        """The network is about to run."""
        if self.enters and isinstance(model.diffusion_model, OptimizedModule):
            who, instead = "This policy", "another policy"
            if self.tap.inside:
                who, instead = f"The {self.tap.name} tap", "the output tap"
            raise UnsupportedModel(
                f"{who} cannot look into a model that torch.compile has compiled as a whole: "
                f"choose {instead}, or compile it block by block."
            )
        with self.lock:
            self.passes += 1
        self._mine.passes = self._of_this_thread() + 1

    def _of_this_thread(self) -> int:
        return getattr(self._mine, "passes", 0)

    def counted(self, model: Any, run: Callable[[], Tensor], again: bool) -> Tensor:
        """What ``run`` returns, a call over known branches. ``again``: one that only measures."""
        before = self._of_this_thread()
        out = run()
        if model is not self.watched:  # a second model, or one of several devices
            self._passed(model)
        ran = self._of_this_thread() - before
        with self.lock:
            self.known += ran
            for _ in range(0 if again else ran - 1):
                self.runner.called((), 1.0)
        if not ran:
            self.runner.report.say("answered_elsewhere")
        return out

    def readable(self, options: Mapping[str, Any], x: Tensor) -> bool:
        """Whether a call says which chunk of its batch is which."""
        uuids = options.get("uuids") or ()
        chunks = len(uuids) == len(options.get("cond_or_uncond") or ()) and len(uuids)
        return bool(chunks) and "sigmas" in options and x.shape[0] % (chunks * self.batch) == 0

    def _book_unknown(self) -> None:
        for _ in range(self.passes - self.known):
            self.runner.called((_UNKNOWN,), 1.0)
        if self.passes > self.known:
            self.runner.report.say("calls_unknown")

    def branches(self, *args: Any) -> list[Branch]:
        with self.lock:
            return self.keys.branches(*args)

    def sums(self, conds: Sequence[Sequence[Mapping[str, Any]] | None], sigma: Tensor) -> None:
        """A sum over ``conds`` begins; see ``Runner.branches_changed``."""
        now, before = self.summed
        asked = frozenset(
            (index, cond.get("uuid"))
            for index, listed in enumerate(conds)
            for cond in listed or ()
            if _holds(cond, sigma)
        )
        if before and before[len(now) : len(now) + 1] != [asked]:
            self.runner.branches_changed()
        now.append(asked)

    def later(self, conds: Sequence[Mapping[str, Any]] | None, index: int) -> bool:
        """Whether the ``index``-th list of conditions is answered from others' outputs."""
        roles = self.keys.roles(conds, index)
        return bool(roles) and not any(runs_first(self.decision, Branch(role)) for role in roles)

    def serve(self, base_model, model, x, t, options, branches) -> Tensor:
        """Answer one call; see ``_Host.apply_model``."""
        serve = self._serve_inside if self.tap.inside else self._serve_output
        return serve(self.tap, base_model, model, x, t, options, branches)

    def _serve_output(self, tap, base_model, model, x, t, options, branches) -> Tensor:
        """From the output tap: the raw output (v), never the denoised latent."""
        sampling = base_model.model_sampling

        def evaluate_at(sigma: float) -> Tensor:
            other = torch.full_like(t, sigma)
            own = torch.full_like(options["sigmas"], sigma)
            return _raw(sampling, other, x, model(other, {"sigmas": own}))

        with Call(self.runner, branches, evaluate_at, lock=self.lock) as call:
            if call.awaits:
                ahead = Ahead(call, x.shape)
                denoised = model(t, {CALL: Tapped(tap, self._places(base_model), ahead)})
                v = ahead.answer
            else:
                v = call.skip(OUTPUT, x.shape)
                denoised = model(t) if v is None else None
            if v is not None:
                return sampling.calculate_denoised(t, v.to(x), x)
            if self.runner.report.steps[-1].sigma < _SMALLEST_SIGMA:
                return denoised
            handed = call.ran(OUTPUT, _raw(sampling, t, x, denoised))
        return denoised if handed is None else sampling.calculate_denoised(t, handed.to(x), x)

    def _places(self, base_model: Any) -> Places:
        return (model_family(base_model) or GENERIC).comfy_places

    def _serve_inside(self, tap, base_model, model, x, t, options, branches) -> Tensor:
        """Run the model; inside it, the places of the tap are answered or watched."""
        places, sampling = self._places(base_model), base_model.model_sampling

        def evaluate_at(sigma: float) -> Tensor:
            heard, own = Listener(), torch.full_like(options["sigmas"], sigma)
            other = torch.full_like(t, sigma)
            if not tap.whole:
                return _raw(sampling, other, x, model(other, {"sigmas": own}))
            model(other, {CALL: Tapped(tap, places, heard), "sigmas": own})
            return heard.payload

        again, handed = evaluate_at if self.runner.measures else None, None
        with Call(self.runner, branches, again, inside=True, lock=self.lock) as call:
            if not tap.whole and (v := call.skip(OUTPUT, x.shape)) is not None:
                return sampling.calculate_denoised(t, v.to(x), x)
            denoised = model(t, {CALL: Tapped(tap, places, call)})
            if not tap.whole and self.runner.report.steps[-1].sigma >= _SMALLEST_SIGMA:
                handed = call.ran(OUTPUT, _raw(sampling, t, x, denoised))
        if not call.seen:
            self.runner.report.say("no_stack", tap=tap.name)
        return denoised if handed is None else sampling.calculate_denoised(t, handed.to(x), x)


@dataclass(frozen=True)
class Tapped(Shared):
    """What the wrapper around the diffusion model is to do in one call."""

    tap: Tap
    places: Places
    visit: Visit


def _holds(cond: Mapping[str, Any], sigma: Tensor) -> bool:
    """Whether a condition's range of noise levels holds ``sigma``, as ComfyUI judges it."""
    start, end = cond.get("timestep_start"), cond.get("timestep_end")
    if start is None and end is None:
        return True
    level = float(sigma.reshape(-1)[0])
    return (start is None or level <= start) and (end is None or level >= end)


def model_family(base_model: Any) -> Family | None:
    """Row of ComfyUI's model, ``None`` if it is of no known family."""
    return family_of(base_model, lambda row: row.comfy_classes)


def diffusion_model(executor, *args, **kwargs):
    """Tap the module that is being called; present where the model is entered only."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, dict) and isinstance(value.get(CALL), Tapped):
            call = value[CALL]
            with tapped(call.tap, executor.class_obj, call.places, call.visit):
                return executor(*args, **kwargs)
    return executor(*args, **kwargs)


def _raw(sampling: Any, sigma: Tensor, x: Tensor, denoised: Tensor) -> Tensor:
    """The model's own output from the denoised latent, which is an affine function of it.

    Works for every prediction type and stays outside the compiled region.
    """
    thin = torch.zeros([x.shape[0]] + [1] * (x.ndim - 1), dtype=x.dtype, device=x.device)
    offset = sampling.calculate_denoised(sigma, thin, x)
    slope = sampling.calculate_denoised(sigma, thin + 1, thin)
    slope = slope - sampling.calculate_denoised(sigma, thin, thin)
    return (denoised - offset) / slope
