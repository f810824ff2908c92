"""The layers tap on diffusers' transformers: what is kept, what stands in, what is left behind."""

from __future__ import annotations

import pytest
import torch
from diffusers_runs import Sampler, noise, text

from sencache_core.model.families import FAMILIES
from sencache_core.model.taps import TAPS, Listener
from sencache_core.tiny import forward

#: By family, a module that runs in each layer of a block and nowhere else.
WITHIN = {
    "wan": {"self": "attn1.to_q", "cross": "attn2.to_q", "mlp": "ffn.net.0.proj"},
    "ltx": {"self": "attn1.to_q", "cross": "attn2.to_q", "mlp": "ff.net.0.proj"},
    "cogvideox": {"self": "attn1.to_q", "mlp": "ff.net.0.proj"},
}


class Hears(Listener):
    """Keeps what ran at every place; hands out what it was given."""

    def __init__(self, instead=None):
        super().__init__()
        self.heard, self.instead, self.shares = {}, instead or {}, 0.0

    def skip(self, site, shape, share=1.0):
        found = self.instead.get(site)
        self.shares += share if found is not None else 0.0
        return None if found is None else found.clone()

    def ran(self, site, y):
        self.heard[site] = y.clone()


@pytest.mark.parametrize("family", WITHIN)
def test_truth_replays_the_call_and_the_layers_do_not_run(family):
    module, places = Sampler(family).module, FAMILIES[family].diffusers_places
    blocks, ran = getattr(module, places.blocks), [0]
    handles = [
        block.get_submodule(layer).register_forward_hook(lambda *_: ran.__setitem__(0, ran[0] + 1))
        for block in blocks
        for layer in WITHIN[family].values()
    ]

    def run(visit=None):
        time = torch.tensor(500 if family == "cogvideox" else 0.5)
        with torch.no_grad():
            if visit is None:
                return forward(family, module, noise(family), time, text(0))
            with TAPS["layers"].on(module, places, visit):
                return forward(family, module, noise(family), time, text(0))

    try:
        truth, seen = run(), Hears()
        assert torch.equal(run(seen), truth)
        assert [site.kind for site in seen.heard] == [*WITHIN[family]] * len(blocks)
        before, replay = ran[0], Hears(seen.heard)
        assert torch.allclose(run(replay), truth, atol=1e-6)
        assert ran[0] == before and replay.heard == {}
        assert 0.9 < replay.shares <= 1
        one = {site: y for site, y in seen.heard.items() if site.kind == "mlp"}
        assert torch.allclose(run(Hears(one)), truth, atol=1e-6)
        assert ran[0] == before + len(blocks) * (len(WITHIN[family]) - 1)
        nothing = {site: torch.zeros_like(y) for site, y in seen.heard.items()}
        assert (run(Hears(nothing)) - truth).abs().max() > 1e-3
    finally:
        for handle in handles:
            handle.remove()
    assert type(module._modules[places.blocks]) is torch.nn.ModuleList
