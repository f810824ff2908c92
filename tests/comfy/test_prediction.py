"""What a model predicts is read from its sampling object, not from the family's name."""

from __future__ import annotations

import models
import pytest

from sencache_core import CacheConfig

pytestmark = pytest.mark.comfyui


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("FLOW", "flow"),
        ("FLUX", "flow"),
        ("EPS", "eps"),
        ("V_PREDICTION", "v"),
        ("V_PREDICTION_DDPM", "v"),
        ("IMG_TO_IMG", "x0"),
        ("EDM", "another quantity"),
        ("FLOW_COSMOS", "another quantity"),
    ],
)
def test_kinds_of_sampling_objects(runs, host, kind, name):
    import comfy.model_base

    found = getattr(comfy.model_base.ModelType, kind, None)
    if found is None:
        pytest.skip("this ComfyUI lacks it")
    config = models.load("wan_t2v").model.model.model_config
    plain = type(config)({})
    plain.sampling_settings = {}
    assert host.prediction_of(comfy.model_base.model_sampling(plain, found)) == name


def test_a_swapped_sampling_object_makes_a_known_family_unknown(runs, host):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    case, reports = models.load("wan_t2v"), runs.Reports()
    (swapped,) = ModelSamplingDiscrete().patch(case.model, "v_prediction", False)
    patched = host.attach(swapped, CacheConfig(), reports)
    runs.sample(patched, case, steps=12)
    report = reports.last
    assert sum("predicts v, not flow" in said for said in report.messages) == 1
    assert report.evaluations == 6


@pytest.mark.parametrize("name", ["wan_t2v", "wan_5b", "ltxv", "ltxav", "cog_1_0", "cog_1_5"])
def test_families_predict_what_they_are_known_for(runs, host, name):
    case = models.load(name)
    found = host.prediction_of(case.model.get_model_object("model_sampling"))
    assert found == host.model_family(case.model.model).prediction
