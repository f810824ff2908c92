"""Taps on a small network whose blocks write to their input: what is kept, what stands in."""

import pytest
import torch
from torch import nn

from sencache_core.model.families import Places
from sencache_core.model.signals import FIRST_RESIDUAL, FIRST_STATES
from sencache_core.model.taps import TAPS
from sencache_core.model.taps.blocks import Blocks
from sencache_core.policies import MiddleBlocks
from sencache_core.types import Site


class Adds(nn.Module):
    """A block that adds a number to its input in place."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, x):
        return x.add_(self.number)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks, self.head = nn.ModuleList(map(Adds, (1.0, 2.0, 4.0))), nn.Identity()

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Visit:
    """Keeps what ran; at the sites of ``instead`` that stands in."""

    def __init__(self, instead=None, awaits=""):
        self.instead, self.heard, self.shares = instead or {}, {}, 0.0
        self.awaits, self.seen = awaits, []

    def saw(self, value):
        self.awaits = ""
        self.seen.append(value)

    def skip(self, site, shape, share=1.0):
        self.shares += share if site in self.instead else 0.0
        return self.instead.get(site)

    def ran(self, site, y):
        self.heard[site] = y


def answer(tap, visit):
    """The network's answer to ones, ``[1, 2, 3]``."""
    network = Network()
    with TAPS[tap].on(network, Places("blocks", ("head",)), visit):
        return network(torch.ones(1, 2, 3))


SITES = {
    "stack": {Site("stack"): 7.0},
    "blocks": {Site("blocks", k, 3): added for k, added in enumerate((1.0, 2.0, 4.0))},
}


@pytest.mark.parametrize("tap", SITES)
def test_what_is_kept_is_what_blocks_add(tap):
    visit = Visit()
    assert torch.equal(answer(tap, visit), torch.full((1, 2, 3), 8.0))
    assert visit.heard.keys() == SITES[tap].keys()
    for site, added in SITES[tap].items():
        assert torch.equal(visit.heard[site], torch.full((1, 2, 3), added))


@pytest.mark.parametrize("tap", SITES)
def test_what_stands_in_is_added_and_its_shares_are_the_whole_stack(tap):
    visit = Visit({site: torch.full((1, 2, 3), 10.0) for site in SITES[tap]})
    assert torch.equal(answer(tap, visit), torch.full((1, 2, 3), 1 + 10.0 * len(SITES[tap])))
    assert visit.heard == {} and visit.shares == pytest.approx(1.0)


def test_a_block_alone_is_spared_for_its_share():
    visit = Visit({Site("blocks", 1, 3): torch.zeros(1, 2, 3)})
    assert torch.equal(answer("blocks", visit), torch.full((1, 2, 3), 6.0))
    assert visit.shares == pytest.approx(1 / 3)


@pytest.mark.parametrize(("count", "outer"), [(3, {0, 2}), (7, {0, 1, 5, 6})])
def test_outer_blocks_lie_alike_at_both_ends(count, outer):
    """Half of the blocks at an outer share of a half, told by where their middles lie."""
    (middle,) = MiddleBlocks(2.0, outer=0.5).kept(count)
    assert set(range(count)) - set(middle) == outer


@pytest.mark.parametrize(("runs", "answer_is"), [([range(1, 3)], 12.0), ([range(1)], 17.0)])
def test_a_run_of_blocks_is_one_place(runs, answer_is):
    """What its blocks add is kept as one; what stands in is added once, the others run."""
    network, places = Network(), Places("blocks", ("head",))
    site, tap = Site("blocks", runs[0][0], 3), Blocks(lambda count: runs)
    heard = Visit()
    with tap.on(network, places, heard):
        assert torch.equal(network(torch.ones(1, 2, 3)), torch.full((1, 2, 3), 8.0))
    assert heard.heard.keys() == {site}
    assert heard.heard[site].unique().tolist() == [sum((1.0, 2.0, 4.0)[k] for k in runs[0])]
    visit = Visit({site: torch.full((1, 2, 3), 10.0)})
    with tap.on(network, places, visit):
        assert torch.equal(network(torch.ones(1, 2, 3)), torch.full((1, 2, 3), answer_is))
    assert visit.shares == pytest.approx(len(runs[0]) / 3)
    assert visit.heard == {}


def test_what_is_added_inside_a_run_never_counts_twice():
    """As control networks do, between blocks: what stands in for the run holds it already."""

    class Helped(Network):
        def forward(self, x):
            for block in self.blocks:
                x = block(x) + 100
            return self.head(x)

    network, places, tap = Helped(), Places("blocks", ("head",)), Blocks(lambda count: [range(2)])
    heard = Visit()
    with tap.on(network, places, heard):
        truth = network(torch.ones(1, 2, 3))
    with tap.on(network, places, Visit(heard.heard)):
        assert torch.equal(network(torch.ones(1, 2, 3)), truth)


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("begins", [0, "behind"])
def test_the_first_blocks_run_and_are_shown_before_a_run_is_asked_for(first, begins):
    """Whether it begins among them or behind them; what stands in counts from where it begins."""
    begin = first if begins == "behind" else 0
    network, places = Network(), Places("blocks", ("head",))
    site, tap = Site("blocks", begin, 3), Blocks(lambda count: [range(begin, count)], first)
    adds = (1.0, 2.0, 4.0)

    class Deciding(Visit):
        def skip(self, site, shape, share=1.0):
            assert len(self.seen) == 1
            return super().skip(site, shape, share)

    heard = Deciding(awaits=FIRST_RESIDUAL)
    with tap.on(network, places, heard):
        assert torch.equal(network(torch.ones(1, 2, 3)), torch.full((1, 2, 3), 8.0))
    assert heard.seen[0].unique().tolist() == [sum(adds[:first])]
    assert heard.heard[site].unique().tolist() == [sum(adds[begin:])]
    visit = Deciding({site: torch.full((1, 2, 3), 10.0)}, awaits=FIRST_STATES)
    with tap.on(network, places, visit):
        out = network(torch.ones(1, 2, 3))
    assert out.unique().tolist() == [1 + sum(adds[:begin]) + 10.0]
    assert visit.shares == pytest.approx(1 - first / 3)
    (seen,) = visit.seen
    assert seen.shape == (1, 2, 2, 3)
    assert seen[:, 0].unique().tolist() == [1.0] and seen[:, 1].unique() == 1 + sum(adds[:first])


def test_streams_of_which_nothing_is_known_show_nothing():
    class Grows(nn.Module):
        def forward(self, x):
            return torch.cat([x, x], dim=1)

    network = Network()
    network.blocks[0] = Grows()
    visit = Visit(awaits=FIRST_RESIDUAL)
    with Blocks(lambda count: [range(1, count)], 1).on(network, Places("blocks"), visit):
        assert network(torch.ones(1, 2, 3)).shape == (1, 4, 3)
    assert visit.seen == [None]
