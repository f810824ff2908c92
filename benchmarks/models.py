"""What is sampled: the tiny models or a checkpoint of their families, and the two regimes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pad

from sencache_core.sampler.schedule import Schedule
from sencache_core.tiny import (
    COG_SCHEDULER,
    SPECS,
    TinySpec,
    decode_video,
    encode_prompt,
    forward,
    load_diffusers,
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
        sampler: ComfyUI's name of it; empty: Euler, for v-prediction DDIM.
    """

    name: str
    steps: int
    shift: float
    guidance: float
    sampler: str = ""

    @property
    def draws(self) -> bool:
        """Whether the sampler draws noise as it goes: it follows no ODE then."""
        return Schedule((1.0, 0.0), self.sampler).draws

    def sampled_by(self, sampler: str) -> Regime:
        """This regime with a sampler of ComfyUI, which its name carries."""
        return replace(self, name=f"{self.name} {sampler}", sampler=sampler)


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
        spec: family, latent shape and prediction.
        module: the diffusers transformer, in eval mode and without gradients.
        codec: family whose bundled codec decodes the latents; ``None``: there is none.
        overrides: fields of :class:`Regime` that this model fixes.
        rope: as ``tiny.forward`` takes it, for the model's latent; ``None``: as the bundled models.
        levels: arguments of the family's scheduler, but for the regime's shift.
    """

    name: str
    spec: TinySpec
    module: nn.Module
    codec: str | None
    overrides: dict[str, Any]
    rope: tuple | None = None
    levels: dict[str, Any] = field(default_factory=dict)

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
        """Text embedding ``[tokens, width]``; CogVideoX has a fixed number of tokens."""
        config = self.module.config
        text = encode_prompt(prompt, dim=config[TEXT_WIDTH[self.family]])
        if self.family == "cogvideox":
            text = pad(text, (0, 0, 0, config["max_text_seq_length"] - len(text)))
        return text

    def call(self, x: Tensor, t: Tensor | float, context: Tensor) -> Tensor:
        """The network's raw output. Arguments as for ``tiny.forward``."""
        return forward(self.family, self.module, x, t, context, self.rope)

    def decode(self, latent: Tensor) -> Tensor | None:
        """Latent ``[1, C, F, H, W]`` to a clip ``[F, 3, H, W]`` in 0..1, if there is a codec."""
        return decode_video(self.codec, latent)[0] if self.codec else None

    def scheduler(self, regime: Regime) -> Any:
        """diffusers' scheduler with the regime's shift."""
        import diffusers

        if self.spec.prediction == "v":
            return diffusers.CogVideoXDDIMScheduler(**(self.levels or COG_SCHEDULER))
        return diffusers.FlowMatchEulerDiscreteScheduler(**{**self.levels, "shift": regime.shift})


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
