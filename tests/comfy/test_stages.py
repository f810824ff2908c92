"""One clip in several sampler calls: one budget, one warm-up. Unrelated calls stay apart."""

from __future__ import annotations

import collections
import dataclasses

import models
import pytest
import torch

from sencache_core import CacheConfig
from sencache_core.policies import DeltaDiT, Eoc, FBCache
from sencache_core.run.facts import Part
from sencache_core.sampler.schedule import Schedule

pytestmark = pytest.mark.comfyui

STEPS = 30


@pytest.fixture
def case(comfyui):
    return models.load("wan_t2v")


def stage(runs, model, case, steps, start, end, latent=None, seed=7, noise=None, **kwargs):
    """What a KSamplerAdvanced node does; without a latent it adds the noise."""
    import comfy.sample

    fresh = latent is None
    latent = case.latent if fresh else latent
    if noise is None:
        noise = runs.seeded(latent, seed) if fresh else torch.zeros_like(latent)
    with torch.inference_mode():
        return comfy.sample.sample(
            model,
            noise,
            steps,
            4.0,
            kwargs.pop("sampler", "euler"),
            "simple",
            case.positive,
            case.negative,
            latent,
            disable_noise=not fresh,
            start_step=start,
            last_step=end,
            force_full_denoise=end == steps,
            disable_pbar=True,
            seed=seed,
            **kwargs,
        )


def clip(runs, mods, case, cuts, steps=STEPS, **kwargs):
    """The clip, sampled in stages; ``mods`` are the models of the stages."""
    latent = None
    ends = [*cuts, steps]
    for model, start, end in zip(mods, [0, *cuts], ends, strict=True):
        latent = stage(runs, model, case, steps, start, end, latent, **kwargs)
    return latent


@pytest.mark.parametrize(
    ("cuts", "budget", "expected"),
    [
        ((5, 25), 0.5, 15),
        ((8, 16, 24), 0.5, 15),
        ((15,), 0.5, 15),
        ((8, 16, 24), 0.3, 9),
        ((5, 25), 0.3, 9),
    ],
)
def test_stages_of_one_clip_have_one_budget(runs, host, case, cuts, budget, expected):
    reports = runs.Reports()
    cached = host.attach(case.model, CacheConfig(budget=budget), reports)
    with runs.counted(case.model) as calls:
        clip(runs, [cached] * (len(cuts) + 1), case, cuts)
    spent = sum(report.evaluations for report in reports)
    assert spent == calls[0] == expected
    for report in reports:
        assert report.reused > 0
        assert report.steps[0].decision == "forced"
    assert [report.before for report in reports] == [0, *cuts]
    assert reports[-1].whole == 30
    # Warm-up at the start of the clip alone, the last steps at its end alone.
    later = [record.reason for report in reports[1:] for record in report.steps]
    earlier = [record.reason for report in reports[:-1] for record in report.steps]
    assert "warm-up" not in later and "last steps" not in earlier


@pytest.mark.parametrize("policy", [Eoc(), DeltaDiT(), FBCache()])
def test_what_a_stage_spent_counts_its_last_round(runs, host, case, policy):
    """That one runs a part of the model, and what this costs is known once it is over."""
    reports, asked = runs.Reports(), 0.5 * STEPS
    mods = [host.attach(case.model, CacheConfig(policy, budget=0.5), reports)] * 3
    clip(runs, mods, case, (11, 21))
    spent = [report.cost * len(report.steps) for report in reports]
    assert any(report.steps[-1].cost < 0.5 for report in reports[:2])
    assert asked - 1.5 < sum(spent) <= asked + 0.5, spent


def test_stages_without_reuse_change_nothing(runs, host, case):
    cuts = (8, 16, 24)
    plain = clip(runs, [case.model] * 4, case, cuts)
    cached = host.attach(case.model, CacheConfig(budget=1.0))
    assert runs.same(clip(runs, [cached] * 4, case, cuts), plain)


def test_a_stage_is_judged_as_a_part_of_its_clip(runs, host, case):
    """Two and two steps of a distilled model are four; five of thirty are thirty."""
    reports = runs.Reports()
    cached = host.attach(case.model, CacheConfig(), reports)
    clip(runs, [cached] * 2, case, (2,), steps=4)
    assert [report.reused for report in reports] == [0, 0]
    assert all(any("steps" in said for said in r.texts) for r in reports)
    clip(runs, [cached] * 2, case, (5,))
    assert all(report.reused for report in reports[2:])


def test_each_expert_starts_with_a_computed_round(runs, host, case):
    low = models.build("wan_t2v", seed=1)
    reports = runs.Reports()
    experts = [host.attach(model, CacheConfig(), reports) for model in (case.model, low)]
    clip(runs, experts, case, (13,))
    assert sum(report.evaluations for report in reports) == STEPS // 2
    assert [report.steps[0].decision for report in reports] == ["forced", "forced"]


@pytest.mark.parametrize(("scheduler", "apart"), [("simple", 4e-3), ("sgm_uniform", 5e-2)])
@pytest.mark.parametrize("cut", [5, 13])
def test_what_is_to_follow_is_known_before_it_does(runs, host, case, scheduler, apart, cut):
    """From the first stage alone; of the schedulers that most graphs use."""
    import comfy.samplers

    sampling = case.model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, STEPS).tolist()
    part = Part(Schedule(tuple(sigmas[: cut + 1]), "euler"))
    stage = host.Stages().stage_of(None, part, sampling)
    (later,) = stage.later
    assert stage.whole == STEPS
    assert later.schedule.sigmas == pytest.approx(tuple(sigmas[cut:]), abs=apart)


def test_what_followed_last_time_is_expected_again(runs, host, case, tmp_path):
    """Of checkpoints that are known: then what was learnt of the second expert counts too."""
    low = models.build("wan_t2v", seed=1)
    reports = runs.Reports()
    config = CacheConfig(learn=tmp_path)
    experts = [host.attach(model, config, reports) for model in (case.model, low)]
    for _ in range(2):
        clip(runs, experts, case, (13,))
    first = host.STAGES.ended[-1].part
    second = host.STAGES.followed[first]
    sampling = case.model.get_model_object("model_sampling")
    assert host.STAGES.stage_of(None, first, sampling).later == (second,)
    assert (
        first.fingerprint != second.fingerprint and len(list(tmp_path.glob("*.safetensors"))) == 2
    )
    assert [sum(r.evaluations for r in reports[k : k + 2]) for k in (0, 2)] == [15, 15]


def test_unrelated_stages_stay_separate(runs, host, case):
    reports = runs.Reports()
    cached = host.attach(case.model, CacheConfig(), reports)
    first = stage(runs, cached, case, STEPS, 0, 15)
    alone = {"steps": STEPS, "start": 15, "end": STEPS}
    # Fresh noise, another latent, another noise level: a run of its own, which warms up.
    stage(runs, cached, case, **alone, latent=first, noise=runs.seeded(first, 9))
    stage(runs, cached, case, **alone, latent=first.flip(-1))
    stage(runs, cached, case, STEPS, 14, STEPS, latent=first)
    for report in reports[1:]:
        assert [record.reason for record in report.steps[:2]] == ["first evaluation", "warm-up"]
    # The true one does not.
    stage(runs, cached, case, **alone, latent=first)
    assert [r.reason for r in reports.last.steps[:2]][1] != "warm-up"


def test_a_stage_that_is_run_again_is_as_before(runs, host, case):
    cached = host.attach(case.model, CacheConfig())
    first = stage(runs, cached, case, STEPS, 0, 11)
    one, other = (stage(runs, cached, case, STEPS, 11, STEPS, latent=first) for _ in range(2))
    assert runs.same(one, other)


def test_video_and_audio_in_stages(runs, host):
    case = models.load("ltxav")
    reports = runs.Reports()
    cached = host.attach(case.model, CacheConfig(), reports)
    sigmas = runs.sigmas_of(case.model, "euler", STEPS)
    latent, noise = case.latent, runs.seeded(case.latent)
    nothing = type(noise)(tuple(torch.zeros_like(part) for part in noise.unbind()))
    for start, end in ((0, 8), (8, 16), (16, STEPS)):
        guide = runs.guider(cached, case)
        import comfy.samplers

        euler = comfy.samplers.sampler_object("euler")
        with torch.inference_mode():
            latent = guide.sample(noise, latent, euler, sigmas[start : end + 1], disable_pbar=True)
        noise = nothing
    assert sum(report.evaluations for report in reports) == STEPS // 2


def test_figures_are_all_that_is_kept(runs, host, case):
    cached = host.attach(case.model, CacheConfig())
    for seed in range(20):
        stage(runs, cached, case, 12, 0, 6, seed=seed)
    kept = host.STAGES.ended
    assert len(kept) <= 16
    assert len(host.STAGES.followed) <= 16
    for value in figures(kept):
        assert isinstance(value, int | float | str)


def figures(value):
    """All that a value of dataclasses and lists holds."""
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    if not isinstance(value, list | tuple | collections.deque):
        return [value]
    assert len(value) <= 64
    return [plain for each in value for plain in figures(each)]


# What a stage hands on is right wherever it is shown


def test_previews_and_denoised_output_are_right_above_sigma_zero(runs, host, case):
    """Hindsight changes what the sampler is handed; what is shown must not be worse for it."""
    sigmas = runs.sigmas_of(case.model, "euler", STEPS)[:21]

    def shown(model):
        seen = []
        runs.sample(
            model, case, sigmas=sigmas, callback=lambda k, x0, x, n: seen.append(x0.clone())
        )
        return seen

    plain = shown(case.model)
    off = shown(host.attach(case.model, CacheConfig(hindsight=False)))
    on = shown(host.attach(case.model, CacheConfig()))
    worst = [max(runs.error(a, b) for a, b in zip(each, plain, strict=True)) for each in (off, on)]
    last = [runs.error(each[-1], plain[-1]) for each in (off, on)]
    assert last[1] <= 1.2 * last[0]
    assert worst[1] <= 1.5 * worst[0]
