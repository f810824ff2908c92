"""The aim ``true`` in ComfyUI: nearer to the exact solution than the uncached run."""

from __future__ import annotations

import models
import pytest
import torch

from sencache_core import CacheConfig, tiny

pytestmark = pytest.mark.comfyui

STEPS = 20


@pytest.fixture(scope="module", params=sorted(tiny.SPECS))
def case(request, runs):
    """A bundled model, trained on synthetic clips: outputs of random weights are not smooth."""
    import comfy.sd
    import comfy.supported_models

    if request.param == "cogvideox" and not hasattr(comfy.supported_models, "CogVideoX_T2V"):
        pytest.skip("this ComfyUI has no CogVideoX")
    path = str(tiny.weights_path(request.param))
    model = comfy.sd.load_diffusion_model(path, model_options={"dtype": torch.float32})
    prompt = tiny.held_out_prompts()[0]
    words = [tiny.encode_prompt(text)[None] for text in (prompt, "")]
    options = {"attention_mask": torch.ones(words[0].shape[:2], dtype=torch.long)}
    options = options if request.param == "ltx" else {}
    positive, negative = ([[one, dict(options)]] for one in words)
    latent = torch.zeros(1, *tiny.SPECS[request.param].latent)
    return models.Case(request.param, model, positive, negative, latent)


def test_nearer_to_the_exact_solution_than_the_uncached_run(runs, host, case):
    """Likeness to the limit of many steps, on tiny models; it says nothing about quality."""
    reports = runs.Reports()
    sigmas = runs.sigmas_of(case.model, "euler", STEPS)
    fine = torch.cat(
        [*(torch.linspace(a, b, 5)[:-1] for a, b in zip(sigmas, sigmas[1:])), sigmas[-1:]]
    )
    exact = runs.sample(case.model, case, "heun", sigmas=fine)
    plain = runs.error(runs.sample(case.model, case, sigmas=sigmas), exact)
    model = host.attach(case.model, CacheConfig(aim="true", budget=1.0), reports)
    assert runs.error(runs.sample(model, case, sigmas=sigmas), exact) < plain
    assert reports.last.evaluations == STEPS
    half = host.attach(case.model, CacheConfig(aim="true", budget=0.5), reports)
    assert runs.error(runs.sample(half, case, sigmas=sigmas), exact) < 1.5 * plain
    assert reports.last.evaluations == STEPS // 2


def test_the_clean_latent_is_shown_as_it_is(runs, host, case):
    """The last one is the clip; each is nearer to it than the one before."""
    seen, shown = [], case.model.model.process_latent_out
    model = host.attach(case.model, CacheConfig(aim="true", budget=1.0))

    def look(step, x0, *_):
        seen.append(shown(x0.clone()))

    end = runs.sample(model, case, steps=STEPS, callback=look)
    gaps = [runs.error(x0, end) for x0 in seen]
    assert len(gaps) == STEPS
    assert gaps[-1] < 0.1
    assert gaps[STEPS // 2 :] == sorted(gaps[STEPS // 2 :], reverse=True)


def test_multistep_samplers_land_where_euler_does(runs, host, case):
    """What they carry on is undone; so they all integrate the same outputs."""
    sampler = {"wan": "uni_pc", "ltx": "dpmpp_2m", "cogvideox": "res_multistep"}[case.name]
    sigmas, reports = runs.sigmas_of(case.model, "euler", 12), runs.Reports()
    model = host.attach(case.model, CacheConfig(aim="true"), reports)
    euler, other = (runs.sample(model, case, name, sigmas=sigmas) for name in ("euler", sampler))
    plain = runs.sample(case.model, case, sampler, sigmas=sigmas)
    assert runs.error(other, euler) < 0.01 < runs.error(other, plain)
    assert [report.evaluations for report in reports] == [6, 6]
    # What the sampler carries on is one to three latents a branch.
    held = [report.history_bytes for report in reports]
    assert held[0] < held[1] <= held[0] + 2 * 3 * 4 * case.latent.numel()


@pytest.mark.parametrize(
    "sampler",
    ["lms", "deis", "ipndm", "ipndm_v", "gradient_estimation", "uni_pc", "uni_pc_bh2", "dpmpp_2m"],
)
def test_every_linear_sampler_is_led(runs, host, sampler):
    case, reports = models.load("wan_t2v"), runs.Reports()
    model = host.attach(case.model, CacheConfig(aim="true"), reports)
    sigmas = runs.sigmas_of(model, "euler", 12)
    seen = []

    def look(step, x0, *_):
        seen.append(x0.clone())

    ends = [
        runs.sample(model, case, name, sigmas=sigmas, callback=look) for name in ("euler", sampler)
    ]
    assert any("The aim is the true clip" in text for text in reports.last.texts)
    assert reports.last.evaluations == 6
    assert runs.error(*ends[::-1]) < 0.01
    # Nor does the preview show what was handed on to undo what the sampler carries on.
    assert max(runs.error(b, a) for a, b in zip(seen[:12], seen[12:], strict=True)) < 0.01


def test_other_samplers_are_told(runs, host):
    case, reports = models.load("wan_t2v"), runs.Reports()
    true = host.attach(case.model, CacheConfig(aim="true"), reports)
    same = host.attach(case.model, CacheConfig())
    for sampler in ("heun", "euler_ancestral", "dpmpp_2m_sde", "dpmpp_2m_cfg_pp"):
        one = runs.sample(true, case, sampler, 12)
        assert runs.same(one, runs.sample(same, case, sampler, 12))
        assert any("The aim is the same clip" in text for text in reports.last.texts)
