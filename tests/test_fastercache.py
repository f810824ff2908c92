"""FasterCache: its schedule, its two-point reuse, both halves at once, and what diffusers does."""

import pytest
import torch
from toys import COND, UNCOND, WAN, schedule

from sencache_core import CacheConfig, CfgCache, Guards
from sencache_core.forecast.reuse import TwoBands, TwoPoint
from sencache_core.model.families import Layer, Places
from sencache_core.model.taps import tapped
from sencache_core.policies.fastercache import FasterCache
from sencache_core.policies.presets import PRESETS
from sencache_core.run.runner import Call
from sencache_core.types import OUTPUT, Anchor

PLACES = Places("blocks", ("head",), layers={"self": Layer("attn")})


class Attends(torch.nn.Module):
    """Stands for self-attention: depends on its input and on the noise level in its own way."""

    def __init__(self, number):
        super().__init__()
        self.number, self.sigma, self.weight = number, 0.0, torch.nn.Parameter(torch.zeros(8))

    def forward(self, x):
        return torch.tanh(x + self.number * self.sigma**2)


class Block(torch.nn.Module):
    def __init__(self, number):
        super().__init__()
        self.attn, self.rest = Attends(number), torch.nn.Linear(4, 4, bias=False)
        torch.nn.init.eye_(self.rest.weight)

    def forward(self, x):
        return self.rest(x + 0.1 * self.attn(x)) * 0.9


class Network(torch.nn.Module):
    def __init__(self, count=3):
        super().__init__()
        self.blocks, self.head = torch.nn.ModuleList(map(Block, range(count))), torch.nn.Identity()

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def sampled(policy, guards, steps=50, guided=True):
    """Report, and the outputs of each branch, of a run whose latents are given."""
    config, sched = CacheConfig(policy, guards=guards, budget=None), schedule(steps, 1.0)
    session, network, outputs = config.start(WAN, sched), Network(), []
    with torch.no_grad():
        for sigma in sched.sigmas[:-1]:
            x = torch.linspace(-1, 1, 12).reshape(1, 3, 4) * sigma
            session.begin((x,), sigma)
            for block in network.blocks:
                block.attn.sigma = sigma
            found = {}
            for branch in (COND, UNCOND)[: 1 + guided]:
                with Call(session, (branch,)) as call:
                    out = call.skip(OUTPUT, x.shape)
                    if out is None:
                        with tapped(config.tapping, network, PLACES, call):
                            out = network(x + (0.3 if branch is COND else -0.2))
                        call.ran(OUTPUT, out)
                    found[branch] = out
            outputs.append(found)
    return session.finish(True), outputs


def origins_run(steps=50, weight=0.3):
    """The repository's loop over the same latents: kinds of its steps and conditional outputs."""
    network, sched = Network(), schedule(steps, 1.0)
    cache, kinds, outputs = {}, [], []
    for number, sigma in enumerate(sched.sigmas[:-1]):
        counter = number + 1
        x = torch.linspace(-1, 1, 12).reshape(1, 3, 4) * sigma
        rows = [0.3, -0.2] if counter < 18 or counter % 5 == 0 else [0.3]
        h = torch.cat([x + c for c in rows])
        computed = False
        for k, block in enumerate(network.blocks):
            block.attn.sigma = sigma
            known = cache.get(k, [])
            enough = len(known) > 1 and len(known[-1]) >= len(h)
            if counter >= 18 and counter % 3 != 0 and enough:
                one, two = known[-1][: len(h)], known[-2][: len(h)]
                a = one + weight * (one - two)
            else:
                a, computed = block.attn(h), True
                cache[k] = [a, a] if counter == 15 else [*known[-1:], a] if counter > 15 else []
            h = block.rest(h + 0.1 * a) * 0.9
        kinds.append((len(rows) == 2, computed))
        outputs.append(h[:1])
    return kinds, outputs


@pytest.mark.parity("fastercache", "the authors' CogVideoX loop, written down")
@torch.no_grad()
def test_steps_and_outputs_are_the_origins():
    """In 50 steps by its preset: what is computed, and every conditional output."""
    preset = PRESETS["FasterCache"]
    report, outputs = sampled(preset.policy, preset.guards)
    kinds, expected = origins_run()
    said = {
        "": (True, True),
        "conditional branch": (False, True),
        "conditional branch, all but self-attention": (False, False),
    }
    assert [said[step.part] for step in report.steps] == kinds
    for found, truth in zip(outputs, expected, strict=True):
        torch.testing.assert_close(found[COND], truth, rtol=1e-5, atol=1e-6)
    assert report.partial == 33 - 7 and report.reused == 0


def test_both_halves_at_once_cost_less_than_either():
    preset = PRESETS["FasterCache"]
    both, outputs = sampled(preset.policy, preset.guards)
    alone, _ = sampled(FasterCache(attention=1), preset.guards)
    attention, _ = sampled(preset.policy, preset.guards, guided=False)
    assert alone.cost == pytest.approx((50 - 26 / 2) / 50)
    share = 1 - min(step.cost for step in attention.steps)
    assert {step.part for step in attention.steps} == {"", "all but self-attention"}
    assert min(step.cost for step in both.steps) == pytest.approx((1 - share) / 2)
    assert both.cost < min(alone.cost, attention.cost)
    assert share == pytest.approx(32 / 48)  # 3 tokens of 4 channels
    assert all(torch.isfinite(y).all() for found in outputs for y in found.values())


def test_the_share_of_attention_grows_with_the_clip():
    """Weights of a block: 8 + 16; a token's scores and values: 2 tokens x width."""

    class Heard:
        awaits, shares = "", None

        def skip(self, site, shape, share=1.0):
            self.shares = share
            return

        def ran(self, site, y):
            pass

    from sencache_core.model.taps import TAPS

    network = Network()
    for tokens in (3, 300):
        heard = Heard()
        with TAPS["attention"].on(network, PLACES, heard), torch.no_grad():
            network(torch.zeros(1, tokens, 4))
        pairs = 2 * tokens * 4
        assert heard.shares == pytest.approx((8 + pairs) / (24 + pairs) / 3)


def test_a_pair_is_rebuilt_in_two_bands():
    assert FasterCache().rules["gap"] == TwoBands()
    assert FasterCache().needs_pairs
    assert CfgCache.presets()["FasterCache CFG-Cache"].gap_rule == TwoBands()


@pytest.mark.parametrize(
    ("rule", "t", "weight"),
    [
        (TwoPoint(early=0.3, late=0.3), 0.9, 0.3),
        (TwoPoint(), 1.0, 0.0),
        (TwoPoint(), 0.25, 0.75),
        (TwoPoint(early=0.2, late=0.6), 0.5, 0.4),
    ],
)
def test_two_points(rule, t, weight):
    """A1 + w (A1 - A2), whatever the times of the two; of one alone, that one."""
    old, new = torch.randn(1, 4), torch.randn(1, 4)
    made = rule.predict(t, [Anchor(0.99, old), Anchor(0.98, new)])
    torch.testing.assert_close(made, new + weight * (new - old))
    assert torch.equal(rule.predict(t, [Anchor(0.99, old)]), old)
    assert sum(rule.weights([0.99, 0.98], t)) == pytest.approx(1)


def test_budgets_count_conditional_rounds_by_half():
    sched = schedule(50)
    for budget in (0.7, 0.8, 0.9):
        config = CacheConfig(FasterCache(), budget=budget, guards=Guards(start=0.1))
        policy = config.start(WAN, sched).course.policy
        assert policy.asked == budget * 50
        interval = policy.inner.interval
        assert 1 < interval < 20


@pytest.mark.parametrize("wrong", [{"interval": 0.5}, {"attention": 0}, {"early_weight": -0.1}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w{3}"):
        FasterCache(**wrong)


class Counts(torch.nn.Module):
    """Its n-th output is n squared."""

    def __init__(self):
        super().__init__()
        self.ran = 0

    def forward(self, x):
        self.ran += 1
        return torch.full_like(x, float(self.asked**2))


@pytest.mark.parity("fastercache", "diffusers FasterCacheConfig, where it differs")
def test_the_hooks_of_diffusers_keep_what_they_forecast():
    """The deviation by name: they count from 0, double the first output and push forecasts."""
    hooks = pytest.importorskip("diffusers.hooks.faster_cache")
    registry = pytest.importorskip("diffusers.hooks.hooks").HookRegistry
    module, weight = Counts(), 0.3
    time = lambda: 500 if module.asked else 2000  # noqa: E731  # the first one must lie outside
    hook = hooks.FasterCacheBlockHook(3, (-1, 1001), True, lambda _: weight, time)
    registry.check_if_exists_or_initialize(module).register_hook(hook, "fastercache")
    theirs, kept, expected = [], [], []
    for asked in range(10):
        module.asked = asked
        theirs.append(float(module(torch.zeros(1, 2)).mean()))
        now = float(asked**2) if asked % 3 == 0 else kept[1] + weight * (kept[1] - kept[0])
        kept = [kept[1] if kept else now, now]
        expected.append(now)
    assert module.ran == 4
    assert theirs == pytest.approx(expected)
    # Of the outputs that were computed, as the paper and its repository have it: step 4 follows
    # from steps 3 and 0, here from step 3 and the forecast of step 2.
    rule = TwoPoint(early=weight, late=weight)
    anchors = [Anchor(t, torch.full((1, 2), t_out)) for t, t_out in ((1.0, 0.0), (0.7, 9.0))]
    assert float(rule.predict(0.6, anchors).mean()) == pytest.approx(9 + weight * 9)
    assert theirs[4] == pytest.approx(9 + weight * (9 - theirs[2]))
    assert theirs[5] != pytest.approx(9 + weight * 9)
