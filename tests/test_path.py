"""The latent's way as an integral of outputs, where it is known in closed form."""

import math

import pytest

from sencache_core import Schedule
from sencache_core.model.families import FAMILIES
from sencache_core.sampler.path import paths_of
from sencache_core.sampler.solver import transitions

WAN, COG = FAMILIES["wan"], FAMILIES["cogvideox"]
ANGLES = [1.57, 1.4, 1.0, 0.7, 0.3, 0.0]
TANGENTS = tuple(math.tan(angle) for angle in ANGLES)


def raw(sigma):
    """ComfyUI's CogVideoX: the latent is not scaled by the noise level, but the sampler acts so."""
    root = math.sqrt(sigma * sigma + 1)
    return 1 / root, -sigma / root


@pytest.mark.parametrize(
    ("sampler", "clean", "scale", "way"),
    [
        ("ddim", None, lambda a: 1.0, lambda a: a),
        ("euler", None, math.cos, lambda a: a),
        (
            "euler",
            raw,
            lambda a: 2 * math.cos(a) / (1 + math.cos(a)),
            lambda a: 2 * math.tan(a / 2),
        ),
    ],
    ids=["ddim", "scaled", "raw"],
)
def test_scale_and_way_of_v_prediction(sampler, clean, scale, way):
    schedule = Schedule(TANGENTS, sampler)
    steps = transitions(COG, schedule, clean)
    for k, path in enumerate(paths_of(COG, schedule, steps, clean)):
        assert path.scale == pytest.approx(scale(ANGLES[k]), rel=1e-4)
        assert sum(path.shares) == pytest.approx(way(ANGLES[k + 1]) - way(ANGLES[k]), rel=1e-4)
        # What is handed on lands there: x' = a x + b (p x + q D), scaled, is c x + D.
        a, b = steps[k]
        landed = scale(ANGLES[k + 1]) * (a * 0.8 + b * (path.p * 0.8 + path.q * 0.3))
        assert landed == pytest.approx(scale(ANGLES[k]) * 0.8 + 0.3, rel=1e-4)


def test_flow_needs_no_latent():
    schedule = Schedule((1.0, 0.8, 0.8, 0.3, 0.0), "euler")
    first, second, third, last = paths_of(WAN, schedule, transitions(WAN, schedule))
    assert all(path.scale == 1 and path.p == 0 for path in (first, second, third, last))
    assert sum(first.shares) * first.q == pytest.approx(1)
    assert sum(last.shares) == pytest.approx(-0.3)
    assert second.q == 0  # nothing that is handed on moves the latent
