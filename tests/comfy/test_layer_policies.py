"""Policies of layers on ComfyUI's own models."""

from __future__ import annotations

import models
import pytest
from test_lifecycle import traces

from sencache_core import POLICIES, CacheConfig, Guards
from sencache_core.measure.profile import combine
from sencache_core.policies.layered import LayerSchedule

pytestmark = pytest.mark.comfyui

STEPS = 12
OPEN = Guards(warmup=1, cooldown=0, longest_run=99)
LAYERED = {name: cls for name, cls in POLICIES.items() if issubclass(cls, LayerSchedule)}
#: The settings of a policy at which any of these budgets can be met.
ROOMY = {"pab": {"low": 0.0, "high": 1.0, "mlp_range": 6}}
STRICTEST = {"threshold": 0.0, "interval": 1.0, "reach": 0.0}
#: Kinds whose layers can be tapped.
REACHED = [name for name in models.CACHED if name != "wan_animate2"]


def profile(runs, host, case):
    found = []
    model = host.record(case.model, lambda *args: found.append(args), tap="layers")
    runs.sample(model, case, steps=STEPS)
    ((recording, header),) = found
    return combine([recording], header)


@pytest.mark.parametrize("name", ["wan_t2v", "ltxv", "ltxav", "cog_1_0"])
def test_every_policy_meets_a_budget_by_a_profile(runs, host, name):
    case, reports = models.load(name), runs.Reports()
    before, plain = traces(case.model), runs.sample(case.model, case, steps=STEPS)
    curves = profile(runs, host, case)
    for policy in LAYERED.values():
        own = policy(**ROOMY.get(policy.name, {}))
        config = CacheConfig(own, guards=OPEN, budget=0.75, profile=curves)
        out = runs.sample(host.attach(case.model, config, reports), case, steps=STEPS)
        assert not any(
            "no places" in said or "Caching is off" in said for said in reports.last.texts
        )
        assert 7.5 < reports.last.cost * STEPS <= 9 + 1e-6
        assert reports.last.partial and not reports.last.reused
        assert not runs.same(out, plain) and runs.error(out, plain) < 0.5
        knob = STRICTEST[policy.knob]
        strict = CacheConfig(policy(**{policy.knob: knob}), budget=None, profile=curves)
        out = runs.sample(host.attach(case.model, strict, reports), case, steps=STEPS)
        assert reports.last.cost == 1.0 and runs.same(out, plain)
    assert traces(case.model) == before


@pytest.mark.parametrize("tokens", [(5, 5), (5, 8)])
@pytest.mark.parametrize("name", REACHED)
def test_layers_are_reused_in_every_model(runs, host, name, tokens):
    """By the bundled figures of the family; the cost is that of the layers that ran."""
    case, reports = models.load(name, tokens=tokens), runs.Reports()
    plain = runs.sample(case.model, case, steps=STEPS)
    config = CacheConfig(LAYERED["smoothcache"](), guards=OPEN, budget=0.5)
    out = runs.sample(host.attach(case.model, config, reports), case, steps=STEPS)
    assert not any("no places" in said for said in reports.last.texts)
    most = 10 if name == "wan_humo" else 6  # whose layers for audio run as ever
    assert 4 < reports.last.cost * STEPS <= most + 1e-6
    assert not runs.same(out, plain) and runs.error(out, plain) < 0.6


def test_a_replayed_layer_answers_as_it_did(runs, host):
    """On paired sigmas every reuse has a truth: the evaluation before it."""
    for name in ("wan_t2v", "ltxav", "cog_1_5"):
        case, reports = models.load(name), runs.Reports()
        sigmas = runs.paired(case.model, 4)
        plain = runs.sample(case.model, case, sigmas=sigmas)
        policy = LAYERED["goc"](2.0, eta=0.0, turns="nowhere")
        config = CacheConfig(policy, guards=OPEN, budget=None, min_steps=1)
        out = runs.sample(host.attach(case.model, config, reports), case, sigmas=sigmas)
        assert reports.last.partial == 4
        assert runs.error(out, plain) <= 1e-5
