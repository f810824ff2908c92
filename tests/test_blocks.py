"""Profiling of blocks: what they change, what they attend to, and the lists that follow."""

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from toys import COND, UNCOND, WAN, schedule

from sencache_core import ProfileError
from sencache_core.measure.blocks import BlockProfile, BlockWatch, foreground_mask, otsu
from sencache_core.model.families import Places
from sencache_core.model.taps import TAPS, tapped
from sencache_core.policies.profilingdit import parse_blocks, write_blocks
from sencache_core.run.runner import Call
from sencache_core.types import OUTPUT

PLACES = Places("blocks", ("head",))


class Adds(torch.nn.Module):
    """Adds ``size * sigma ** power`` along a direction of its own; its attention favours a few."""

    def __init__(self, number, size, power, keys):
        super().__init__()
        self.number, self.size, self.power, self.keys = number, size, power, keys

    def forward(self, x, sigma):
        query = torch.ones(len(x), 1, x.shape[1], 4)
        scaled_dot_product_attention(query, self.keys.expand_as(query), query)
        added = torch.zeros_like(x)
        added[..., self.number] = self.size * sigma**self.power
        return x + added


class Network(torch.nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.blocks, self.head = torch.nn.ModuleList(blocks), torch.nn.Identity()

    def forward(self, x, sigma):
        for block in self.blocks:
            x = block(x, sigma)
        return self.head(x)


def keys(*favoured, tokens=16):
    """Keys ``[1, 1, tokens, 4]`` that draw attention to some tokens."""
    out = torch.zeros(1, 1, tokens, 4)
    out[:, :, list(favoured)] = 3.0
    return out


def watched(blocks, steps=12, batched=True):
    """A watch over an uncached run; the clip is a bright square of four tokens on noise."""
    watch, network = BlockWatch(WAN, schedule(steps, 1.0)), Network(blocks)
    x = 0.05 * torch.randn(1, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x[:, :3, :, :4, :4] += torch.tensor([3.0, -3.0, 3.0]).reshape(1, 3, 1, 1, 1)
    branches = (UNCOND, COND) if batched else (COND,)
    for sigma in schedule(steps, 1.0).sigmas[:-1]:
        watch.begin((x,), sigma)
        with (
            Call(watch, branches, inside=True) as call,
            tapped(TAPS["blocks"], network, PLACES, call),
        ):
            network(torch.zeros(len(branches), 16, 4), sigma)
            call.ran(OUTPUT, torch.zeros(len(branches), 4, 1, 8, 8))
    watch.finish(True)
    return watch


SQUARE = (0, 1, 4, 5)
BLOCKS = (
    lambda: Adds(0, 1.0, 0, keys(*SQUARE)),  # never changes
    lambda: Adds(1, 1.0, 1, keys(0, 1)),
    lambda: Adds(2, 0.5, 1, keys(14, 15)),
)


@pytest.mark.parametrize("batched", [False, True])
def test_changes_are_those_over_the_next_rounds(batched):
    """Block 1 adds sigma: k rounds on, k / 12 less; block 2 half of it; block 0 the same."""
    profile = watched([make() for make in BLOCKS], batched=batched).profile()
    expected, count = np.zeros((3, 3)), 0
    sigmas = schedule(12, 1.0).sigmas[:-1]
    for now in range(2, 12):  # an opening of 0.12 of 12 steps: from the third on
        size = (1 + sigmas[now] ** 2 * 1.25) / 4
        for lag in range(1, min(now, 5) + 1):
            change = (sigmas[now] - sigmas[now - lag]) / 2
            expected += np.diag([0, change**2, change**2 / 4]) / size
            count += 1
    assert profile.changes == pytest.approx(expected / count, abs=1e-6)
    assert profile.background("change", 1 / 3) == {0}
    assert profile.background("change", 0.7) == {0, 2}
    assert profile.listed("change", 0.7) == "0, 2 of 3"


@pytest.mark.parametrize("batched", [False, True])
def test_attention_to_the_foreground(batched):
    """All of the square, half of it, none of it; the mask is the square."""
    profile = watched([make() for make in BLOCKS], batched=batched).profile()
    assert profile.foreground == pytest.approx([1.0, 0.5, 0.0])
    assert profile.background("attention", 1 / 3) == {2}
    assert profile.listed("attention", 0.7) == "1-2 of 3"


def test_nothing_is_left_listening_where_a_block_fails():
    class Fails(torch.nn.Module):
        def forward(self, x, sigma):
            raise RuntimeError("broken")

    watch, network = BlockWatch(WAN, schedule(4)), Network([Fails()])
    for sigma in schedule(4).sigmas[1:3]:
        watch.begin((torch.zeros(1, 4),), sigma)
        with (
            pytest.raises(RuntimeError, match="broken"),
            Call(watch, (COND,), inside=True) as call,
            tapped(TAPS["blocks"], network, PLACES, call),
        ):
            network(torch.zeros(1, 16, 4), sigma)
    watch.finish(False)
    assert torch.overrides._get_current_function_mode() is None
    with pytest.raises(ProfileError, match="no blocks"):
        watch.profile()


def test_blocks_that_cancel_are_chosen_together():
    """Two large changes that undo each other are less than a small one that stays."""
    changes = np.array([[1.0, -0.99, 0.0], [-0.99, 1.0, 0.0], [0.0, 0.0, 0.5]])
    profile = BlockProfile(changes, None)
    assert profile.background("change", 1 / 3) == {2}
    assert profile.expected(frozenset({0, 1})) == pytest.approx(0.02**0.5)
    with pytest.raises(ProfileError, match="attention was not seen"):
        profile.background("attention")
    with pytest.raises(ValueError, match="by change or attention"):
        profile.background("size")
    assert len(profile.background(share=0.01)) == 1 and len(profile.background(share=1.0)) == 2


def test_a_mask_finds_what_differs_from_most():
    noise = 0.1 * torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    noise[:, :, 2:6, 4:8] += torch.linspace(-2, 2, 8).reshape(8, 1, 1, 1)
    tokens = torch.zeros(3, 4, 4, dtype=torch.bool)
    tokens[:, 1:3, 2:4] = True  # two latent rows and columns a token
    for extra in (0, 5):  # of text, before the video's
        mask = foreground_mask(noise, 3 * 4 * 4 + extra)
        assert torch.equal(mask.reshape(3, 4, 4), tokens)
    whole = foreground_mask(noise, 3 * 8 * 8)
    assert torch.equal(foreground_mask(noise.movedim(0, 1), 3 * 8 * 8, channels_second=True), whole)
    assert foreground_mask(noise, 40) is None
    flat = noise.flatten(1).T
    assert foreground_mask(flat, len(flat)).sum() == 3 * 16


def test_otsu_parts_two_heaps():
    assert otsu(torch.tensor([0.1, 5.0, 0.2, 0.15, 5.2])) == pytest.approx((0.2 + 5.0) / 2)


@pytest.mark.parametrize("text", ["0, 2-7, 10-20 of 40", "1 of 3", "0-3 of 5"])
def test_lists_are_written_as_they_are_read(text):
    assert write_blocks(*parse_blocks(text)) == text
