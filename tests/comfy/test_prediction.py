"""What a model predicts is read from its sampling object, not from the family's name."""

from __future__ import annotations

import models
import pytest

from sencache_core import CacheConfig, Interval

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
def test_kinds_of_sampling_objects(runs, kind, name):
    import comfy.model_base

    from sencache_core.hosts.comfy_prediction import prediction_of

    found = getattr(comfy.model_base.ModelType, kind, None)
    if found is None:
        pytest.skip("this ComfyUI lacks it")
    config = models.load("wan_t2v").model.model.model_config
    plain = type(config)({})
    plain.sampling_settings = {}
    assert prediction_of(comfy.model_base.model_sampling(plain, found)) == name


def test_a_swapped_sampling_object_makes_a_known_family_unknown(runs, host):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    case, reports = models.load("wan_t2v"), runs.Reports()
    (swapped,) = ModelSamplingDiscrete().patch(case.model, "v_prediction", False)
    patched = host.attach(swapped, CacheConfig(), reports)
    runs.sample(patched, case, steps=12)
    report = reports.last
    assert sum("predicts v, not flow" in said for said in report.texts) == 1
    assert report.evaluations == 6


@pytest.mark.parametrize("name", ["wan_t2v", "wan_5b", "ltxv", "ltxav", "cog_1_0", "cog_1_5"])
def test_families_predict_what_they_are_known_for(runs, host, name):
    from sencache_core.hosts.comfy_prediction import prediction_of

    case = models.load(name)
    found = prediction_of(case.model.get_model_object("model_sampling"))
    assert found == host.model_family(case.model.model).prediction


@pytest.mark.parametrize("name", ["wan_t2v", "ltxv", "cog_1_0"])
def test_a_step_of_euler_is_what_the_core_takes_it_for(runs, host, name, monkeypatch):
    """``x' = a x + b y``, with the factors that follow from the model's own sampling object."""
    from sencache_core.run.session import Session

    case, seen = models.load(name), []
    begin, observe = Session.begin, Session.observe

    def begun(self, x, sigma):
        seen.append([x[0].clone(), None, self.course.run.transitions])
        return begin(self, x, sigma)

    def observed(self, keys, y, again=None):
        seen[-1][1] = y.clone()
        return observe(self, keys, y, again)

    monkeypatch.setattr(Session, "begin", begun)
    monkeypatch.setattr(Session, "observe", observed)
    config = CacheConfig(Interval(1.0), budget=None)
    runs.sample(host.attach(case.model, config), case, steps=12, cfg=1.0)
    for k, ((x, y, steps), (after, *_)) in enumerate(zip(seen[:-1], seen[1:], strict=True)):
        a, b = steps[k]
        assert runs.error(a * x + b * y, after) <= 1e-4


def test_previews_show_the_clean_latent_of_the_corrected_sample(runs, host):
    """Mended in rounds that take forecasts back, as the sampler made them in all others."""
    case, reports, shown, handed = models.load("wan_t2v"), runs.Reports(), [], []
    latents = []

    def look(step, x0, x, total):
        shown.append(x0.clone())
        latents.append(x.clone())

    sigmas = runs.sigmas_of(case.model, "euler", 20)
    patched = host.attach(case.model, CacheConfig(aim="same"), reports)
    end = runs.sample(patched, case, sigmas=sigmas, callback=look)
    report = reports.last
    for k, (now, after) in enumerate(zip(sigmas[:-2].tolist(), sigmas[1:-1].tolist())):
        step = (latents[k + 1] - latents[k]) / (after - now)
        handed.append(latents[k] - now * step)
    changed = [runs.error(a, b) > 1e-3 for a, b in zip(shown, handed)]
    reused = [record.decision == "reused" for record in report.steps]
    ends = [k > 0 and reused[k - 1] and not reused[k] for k in range(len(handed))]
    assert changed == ends and any(ends)
    last = case.model.model.process_latent_out(shown[-1])
    assert runs.error(end, last) <= 1e-5  # at noise level 0 there is nothing to mend
