"""The sampler's own clock: where a noise level lies on its list, and which rounds are to come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

#: Samplers whose second evaluation of a step sits at the *next* sigma of the list, the last step
#: (to 0) having none. Names are k-diffusion's, without the ``sample_`` prefix.
SECOND_AT_NEXT = frozenset(
    {
        *("heun", "exp_heun_2_x0", "exp_heun_2_x0_sde", "dpm_2_ancestral"),
        *("dpmpp_2s_ancestral_cfg_pp", "sa_solver_pece"),
    }
)
#: Samplers whose second evaluation sits between two sigmas of the list.
SECOND_BETWEEN = frozenset({"dpm_2", "dpmpp_2s_ancestral", "dpmpp_sde", "seeds_2"})
#: Samplers with two evaluations between, at a third and two thirds of the way.
TWO_BETWEEN = frozenset({"seeds_3"})
#: Samplers that look two sigmas ahead and come back.
TWO_AHEAD = frozenset({"heunpp2"})
#: Samplers that choose their steps by what the model answers.
ADAPTIVE = frozenset({"dpm_adaptive"})
#: Samplers that step between the ends of the list by a grid of their own.
OWN_GRID = frozenset({"dpm_fast"})
#: Words in the names of samplers that draw noise as they go.
DRAWING = ("ancestral", "sde", "lcm", "ddpm", "seeds", "sa_solver")
#: Relative distance within which a noise level counts as one of the list's (ours): between what
#: rounding in float32 does and the steps of any schedule.
ON_THE_GRID = 1e-4
#: Smallest share of a latent's noise level that a model may be told for the list to rule (ours).
MOST_TOLD_LESS = 0.3
#: Relative distance within which two noise levels of a list are one, listed twice (ours).
SAME_LEVEL = 1e-6
#: What ComfyUI calls the functions of samplers that have another name everywhere else.
_ALIASES = {"unipc": "uni_pc", "unipc_bh2": "uni_pc_bh2"}


def sampler_key(name: str) -> str:
    """The name that a sampler is compared by: ``unipc`` and ``uni_pc`` are one, and so are
    ``dpmpp_sde`` and ``dpmpp_sde_gpu``, which differ only in where noise is drawn."""
    name = name.removeprefix("sample_").removesuffix("_gpu")
    return _ALIASES.get(name, name)


def same_level(a: float, b: float) -> bool:
    """Whether ``b`` is the noise level ``a``, to within :data:`ON_THE_GRID`."""
    return abs(a - b) <= ON_THE_GRID * max(abs(a), 1e-8)


@dataclass(frozen=True)
class Schedule:
    """Noise levels of one run.

    Attributes:
        sigmas: the sampler's list, ``num_steps + 1`` falling values, the last one where it ends.
        sampler: name of the sampler (kept as its :func:`sampler_key`), empty if unknown. One around
            another has both names, the inner one's last, with a slash between.
        assumed: only the number of steps is known; evaluations may lie elsewhere, and rounds are
            counted to tell the step.
        places: for each step in turn, the last one for all that follow, where within it evaluations
            lie, each from 0 (its start) to 1 (its end); empty: as the sampler's name says.
    """

    sigmas: tuple[float, ...]
    sampler: str = ""
    assumed: bool = False
    places: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if len(self.sigmas) < 2:
            raise ValueError("a schedule needs at least two sigmas: where it starts and ends")
        object.__setattr__(self, "sampler", sampler_key(self.sampler))

    def asking_at(self, places: tuple[tuple[float, ...], ...] | None) -> Schedule:
        """This schedule with other :attr:`places`; ``None``: as it is."""
        return self if places is None else replace(self, places=places)

    def asking_as(self, other: Schedule) -> Schedule:
        """This schedule with :attr:`places` as those of ``other`` are in the end."""
        return replace(self, places=other.places[-1:])

    @property
    def num_steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def falling(self) -> bool:
        """Whether noise only falls: false for unsampling and restart-style lists."""
        return all(a >= b for a, b in zip(self.sigmas[:-1], self.sigmas[1:], strict=True))

    @cached_property
    def _named(self) -> tuple[str, ...]:
        """The sampler, and those that it is wrapped around; the innermost asks the model."""
        return tuple(map(sampler_key, self.sampler.split("/")))

    @property
    def adaptive(self) -> bool:
        """Whether the number of rounds depends on the model's outputs."""
        return not ADAPTIVE.isdisjoint(self._named)

    @property
    def draws(self) -> bool:
        """Whether it draws noise as it goes, by its name."""
        return any(word in self.sampler for word in DRAWING)

    @property
    def comes_back(self) -> bool:
        """Whether evaluations go back up to more noise within a step."""
        return not TWO_AHEAD.isdisjoint(self._named)

    @property
    def own_grid(self) -> bool:
        """Whether its steps are not those of the list."""
        return not OWN_GRID.isdisjoint(self._named)

    @property
    def by_list(self) -> bool:
        """Whether evaluations lie where the list, and the sampler's places in it, say."""
        return not (self.assumed or self.own_grid or self.adaptive or self.comes_back)

    def locate(self, sigma: float, expected: int = 0) -> int:
        """Index of the step that ``sigma`` belongs to: its grid point, else the last one above.

        Of the places of a noise level that is listed several times, the one nearest to
        ``expected``.
        """
        levels, slack = self.sigmas[:-1], max(abs(sigma), 1e-8)
        apart = [abs(level - sigma) for level in levels]
        if min(apart) <= ON_THE_GRID * slack:
            same = min(apart) + SAME_LEVEL * slack
            places = [index for index, gap in enumerate(apart) if gap <= same]
            return min(places, key=lambda index: abs(index - expected))
        above = sum(level > sigma for level in levels) - 1
        return min(max(above, 0), self.num_steps - 1)

    def step_of(self, sigma: float, ordinal: int) -> int:
        """Step of evaluation round number ``ordinal``, which asks at ``sigma``."""
        if self.assumed:
            return min(ordinal, self.num_steps - 1)
        steps = self.steps()
        return self.locate(sigma, steps[min(ordinal, len(steps) - 1)])

    def level(self, told: float, ordinal: int) -> float:
        """Noise level of the latent in round number ``ordinal``, where the model is told ``told``.

        A sampler cannot be further down its list than its evaluations bring it. A model that is
        told less noise than that is told less than the latent holds, as samplers for more detail
        do it: the list rules then. One that is told less than :data:`MOST_TOLD_LESS` allows is
        taken at its word: the sampler has gone on by itself.
        """
        if not self.by_list or ordinal >= len(self.rounds):
            return told
        expected, step = self._expected[ordinal]
        after = self.sigmas[step + 1]
        # Where between two levels of the list an evaluation lies is not known.
        lowest = expected if self.listed(expected) else after
        within = ordinal > 0 and self._expected[ordinal - 1][1] == step
        if within and abs(told - after) <= ON_THE_GRID * after:  # it asks less often than expected
            return told
        if not lowest * MOST_TOLD_LESS <= told < lowest * (1 - ON_THE_GRID):
            return told
        return expected

    def listed(self, sigma: float) -> bool:
        """Whether ``sigma`` is one of the list's noise levels."""
        return any(same_level(level, sigma) for level in self.sigmas)

    @cached_property
    def rounds(self) -> tuple[float, ...]:
        """Sigmas of the evaluations to be expected, in order.

        Mid-step values are taken evenly in the logarithm: exact for ``dpm_2`` and near enough for
        counting elsewhere.
        """
        return tuple(sigma for sigma, _ in self._expected)

    def steps(self) -> tuple[int, ...]:
        """Step index of each of :attr:`rounds`."""
        return tuple(index for _, index in self._expected)

    @cached_property
    def _expected(self) -> list[tuple[float, int]]:
        """Sigma and step index of every round."""
        out: list[tuple[float, int]] = []
        last, asks = self.num_steps - 1, self._named[-1]
        for index, (a, b) in enumerate(zip(self.sigmas[:-1], self.sigmas[1:], strict=True)):
            out.append((a, index))
            if b <= 0:
                continue
            if self.places:
                for place in self.places[min(index, len(self.places) - 1)][1:]:
                    out.append((a + place * (b - a), min(index + (place >= 1), last)))
            elif asks in SECOND_AT_NEXT:
                out.append((b, min(index + 1, last)))
            elif asks in SECOND_BETWEEN:
                out.append(((a * b) ** 0.5, index))
            elif asks in TWO_BETWEEN:
                out += [((a * a * b) ** (1 / 3), index), ((a * b * b) ** (1 / 3), index)]
            elif asks in TWO_AHEAD:  # never to the very end
                out += [(self.sigmas[k], k) for k in range(index + 1, min(index + 3, last + 1))]
        return out


def flow_sigmas(num_steps: int, shift: float = 1.0) -> tuple[float, ...]:
    """Rectified-flow schedule ``s u / (1 + (s - 1) u)`` for ``u`` falling evenly from 1 to 0.

    Source: time shift of Esser et al. 2024 (arXiv 2403.03206, eq. 23), as Wan and LTX use it.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, not {num_steps}")
    grid = [1 - k / num_steps for k in range(num_steps + 1)]
    return tuple(shift * u / (1 + (shift - 1) * u) for u in grid)


def as_floats(values: Sequence[float]) -> tuple[float, ...]:
    """Plain floats of a list or tensor, read once per run (one device-to-host copy)."""
    tolist = getattr(values, "tolist", None)
    return tuple(float(v) for v in (tolist() if tolist else values))
