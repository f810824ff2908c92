"""Every sampler of ComfyUI runs cached, and the schedule foresees its evaluations."""

from __future__ import annotations

import models
import pytest

from sencache_core import CacheConfig, Guards, Planned
from sencache_core.sampler.schedule import (
    ADAPTIVE,
    SECOND_AT_NEXT,
    SECOND_BETWEEN,
    TWO_BETWEEN,
    Schedule,
    sampler_key,
)

pytestmark = pytest.mark.comfyui

STEPS = 12
#: As of ComfyUI 0.33; older ones lack some.
SAMPLERS = (
    *("euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp", "heun", "heunpp2"),
    *("exp_heun_2_x0", "exp_heun_2_x0_sde", "dpm_2", "dpm_2_ancestral", "lms", "dpm_fast"),
    *("dpm_adaptive", "dpmpp_2s_ancestral", "dpmpp_2s_ancestral_cfg_pp", "dpmpp_sde"),
    *("dpmpp_sde_gpu", "dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu"),
    *("dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "ddpm"),
    *("lcm", "ipndm", "ipndm_v", "deis", "res_multistep", "res_multistep_cfg_pp"),
    *("res_multistep_ancestral", "res_multistep_ancestral_cfg_pp", "gradient_estimation"),
    *("gradient_estimation_cfg_pp", "er_sde", "seeds_2", "seeds_3", "sa_solver"),
    *("sa_solver_pece", "ddim", "uni_pc", "uni_pc_bh2"),
)


def test_no_sampler_is_forgotten(runs):
    import comfy.samplers

    assert set(comfy.samplers.SAMPLER_NAMES) <= set(SAMPLERS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler(runs, host, name):
    import comfy.samplers

    if name not in comfy.samplers.SAMPLER_NAMES:
        pytest.skip("this ComfyUI lacks it")
    case = models.load("wan_t2v")
    reports = runs.Reports()
    patched = host.attach(case.model, CacheConfig(), reports)
    sigmas = runs.sigmas_of(patched, name, STEPS)
    with runs.counted(case.model) as calls:
        out = runs.sample(patched, case, sampler=name, sigmas=sigmas)
    report = reports.last
    assert runs.flat(out).isfinite().all()
    assert report.calls == calls[0]
    assert report.evaluations == calls[0] <= len(report.steps)
    if name in ADAPTIVE:
        assert report.reused == 0
        return
    expected = Schedule(tuple(sigmas.tolist()), name)
    assert len(report.steps) == len(expected.rounds)
    # dpm_fast and the samplers that step between grid points visit other sigmas than foreseen.
    if sampler_key(name) not in SECOND_BETWEEN | TWO_BETWEEN | {"dpm_fast"}:
        visited = [record.sigma for record in report.steps]
        assert visited == pytest.approx(expected.rounds, rel=2e-3)
    if name == "heunpp2":
        assert report.reused == 0 and any("comes back" in said for said in report.texts)
        return
    assert abs(report.evaluations - round(0.5 * len(report.steps))) <= 1


@pytest.mark.parametrize("name", sorted(SECOND_AT_NEXT))
def test_first_and_second_evaluations_lie_on_the_grid(runs, host, name):
    import comfy.samplers

    if name not in comfy.samplers.SAMPLER_NAMES:
        pytest.skip("this ComfyUI lacks it")
    case = models.load("wan_t2v")
    reports = runs.Reports()
    patched = host.attach(case.model, CacheConfig(budget=1.0), reports)
    sigmas = runs.sigmas_of(patched, name, STEPS)
    runs.sample(patched, case, sampler=name, sigmas=sigmas)
    grid = sigmas.tolist()
    for record in reports.last.steps:
        assert min(abs(record.sigma - s) for s in grid) < 1e-3


@pytest.mark.parametrize("name", ["wan_t2v", "ltxv", "cog_1_0"])
@pytest.mark.parametrize("sampler", ["euler", "uni_pc", "dpmpp_2m", "heun", "euler_ancestral"])
def test_asked_and_achieved_cost_agree(runs, host, name, sampler):
    """As tests/test_budget.py, but counted on the network below the real samplers."""
    case = models.load(name)
    for budget in (0.2, 0.35, 0.7):
        reports = runs.Reports()
        patched = host.attach(case.model, CacheConfig(budget=budget), reports)
        with runs.counted(case.model) as calls:
            runs.sample(patched, case, sampler=sampler, steps=20)
        report = reports.last
        assert report.evaluations == round(budget * len(report.steps))
        assert report.calls == calls[0]
        assert not any("cannot be met" in message for message in report.texts)


def test_evaluations_beside_the_grid_by_rounding_make_no_line(runs, host):
    """exp_heun's second evaluation lies 6e-8 beside the next step's first."""
    import comfy.samplers

    if "exp_heun_2_x0" not in comfy.samplers.SAMPLER_NAMES:
        pytest.skip("this ComfyUI lacks it")
    case, error = models.load("wan_t2v"), {}
    mask = CacheConfig(
        Planned(mask="CCCC" + "C." * 9 + "C"),
        budget=None,
        guards=Guards(cooldown=0, longest_run=9),
        min_steps=1,
    )
    for name in ("heun", "exp_heun_2_x0"):
        plain = runs.sample(case.model, case, sampler=name, steps=STEPS)
        out = runs.sample(host.attach(case.model, mask), case, sampler=name, steps=STEPS)
        error[name] = runs.error(out, plain)
    assert 0 < error["exp_heun_2_x0"] < 2 * error["heun"]


def test_a_nodes_option_that_doubles_the_evaluations_is_seen(runs, host):
    import comfy.samplers

    case, reports = models.load("wan_t2v"), runs.Reports()
    sampler = comfy.samplers.ksampler("sa_solver", {"use_pece": True})
    assert host.sampler_name(sampler) == "sa_solver_pece"
    assert host.sampler_name(comfy.samplers.ksampler("sa_solver", {})) == "sa_solver"
    patched = host.attach(case.model, CacheConfig(), reports)
    sigmas = runs.sigmas_of(patched, "sa_solver", STEPS)
    runs.sample(patched, case, sampler=sampler, sigmas=sigmas)
    assert len(reports.last.steps) == 2 * STEPS - 1
    assert abs(reports.last.evaluations - STEPS) <= 1


def for_detail(runs, name, amount, rising):
    """A sampler around ComfyUI's that tells the model less noise than the list holds."""
    import comfy.samplers

    inner = comfy.samplers.ksampler(name)

    def more_detail(model, x, sigmas, extra_args=None, callback=None, disable=None, wrapped=None):
        listed = sigmas.tolist()

        def told(x, sigma, **extra):
            place = sum(level > float(sigma.max()) for level in listed) / len(listed)
            share = place < 0.5 if rising else 1 - abs(2 * place - 1)
            return model(x, sigma * (1 - amount * share), **extra)

        for attribute in ("inner_model", "sigmas"):
            setattr(told, attribute, getattr(model, attribute))
        options = {"extra_args": extra_args, "callback": callback, "disable": disable}
        return wrapped.sampler_function(told, x, sigmas, **options, **wrapped.extra_options)

    return comfy.samplers.KSAMPLER(more_detail, {"wrapped": inner})


@pytest.mark.parametrize("amount", [0.1, 0.4])
@pytest.mark.parametrize("rising", [False, True])
def test_a_sampler_for_more_detail_keeps_its_place(runs, host, amount, rising):
    """What it tells ends in a jump back up, if ``rising``."""
    case, reports = models.load("wan_t2v"), runs.Reports()
    patched = host.attach(case.model, CacheConfig(), reports)
    sigmas = runs.sigmas_of(patched, "euler", 20)
    sampler = for_detail(runs, "euler", amount, rising)
    with runs.counted(case.model) as calls:
        out = runs.sample(patched, case, sampler=sampler, sigmas=sigmas)
    report = reports.last
    assert host.sampler_name(sampler) == "more_detail/euler"
    assert report.evaluations == calls[0] == 10
    assert [record.step for record in report.steps] == list(range(20))
    assert not any(record.reason == "noise level rose" for record in report.steps)
    plain = runs.sample(case.model, case, sampler=sampler, sigmas=sigmas)
    whole = CacheConfig(budget=1.0)
    assert runs.same(
        runs.sample(host.attach(case.model, whole), case, sampler=sampler, sigmas=sigmas), plain
    )
    assert runs.error(out, plain) < 1


@pytest.mark.parametrize("name", ["heun", "dpm_2", "seeds_3"])
@pytest.mark.parametrize("rising", [False, True])
def test_a_sampler_for_more_detail_around_one_that_asks_more_often(runs, host, name, rising):
    """The name of the inner one tells how often, though no noise level lies on the list."""
    case, reports = models.load("wan_t2v"), runs.Reports()
    patched = host.attach(case.model, CacheConfig(), reports)
    sigmas = runs.sigmas_of(patched, name, 20)
    sampler = for_detail(runs, name, 0.4, rising)
    with runs.counted(case.model) as calls:
        runs.sample(patched, case, sampler=sampler, sigmas=sigmas)
    report = reports.last
    rounds = {"heun": 39, "dpm_2": 39, "seeds_3": 58}[name]
    assert len(report.steps) == rounds == len(Schedule(tuple(sigmas.tolist()), name).rounds)
    assert report.evaluations == calls[0] and abs(calls[0] - rounds / 2) <= 1
    steps = [record.step for record in report.steps]
    assert steps == sorted(steps) and steps[-1] == 19


@pytest.mark.parametrize("name", ["dpm_adaptive", "heunpp2"])
def test_a_sampler_around_one_that_cannot_be_cached_is_not_cached(runs, host, name):
    case, reports = models.load("wan_t2v"), runs.Reports()
    patched = host.attach(case.model, CacheConfig(), reports)
    sigmas = runs.sigmas_of(patched, name, 12)
    sampler = for_detail(runs, name, 0.0, False)
    out = runs.sample(patched, case, sampler=sampler, sigmas=sigmas)
    assert reports.last.reused == 0
    assert any(said.startswith("Caching is off") for said in reports.last.texts)
    assert runs.same(out, runs.sample(case.model, case, sampler=sampler, sigmas=sigmas))


@pytest.mark.parametrize("name", ["dpm_adaptive", "heunpp2"])
def test_a_function_that_hides_such_a_sampler_is_computed_and_says_why(runs, host, name):
    """Nothing but its evaluations tells: a round or two are reused before they do."""
    import comfy.samplers

    hidden = comfy.samplers.sampler_object(name).sampler_function

    def own(model, x, sigmas, extra_args=None, callback=None, disable=None):
        return hidden(model, x, sigmas, extra_args=extra_args, callback=callback, disable=disable)

    case, reports = models.load("wan_t2v"), runs.Reports()
    patched = host.attach(case.model, CacheConfig(), reports)
    sampler, sigmas = comfy.samplers.KSAMPLER(own), runs.sigmas_of(patched, name, 20)
    with runs.counted(case.model) as calls:
        out = runs.sample(patched, case, sampler=sampler, sigmas=sigmas)
    report = reports.last
    assert report.evaluations == calls[0] >= len(report.steps) - 2
    said = " ".join(report.texts)
    assert "follow no pattern" in said
    assert f"This run took the work of {calls[0]} steps, where 10 were asked for" in said
    plain = runs.sample(case.model, case, sampler=sampler, sigmas=sigmas)
    assert runs.error(out, plain) < 0.05
