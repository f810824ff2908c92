"""``sencache methods``: every method on each family and host, in short runs of tiny models."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sencache_core.config import CacheConfig
from sencache_core.forecast.reuse import REUSE_RULES
from sencache_core.policies import POLICIES, Interval
from sencache_core.run.stats import RunReport
from sencache_core.tiny import SPECS, held_out_prompts
from sencache_core.types import OUTPUT, Branch, Key, Site

from .host import BlockWork, DiffusersHost
from .measures import distance, psnr
from .models import Model, Regime, load_tiny

ROOT = Path(__file__).resolve().parents[1]
#: The run of every cell, and the share of it that a method is to spend.
REGIME, BUDGET = Regime("short", steps=12, shift=5.0, guidance=4.0), 0.5
#: What is sampled: the bundled models by family, small random ones of the others.
FAMILIES = {
    "wan": "Wan 2.1",
    "wan2.2": "Wan 2.2 5B",
    "ltx": "LTX-Video",
    "ltx2": "LTX-2",
    "cogvideox": "CogVideoX",
}
HOSTS = ("comfyui", "diffusers")
TRAINED, RANDOM = "bundled tiny model", "small model of random weights"
#: What has to be said wherever figures are shown.
SCOPE = (
    f"Runs of {REGIME.steps} steps at a budget of {BUDGET:g}. `saved` is the share of the uncached "
    "run's block executions that was spared, `psnr_mean` the likeness to the uncached clip in dB, "
    "which is not quality. The models are tiny, those of Wan 2.2 and LTX-2 random: that a method "
    "runs is what this shows; its figures say nothing about real models."
)

Row = dict[str, Any]


# Methods


def methods(family: str) -> dict[str, CacheConfig]:
    """Every policy and reuse rule that is registered, as a run's configuration, by its name."""
    from .ours import published

    own = "wan" if family == "wan2.2" else family
    found = {name: published(name, own) for name, policy in POLICIES.items() if policy().reuses}
    default = CacheConfig(aim="same")
    found[default.policy.name] = default
    for name, rule in REUSE_RULES.items():
        found[f"{name} (rule)"] = CacheConfig(Interval(), rule(), hindsight=False)
    return {name: replace(config, budget=BUDGET) for name, config in found.items()}


def sentence(name: str) -> str:
    """What the method does, in one."""
    if name in POLICIES:
        return POLICIES[name].decides
    rule = REUSE_RULES[name.removesuffix(" (rule)")]
    return f"every n-th evaluation, evenly; in between is handed back: {rule.gives}"


@cache
def parities() -> Mapping[str, Sequence[str]]:
    """By method what tests hold it against: those that are marked ``parity(NAME, ORIGIN)``."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for mark in getattr(node, "decorator_list", ()):
                call = isinstance(mark, ast.Call) and isinstance(mark.func, ast.Attribute)
                if call and mark.func.attr == "parity":
                    name, origin = map(ast.literal_eval, mark.args)
                    test = f"{file.relative_to(ROOT).as_posix()}::{node.name}"
                    found.setdefault(name, []).append(f"{origin}: {test}")
    return found


def parity(name: str) -> str:
    """Which test holds a method against which origin, or what is tested instead."""
    bare = name.removesuffix(" (rule)")
    if marked := parities().get(bare):
        return "; ".join(marked)
    own = ROOT / "tests" / f"test_{bare}.py"
    if own.is_file():
        return f"no origin that runs: worked examples in tests/{own.name}"
    return "no origin that runs: the contract suites of policies and reuse rules"


# What is sampled


@dataclass
class Cell:
    """A model in a host.

    Attributes:
        about: which model it is.
        run: samples a clip, cached or not: its latent, its work, and the report if it was cached.
        likeness: dB of two latents.
    """

    about: str
    run: Callable[[CacheConfig | None], tuple[Tensor, int, RunReport | None]]
    likeness: Callable[[Tensor, Tensor], float]


SHOT = (held_out_prompts()[0], 0)


def in_diffusers(family: str) -> Cell:
    """The family's transformer in diffusers.

    Raises:
        Exception: this diffusers has none. The message says why.
    """
    from sencache_core.hosts.diffusers import attach

    model = _model(family)
    host = DiffusersHost(model, model.regime(REGIME))

    def run(config: CacheConfig | None) -> tuple[Tensor, int, RunReport | None]:
        host.work.reset()
        if config is None:
            return host.sample([SHOT]), host.work.reset(), None
        guidance = host.regime.guidance
        with attach(model.module, config, host.scheduler, learn=False, guidance=guidance) as on:
            latent = host.sample([SHOT])
            on.close()
        return latent, host.work.reset(), on.reports[-1]

    if model.codec is None:
        return Cell(RANDOM, run, _plain)
    return Cell(TRAINED, run, lambda a, b: distance(model, a, b))


def in_comfyui(family: str) -> Cell:
    """The family's model in ComfyUI.

    Raises:
        Exception: this ComfyUI, or this copy of the project, has none. The message says why.
    """
    from .comfy_peers import ComfyHost, load

    load()
    from sencache_core.hosts.comfy import attach

    if family in SPECS:
        model = load_tiny(family)
        host: Any = ComfyHost(model, REGIME)
        likeness = lambda a, b: distance(model, a, b)  # noqa: E731
    else:
        host, likeness = _Random(family), _plain

    def run(config: CacheConfig | None) -> tuple[Tensor, int, RunReport | None]:
        reports: list[RunReport] = []
        plain = host.patcher
        host.work.reset()
        try:
            if config is not None:
                host.patcher = attach(plain, config, reports.append)
            latent = host.sample([SHOT])
        finally:
            host.patcher = plain
        return latent, host.work.reset(), reports[-1] if reports else None

    return Cell(TRAINED if family in SPECS else RANDOM, run, likeness)


def _plain(latent: Tensor, reference: Tensor) -> float:
    return psnr(latent, reference, float(reference.max() - reference.min()))


def _model(family: str) -> Model:
    if family in SPECS:
        return load_tiny(family)
    import diffusers

    torch.manual_seed(0)
    if family == "wan2.2":
        spec = replace(SPECS["wan"], latent=(48, 3, 8, 8))
        config = {**spec.config, "in_channels": 48, "out_channels": 48}
        module = diffusers.WanTransformer3DModel(**config)
        return Model(family, spec, module.eval().requires_grad_(False), None, {})
    if not hasattr(diffusers, "LTX2VideoTransformer3DModel"):
        raise ImportError("this diffusers has no LTX-2")
    heads = {"num_attention_heads": 2, "attention_head_dim": 32}
    channels = dict.fromkeys(("in_channels", "out_channels"), 8)
    module = diffusers.LTX2VideoTransformer3DModel(
        **heads,
        **channels,
        **{f"audio_{name}": size for name, size in (heads | channels).items()},
        cross_attention_dim=64,
        audio_cross_attention_dim=64,
        caption_channels=48,
        num_layers=3,
    )
    spec = replace(SPECS["ltx"], family="ltx2", latent=(_Both.LENGTH, 8, 1, 1))
    return _Both(family, spec, module.eval().requires_grad_(False), None, {})


class _Both(Model):
    """LTX-2, video and audio in one latent ``[B, tokens, 8, 1, 1]``."""

    GRID, AUDIO = (2, 4, 4), 12
    LENGTH = 2 * 4 * 4 + AUDIO

    def encode(self, prompt: str) -> Tensor:
        """Random text ``[8, 48]``; the negative prompt is all zeros."""
        return 4 * torch.randn(8, 48, generator=torch.Generator().manual_seed(1)) * bool(prompt)

    def call(self, x: Tensor, t: Tensor | float, context: Tensor) -> Tensor:
        video, audio = x[..., 0, 0].split([self.LENGTH - self.AUDIO, self.AUDIO], dim=1)
        frames, height, width = self.GRID
        out = self.module(
            hidden_states=video,
            audio_hidden_states=audio,
            encoder_hidden_states=context,
            audio_encoder_hidden_states=context,
            timestep=torch.as_tensor(t).float().reshape(-1).expand(len(x)) * 1000,
            num_frames=frames,
            height=height,
            width=width,
            audio_num_frames=self.AUDIO,
            return_dict=False,
        )
        return torch.cat(out, dim=1)[..., None, None]


class _Random:
    """A small random model in ComfyUI: those of ``tests/comfy/models.py``.

    Attributes:
        patcher: ComfyUI's ``ModelPatcher`` to sample with.
        work: counts what is executed.
    """

    def __init__(self, family: str) -> None:
        folder = ROOT / "tests" / "comfy"
        if not (folder / "models.py").is_file():
            raise FileNotFoundError("no model of this family is bundled, and there are no tests/")
        sys.path.append(str(folder))
        try:
            self._models = importlib.import_module("models")
        finally:
            sys.path.remove(str(folder))
        self._name = {"wan2.2": "wan_5b", "ltx2": "ltxav"}[family]
        self.patcher = self._models.build(self._name)
        network = self.patcher.model.diffusion_model
        self.work = BlockWork(getattr(network, "transformer_blocks", None) or network.blocks)

    def sample(self, shots: Sequence[tuple[str, int]]) -> Tensor:
        """One clip's latent ``[n]``, video and audio after each other."""
        import comfy.sample
        import comfy.samplers

        models, latent = self._models, self._models.latent(self._name)
        guider = comfy.samplers.CFGGuider(self.patcher)
        guider.set_conds(models.text(self._name, 1), models.text(self._name, 2))
        guider.set_cfg(REGIME.guidance)
        euler, device = comfy.samplers.sampler_object("euler"), torch.device("cpu")
        options = self.patcher.model_options
        steps = (self.patcher, REGIME.steps, device, "euler", "simple", 1.0, options)
        sigmas = comfy.samplers.KSampler(*steps).sigmas
        noise = comfy.sample.prepare_noise(latent, shots[0][1])
        with torch.inference_mode():  # as ComfyUI's executor
            out = guider.sample(noise, latent, euler, sigmas, disable_pbar=True, seed=shots[0][1])
        parts = out.unbind() if getattr(out, "is_nested", False) else [out]
        return torch.cat([part.float().flatten() for part in parts]).clone()


# Cells


def table(
    families: Sequence[str] = tuple(FAMILIES),
    hosts: Sequence[str] = HOSTS,
    names: Sequence[str] | None = None,
) -> Iterator[Row]:
    """``method, family, host, runs, saved, psnr_mean, parity, note`` of every cell, one by one.

    ``saved`` and ``psnr_mean`` are ``None`` where a method does not run: ``note`` says why.
    ``skipped_cost`` (share of an evaluation's block work that a step takes which is not computed in
    full, at least) and ``memory`` (bytes kept) are those of Wan 2.1 1.3B at 832 x 480, 81 frames,
    the same in every row of a method.
    """
    make = {"comfyui": in_comfyui, "diffusers": in_diffusers}
    for family in families:
        for host in hosts:
            cell: Cell | None = None
            try:
                cell = make[host](family)
                reference, full, _ = cell.run(None)
                why = ""
            except Exception as error:
                why = f"not to be sampled here: {_said(error)}"
            for name, config in methods(family).items():
                if names and name not in names:
                    continue
                row: Row = {"method": name, "family": family, "host": host, "runs": False}
                row |= {"saved": None, "psnr_mean": None, "parity": parity(name), "note": why}
                if cell is not None and not why:
                    row |= _cell(cell, config, reference, full)
                yield row | at_wan(name)


def _cell(cell: Cell, config: CacheConfig, reference: Tensor, full: int) -> Row:
    policy, also = config.policy, ""
    while True:
        try:
            latent, work, report = cell.run(config)
        except Exception as error:
            return {"note": _said(error)}
        if report is not None and report.reused + report.partial:
            note = "; ".join([cell.about, also, *report.texts]).replace("; ; ", "; ")
            figures = {"saved": round(1 - work / full, 4)}
            figures |= {"psnr_mean": round(cell.likeness(latent, reference), 2)}
            return {"runs": True, **figures, "note": note.rstrip("; ")}
        why = " ".join(report.texts) if report is not None else "the host did not cache"
        if also or getattr(policy, "place", OUTPUT.tap) == OUTPUT.tap:
            return {"note": why or "nothing was reused"}
        # What it keeps elsewhere is not to be had: the model's output is.
        config, also = (
            replace(config, policy=replace(policy, place=OUTPUT.tap)),
            f"with place = output ({why})",
        )


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


# At Wan 2.1 1.3B


class _Seen:
    """A visit that notes every place that it is asked at: shape and share of the block work."""

    awaits = ""

    def __init__(self) -> None:
        self.places: dict[Site, tuple[Sequence[int], float]] = {}

    def saw(self, value: Tensor | None) -> None:
        return None

    def skip(self, site: Site, shape: Sequence[int], share: float = 1.0) -> None:
        self.places[site] = tuple(shape), share

    def ran(self, site: Site, y: Tensor) -> None:
        return None


@cache
def _network() -> tuple[Any, Callable[[], Any]]:
    """Wan 2.1 1.3B without weights, and a call of one branch."""
    import diffusers

    from .shapes import SHAPES

    shape, meta = SHAPES["wan-1.3b"], torch.device("meta")
    with meta:
        module = getattr(diffusers, shape.network)(**shape.config, num_layers=shape.blocks)
        inputs = {
            "hidden_states": torch.empty(1, *shape.latents[0]),
            "encoder_hidden_states": torch.empty(1, *shape.text),
            "timestep": torch.empty(1),
        }

    def call() -> None:
        with meta, torch.no_grad():
            module(**inputs)

    return module, call


@cache
def at_wan(name: str) -> Row:
    """What a skipped step costs there, and what is kept: two branches, residuals in half precision.

    Shapes alone: nothing is computed.
    """
    from sencache_core.model.families import FAMILIES as ROWS
    from sencache_core.model.taps import tapped

    from .shapes import SHAPES

    config, latent = methods("wan")[name], torch.Size(SHAPES["wan-1.3b"].latents[0])
    policy, tap, seen = config.policy, config.tapping, _Seen()
    rules = {config.tap_in_use: config.rule, **policy.rules}
    branches = [Branch("cond"), Branch("uncond")]
    memory = 4 * latent.numel() * rules.get(OUTPUT.tap, config.rule).history * len(branches)
    if tap.inside:
        module, call = _network()
        with tapped(tap, module, ROWS["wan"].diffusers_places, seen):
            call()
        sizes = [torch.Size(shape).numel() for shape, _ in seen.places.values()]
        kept = rules[tap.name].history if tap.name in rules else 1
        inside = 2 * sum(sizes) * kept * len(branches)
        memory = inside if tap.whole else inside + memory * policy.needs_pairs
    # Without a part by name: where all that the tap reaches is reused.
    part, cost = getattr(policy, "part", None), 1 - sum(s for _, s in seen.places.values())
    cost = 0.0 if tap.whole else cost
    if part is not None:
        cost = 0.0
        for branch in branches:
            if part.test(Key(branch, OUTPUT)):
                inside = ((site, share) for site, (_, share) in seen.places.items())
                spared = sum(share for site, share in inside if not part.test(Key(branch, site)))
                cost += (1 - spared) / len(branches)
    return {"skipped_cost": round(max(cost, 0.0), 3), "memory": memory}


# The command


def run(arguments: argparse.Namespace) -> int:
    """Print a line a method; with ``--json`` after every cell has been run.

    Raises:
        ValueError: an unknown method.
    """
    torch.set_num_threads(1)
    known = methods("wan")
    if unknown := [name for name in arguments.methods or () if name not in known]:
        raise ValueError(f"unknown methods {', '.join(unknown)}; there are {', '.join(known)}")
    names = arguments.methods or list(known)
    if not arguments.json:
        for name in names:
            print(f"{name}: {sentence(name)}. Parity: {parity(name)}")
        return 0
    families, hosts = arguments.family or FAMILIES, arguments.host or HOSTS
    if other := [family for family in families if family not in FAMILIES]:
        raise ValueError(f"unknown families {', '.join(other)}; there are {', '.join(FAMILIES)}")
    rows = []
    for row in table(list(families), list(hosts), names):
        rows.append(row)
        print(f"{len(rows)}: {row['family']}, {row['host']}, {row['method']}", file=sys.stderr)
        text = json.dumps(rows, indent=1, allow_nan=False, ensure_ascii=False)
        Path(arguments.json).write_text(text + "\n", encoding="utf-8")
    for name in names:
        own = [row for row in rows if row["method"] == name]
        works = [row for row in own if row["runs"]]
        saved = ", ".join(f"{row['saved']:.2f}" for row in works)
        print(f"{name}: runs in {len(works)} of {len(own)} cells; saved {saved or 'nothing'}")
    print(SCOPE)
    return 0
