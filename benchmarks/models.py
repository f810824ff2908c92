"""What is sampled: the tiny models or a checkpoint of their families, and the two regimes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sencache_core.tiny import (
    COG_SCHEDULER,
    SPECS,
    TinySpec,
    decode_video,
    encode_prompt,
    load_diffusers,
    to_diffusers_keys,
)

#: Key of the transformer's configuration that holds the width of the text embedding.
TEXT_WIDTH = {"wan": "text_dim", "ltx": "caption_channels", "cogvideox": "text_embed_dim"}


@dataclass(frozen=True)
class Regime:
    """How to sample.

    Attributes:
        name: as on the command line and in the rows.
        steps: sampling steps.
        shift: schedule shift of the flow families; CogVideoX has none.
        guidance: scale of classifier-free guidance.
    """

    name: str
    steps: int
    shift: float
    guidance: float


#: *smooth*: neighbouring outputs resemble each other. *rough*: few steps, strong guidance; holding
#: then scores as it does on real models.
REGIMES = {
    "smooth": Regime("smooth", steps=50, shift=5.0, guidance=4.0),
    "rough": Regime("rough", steps=20, shift=8.0, guidance=6.0),
}


@dataclass(frozen=True)
class Model:
    """One transformer and what belongs to it.

    Attributes:
        name: the rows' ``family``.
        spec: family, latent shape, prediction and configuration.
        module: the diffusers transformer, in eval mode and without gradients.
        codec: family whose bundled codec decodes the latents; ``None``: there is none.
        overrides: fields of :class:`Regime` that this model fixes.
    """

    name: str
    spec: TinySpec
    module: nn.Module
    codec: str | None
    overrides: dict[str, Any]

    @property
    def family(self) -> str:
        return self.spec.family

    @property
    def blocks(self) -> nn.ModuleList:
        """The repeated transformer blocks."""
        return self.module.blocks if self.family == "wan" else self.module.transformer_blocks

    def regime(self, regime: Regime) -> Regime:
        """The regime as this model wants it."""
        return replace(regime, **self.overrides)

    def encode(self, prompt: str) -> Tensor:
        """Text embedding ``[tokens, width]``."""
        return encode_prompt(prompt, dim=self.spec.config.get(TEXT_WIDTH[self.family], 4096))

    def decode(self, latent: Tensor) -> Tensor | None:
        """Latent ``[1, C, F, H, W]`` to a clip ``[F, 3, H, W]`` in 0..1, if there is a codec."""
        return decode_video(self.codec, latent)[0] if self.codec else None

    def scheduler(self, regime: Regime) -> Any:
        """diffusers' scheduler with the regime's shift."""
        import diffusers

        if self.spec.prediction == "v":
            return diffusers.CogVideoXDDIMScheduler(**COG_SCHEDULER)
        return diffusers.FlowMatchEulerDiscreteScheduler(shift=regime.shift)


def load_tiny(family: str) -> Model:
    """A bundled tiny model with its codec.

    Raises:
        ValueError: unknown family.
        FileNotFoundError: its weights are not installed.
        ImportError: diffusers is missing.
    """
    if family not in SPECS:
        raise ValueError(f"{family!r} is not one of {', '.join(SPECS)}")
    return Model(family, SPECS[family], load_diffusers(family), family, {})


def load_checkpoint(weights: str | Path, config: str | Path) -> Model:
    """Any model of the three families.

    Args:
        weights: safetensors under diffusers' names (the bundled files' names do, too).
        config: JSON object with ``family``; ``config``, the keyword arguments of the family's
            diffusers class; ``latent``, its ``[channels, frames, height, width]``; optionally
            ``name``, ``codec`` (a family whose bundled codec fits) and ``steps``, ``shift``,
            ``guidance``, which override both regimes.

    Raises:
        ValueError: a missing or unknown key, or weights that do not fit the configuration.
        OSError: a file cannot be read.
        ImportError: diffusers is missing.
    """
    import diffusers
    from safetensors.torch import load_file

    facts = json.loads(Path(config).read_text(encoding="utf-8"))
    needed, fixed = {"family", "config", "latent"}, {"steps", "shift", "guidance"}
    if not isinstance(facts, dict) or not needed <= facts.keys():
        raise ValueError(f"{config}: needs the keys {', '.join(sorted(needed))}")
    if unknown := facts.keys() - needed - fixed - {"name", "codec"}:
        raise ValueError(f"{config}: unknown keys {', '.join(sorted(unknown))}")
    family, codec = facts["family"], facts.get("codec")
    for name in (family, codec or family):
        if name not in SPECS:
            raise ValueError(f"{config}: {name!r} is not one of {', '.join(SPECS)}")
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in facts["config"].items()}
    spec = replace(SPECS[family], config=arguments, latent=tuple(facts["latent"]))
    module = getattr(diffusers, spec.diffusers_class)(**arguments)
    tensors = load_file(weights)
    if not tensors.keys() <= module.state_dict().keys():
        tensors = to_diffusers_keys(family, tensors)
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{weights} does not fit {config}: {error}") from error
    overrides = {name: facts[name] for name in fixed & facts.keys()}
    module = module.float().eval().requires_grad_(False)
    return Model(facts.get("name", family), spec, module, codec, overrides)
