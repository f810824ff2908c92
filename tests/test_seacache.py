"""SeaCache: its filter, its gate, and where it cannot look."""

from dataclasses import replace

import pytest
import torch
from toys import cached_run, noise, run_info, schedule

from sencache_core import FAMILIES, CacheConfig, Guards
from sencache_core.model.families import GENERIC
from sencache_core.policies import SeaCache
from sencache_core.policies.presets import PRESETS
from sencache_core.policies.seacache import sea_filter
from sencache_core.types import Branch, Look, Step


def test_a_constant_is_what_noise_leaves_last():
    """At high noise all but the constant is damped away; without noise nothing is."""
    x = 1 + noise(1, 2, 4, 6, 6)
    nearly_noise = sea_filter(x, (2, 3, 4), 1e-6, 1 - 1e-6, 3.0)
    means = x.mean(dim=(2, 3, 4), keepdim=True)
    assert torch.allclose(nearly_noise / nearly_noise.mean(), (means / means.mean()).expand_as(x))
    torch.testing.assert_close(sea_filter(x, (2, 3, 4), 1.0, 0.0, 3.0), x)


def test_gains_are_wieners():
    """Of one axis with two places, frequencies 0 and 1/2: mean kept, difference damped."""
    a, b = 0.4, 0.6
    clean = 1 / 0.5**3
    low, high = 1 / a, a * clean / (a * a * clean + b * b)
    x = torch.tensor([[[1.0, 3.0]]])
    mean = (low + high) / 2
    wanted = torch.tensor([[[2 * low - high, 2 * low + high]]]) / mean
    torch.testing.assert_close(sea_filter(x, (2,), a, b, 3.0), wanted)


def test_changes_add_up_from_round_to_round():
    policy, run = SeaCache(0.25), run_info()
    state, found = policy.start(run), []
    for number in range(5):
        look = Look(Branch("all"), torch.full((1, 2, 4), 1.1**number))
        now = Step((noise(1, 4),), 0.1, 0.5, 0.9 - 0.1 * number, number, 20, number, look=look)
        if number == 0:
            last, state = now, policy.observe(now, state)
            continue
        decision, state = policy.decide(now, last, state)
        found.append(decision.score)
    assert found == [pytest.approx(0.1 * k, rel=1e-4) for k in (1, 2, 3, 4)]


def test_a_run_is_decided_by_the_whole_latent():
    config = CacheConfig(SeaCache(0.3), guards=Guards(1, 1, 2), budget=None)
    report = cached_run(config, schedule(30), x=noise(1, 2, 3, 4, 4))[1]
    assert 0 < report.reused < 28
    assert not CacheConfig(SeaCache(place="output")).enters_model


@pytest.mark.parametrize(
    ("family", "channels", "why"),
    [
        ("generic", 1, "share of noise"),
        ("ltx2", 1, "picture and sound"),
        ("ltx", None, "list of tokens"),
        ("cogvideox", 2, ""),
    ],
)
def test_models_it_cannot_serve_are_told(family, channels, why):
    run = replace(run_info(), family=FAMILIES.get(family, GENERIC), channels=channels)
    said = SeaCache().misfit(run)
    assert (why in str(said)) and bool(said) == bool(why)


def test_presets_are_the_published_points():
    found = {n: p.policy.threshold for n, p in PRESETS.items() if "SeaCache" in n}
    assert list(found.values()) == [0.25, 0.2, 0.35]


@pytest.mark.parametrize("wrong", [{"threshold": -1}, {"power": 0}, {"place": "blocks"}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w{3}"):
        SeaCache(**wrong)
