import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sencache_core import FAMILIES
from sencache_core.model.families import FLOW_VELOCITY_RMS, GENERIC, T_MIN, family_of

ROWS = [*FAMILIES.values(), GENERIC]


@pytest.mark.parametrize("family", ROWS, ids=lambda row: row.name)
@given(st.floats(0.001, 0.99))
def test_time_and_sigma_are_inverse(family, t):
    assert family.time(family.sigma(t)) == pytest.approx(t, rel=1e-9)


@pytest.mark.parametrize("family", ROWS, ids=lambda row: row.name)
def test_time_lies_in_0_to_1_and_rises_with_noise(family):
    sigmas = [0.0, 0.01, 0.5, 1.0] + ([10.0, 1e4, 1e30] if family.prediction == "v" else [])
    times = [family.time(sigma) for sigma in sigmas]
    assert times[0] == 0
    assert times[-1] <= 1
    assert times == sorted(times)
    assert math.isfinite(family.sigma(1.0))


@pytest.mark.parametrize("family", ROWS, ids=lambda row: row.name)
@given(st.floats(0, 1))
def test_prior_is_finite_and_not_negative(family, t):
    assert all(math.isfinite(v) and v >= 0 for v in family.prior(t))


def test_flow_prior_is_the_slope_of_a_model_that_knows_x0():
    """v = (x - x0) / sigma, differentiated by hand."""
    x0, noise, sigma = torch.zeros(1, 500), torch.randn(1, 500).mul(FLOW_VELOCITY_RMS), 0.4
    x = x0 + sigma * noise

    def velocity(x, sigma):
        return (x - x0) / sigma

    def size(v):
        return float(v.square().mean().sqrt())

    alpha_x, alpha_t, speed = FAMILIES["wan"].prior(sigma)
    assert size(velocity(x + 0.01, sigma) - velocity(x, sigma)) / 0.01 == pytest.approx(
        alpha_x, rel=1e-3
    )
    slope = size(velocity(x, sigma + 1e-3) - velocity(x, sigma)) / 1e-3
    assert slope == pytest.approx(alpha_t, rel=0.1)
    assert size(noise) == pytest.approx(speed, rel=0.1)


def test_v_prior_is_the_slope_of_a_model_that_knows_x0():
    """v = cot(phi) x - x0 / sin(phi), differentiated by hand at unit variance."""
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 1, 20_000, generator=generator)
    t = 0.6

    def state(t):
        phi = t * math.pi / 2
        return math.cos(phi) * x0 + math.sin(phi) * eps

    def output(x, t):
        phi = t * math.pi / 2
        return x / math.tan(phi) - x0 / math.sin(phi)

    def size(v):
        return float(v.square().mean().sqrt())

    alpha_x, alpha_t, speed = FAMILIES["cogvideox"].prior(t)
    x = state(t)
    assert size(output(x + 0.1, t) - output(x, t)) / 0.1 == pytest.approx(alpha_x, rel=1e-3)
    assert size(output(x, t + 1e-3) - output(x, t)) / 1e-3 == pytest.approx(alpha_t, rel=0.03)
    assert size(state(t + 1e-3) - x) / 1e-3 == pytest.approx(speed, rel=0.03)


def test_prior_is_clamped_near_zero():
    assert FAMILIES["wan"].prior(0.0) == FAMILIES["wan"].prior(T_MIN)


def test_nearest_ancestor_wins():
    wan = type("WAN21", (), {})
    camera = type("WAN21_Camera", (wan,), {})
    assert family_of(camera(), lambda row: row.comfy_classes).name == "wan"
    assert family_of(object(), lambda row: row.comfy_classes) is None


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda row: row.name)
def test_diffusers_classes_exist(family):
    diffusers = pytest.importorskip("diffusers")
    models = pytest.importorskip("diffusers.models.transformers")
    for name in family.diffusers_classes:
        assert hasattr(diffusers, name) or hasattr(models, name), name


@pytest.mark.comfyui
@pytest.mark.parametrize("name", ["wan", "ltx"])
def test_comfyui_classes_exist(name, comfyui):
    import comfy.model_base

    for cls in FAMILIES[name].comfy_classes:
        assert hasattr(comfy.model_base, cls)
