"""What is left behind: nothing. Detaching, clones, interrupts, errors, shared models."""

from __future__ import annotations

import copy
import gc
import weakref

import models
import pytest
import torch

from sencache_core import CacheConfig, Hold, Interval, Planned
from sencache_core.policies import SmoothCache

pytestmark = pytest.mark.comfyui

STEPS = 12


def traces(model):
    """Everything on the model that a cache could leave behind."""
    network = model.model.diffusion_model
    hooks = [m for m in network.modules() if m._forward_pre_hooks or m._forward_hooks]
    names = {
        name
        for module in network.modules()
        for name in vars(module)
        if name in ("forward", "forward_gen", "_process_transformer_blocks")
    }
    kinds = [type(child) for child in network.children()]
    return hooks, names, kinds, sorted(vars(network)), repr(model.model_options)


@pytest.mark.parametrize("tap", ["output", "stack"])
@pytest.mark.parametrize("name", ["wan_t2v", "ltxv", "ltxav", "cog_1_0"])
def test_the_original_patcher_is_untouched(runs, host, name, tap):
    case = models.load(name)
    before, plain = traces(case.model), runs.sample(case.model, case, steps=STEPS)
    patched = host.attach(case.model, CacheConfig(tap=tap))
    options = repr(patched.model_options)
    cached = runs.sample(patched, case, steps=STEPS)
    assert not runs.same(cached, plain)
    assert repr(patched.model_options) == options
    assert runs.same(runs.sample(case.model, case, steps=STEPS), plain)
    assert traces(case.model) == before
    assert runs.same(runs.sample(patched, case, steps=STEPS), cached)


def test_nodes_after_ours(runs, host):
    """Clones share the wrappers; a shifted schedule and a LoRA are seen."""
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    case = models.load("wan_t2v")
    reports = runs.Reports()
    patched = host.attach(case.model, CacheConfig(), reports)
    (shifted,) = ModelSamplingSD3().patch(patched, 3.0)
    assert shifted.add_patches(
        {"diffusion_model.blocks.0.self_attn.q.weight": (models.noise(128, 128, seed=3),)}, 0.1
    )
    (plain,) = ModelSamplingSD3().patch(case.model, 3.0)
    plain.add_patches(
        {"diffusion_model.blocks.0.self_attn.q.weight": (models.noise(128, 128, seed=3),)}, 0.1
    )
    sigmas = runs.sigmas_of(plain, "euler", STEPS)
    out = runs.sample(shifted, case, sigmas=sigmas)
    assert reports.last.evaluations == 6
    assert [r.sigma for r in reports.last.steps] == pytest.approx(sigmas[:-1].tolist())
    assert runs.error(out, runs.sample(plain, case, sigmas=sigmas)) < 1.0
    runs.sample(patched, case, steps=STEPS)
    assert reports.last.steps[1].sigma != reports[0].steps[1].sigma


def test_a_second_attach_replaces_the_first(runs, host):
    case = models.load("wan_t2v")
    first, second = runs.Reports(), runs.Reports()
    patched = host.attach(case.model, CacheConfig(budget=0.9), first)
    patched = host.attach(patched.clone(), CacheConfig(budget=0.5), second)
    out = runs.sample(patched, case, steps=STEPS)
    assert len(first) == 0 and second.last.evaluations == 6
    only = runs.sample(host.attach(case.model, CacheConfig(budget=0.5)), case, steps=STEPS)
    assert runs.same(out, only)
    recordings = []
    measuring = host.record(patched, lambda *found: recordings.append(found))
    with runs.counted(case.model) as calls:
        runs.sample(measuring, case, steps=STEPS)
    assert len(recordings) == 1 and len(second) == 1
    assert calls[0] > STEPS


def test_stack_tap_goes_with_its_attach(runs, host):
    import comfy.patcher_extension

    case = models.load("wan_t2v")
    stacked = host.attach(case.model, CacheConfig(tap="stack"))
    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    assert stacked.wrappers[kind][host.KEY]
    replaced = host.attach(stacked, CacheConfig())
    assert not replaced.wrappers.get(kind, {}).get(host.KEY)


@pytest.mark.parametrize("tap", ["output", "stack"])
@pytest.mark.parametrize("name", ["wan_t2v", "ltxav"])
def test_interrupt_and_run_again(runs, host, name, tap):
    import comfy.model_management as management

    case = models.load(name)
    reports = runs.Reports()
    patched = host.attach(case.model, CacheConfig(tap=tap), reports)
    before = traces(case.model)
    fresh = runs.sample(patched, case, steps=STEPS)

    def interrupt(step, *_):
        if step == 5:
            raise management.InterruptProcessingException

    with pytest.raises(management.InterruptProcessingException):
        runs.sample(patched, case, steps=STEPS, callback=interrupt)
    assert [r.completed for r in reports] == [True, False]
    assert len(reports.last.steps) == 6
    assert runs.same(runs.sample(patched, case, steps=STEPS), fresh)
    assert traces(case.model) == before


@pytest.mark.parametrize("tap", ["output", "stack"])
@pytest.mark.parametrize("name", ["wan_t2v", "wan_vace", "ltxv", "cog_1_0"])
def test_errors_of_the_model_pass_through(runs, host, name, tap):
    case = models.load(name)
    reports = runs.Reports()
    patched = host.attach(case.model, CacheConfig(tap=tap), reports)
    network = case.model.model.diffusion_model
    stack = getattr(network, "blocks", None) or network.transformer_blocks
    before = traces(case.model)
    calls = [0]

    def fail(*_):
        calls[0] += 1
        if calls[0] == 4:
            raise FloatingPointError("a block failed")

    handle = stack[1].register_forward_pre_hook(fail)
    try:
        with pytest.raises(FloatingPointError, match="a block failed"):
            runs.sample(patched, case, steps=STEPS)
    finally:
        handle.remove()
    assert not reports.last.completed
    assert traces(case.model) == before
    runs.sample(patched, case, steps=STEPS)
    assert reports.last.evaluations == 6


@pytest.mark.parametrize("tap", ["output", "stack"])
def test_nothing_outlives_a_run(runs, host, monkeypatch, tap):
    from sencache_core.run import history, session

    case = models.load("wan_t2v")
    kept = []
    anchor, begin = history.Anchor, session.Session.begin

    def watched(t, y):
        kept.append(weakref.ref(y))
        return anchor(t, y)

    def begun(self, x, sigma):
        kept.extend(weakref.ref(part) for part in x)
        return begin(self, x, sigma)

    monkeypatch.setattr(history, "Anchor", watched)
    monkeypatch.setattr(session.Session, "begin", begun)
    reports = runs.Reports()
    patched = host.attach(case.model, CacheConfig(tap=tap), reports)
    guide = runs.guider(patched, case)
    runs.sample(patched, case, steps=STEPS, guide=guide)
    gc.collect()
    assert len(kept) >= 2 * STEPS
    assert [ref for ref in kept if ref() is not None] == []
    assert reports.last.completed


def test_a_guider_that_keeps_its_uuids(runs, host):
    case = models.load("wan_t2v")
    patched = host.attach(case.model, CacheConfig())
    guide = runs.guider(patched, case)
    first = runs.sample(patched, case, steps=STEPS, guide=guide)
    other = runs.sample(patched, case, steps=STEPS, guide=guide, seed=8)
    again = runs.sample(patched, case, steps=STEPS, guide=guide)
    assert runs.same(first, again) and not runs.same(first, other)


def test_two_samplers_on_one_model(runs, host):
    """The second sampler runs between two steps of the first one."""
    case = models.load("wan_t2v")
    reports = runs.Reports()
    patched = host.attach(case.model, CacheConfig(), reports)
    first = runs.sample(patched, case, steps=STEPS)
    second = runs.sample(patched, case, steps=STEPS, sampler="heun", seed=8)
    assert [r.evaluations for r in reports] == [6, 12]
    assert runs.same(runs.sample(patched, case, steps=STEPS), first)
    assert runs.same(runs.sample(patched, case, steps=STEPS, sampler="heun", seed=8), second)


def test_two_experts(runs, host):
    """Wan 2.2: one schedule, split between two models, each with a cache of its own."""
    case = models.load("wan_t2v")
    low = models.build("wan_t2v", seed=1)
    sigmas = runs.sigmas_of(case.model, "euler", 24)

    def both(first, second):
        middle = runs.sample(first, case, sigmas=sigmas[:13])
        rest = models.Case(case.name, low, case.positive, case.negative, middle)
        return runs.sample(second, rest, sigmas=sigmas[12:], noise=torch.zeros_like(middle))

    reports = runs.Reports()
    cached = both(
        host.attach(case.model, CacheConfig(), reports), host.attach(low, CacheConfig(), reports)
    )
    assert sum(r.evaluations for r in reports) == 12
    assert reports[1].steps[0].sigma == pytest.approx(sigmas[12].item())
    assert runs.flat(cached).isfinite().all()
    off = CacheConfig(budget=1.0)
    plain = both(case.model, low)
    assert runs.same(both(host.attach(case.model, off), host.attach(low, off)), plain)


@pytest.mark.parametrize("policy", [Planned(), SmoothCache()])
def test_options_may_be_copied_in_mid_run(runs, host, policy):
    """By nodes that change them for a call of their own: a run is one, its locks are no data."""
    import comfy.patcher_extension

    case, copies = models.load("wan_t2v"), []

    def guided(args):
        copies.append(copy.deepcopy(args["model_options"]))
        return args["denoised"]

    def inside(executor, *args, **kwargs):
        copies.append(copy.deepcopy(args[-1] if isinstance(args[-1], dict) else kwargs))
        return executor(*args, **kwargs)

    model = case.model.clone()
    model.set_model_sampler_post_cfg_function(guided)
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "us", inside)
    plain = runs.sample(model, case, steps=STEPS)
    reports = runs.Reports()
    out = runs.sample(host.attach(model, CacheConfig(policy), reports), case, steps=STEPS)
    assert reports.last.completed and reports.last.cost < 1
    assert not runs.same(out, plain)


def test_answers_share_no_memory_with_the_history(runs, host):
    """Whoever writes into a model's answer must not reach the next one."""
    import comfy.patcher_extension

    case = models.load("wan_t2v")

    def vandal(executor, *args, **kwargs):
        out = executor(*args, **kwargs)
        good = out.clone()
        out.fill_(float("nan"))
        return good

    config = CacheConfig(policy=Interval(3.0), rule=Hold(), budget=None)
    clean = runs.sample(host.attach(case.model, config), case, steps=STEPS)
    for over in (True, False):
        patched = case.model.clone()
        kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
        if over:
            patched.add_wrapper_with_key(kind, "vandal", vandal)
        patched = host.attach(patched, config)
        if not over:
            patched.add_wrapper_with_key(kind, "vandal", vandal)
        assert runs.same(runs.sample(patched, case, steps=STEPS), clean)


def test_gradients_bypass_the_cache(runs, host):
    import comfy.samplers

    case = models.load("wan_t2v")
    reports = runs.Reports()
    patched = host.attach(case.model, CacheConfig(), reports)
    sigmas = runs.sigmas_of(patched, "euler", STEPS)

    class Trainer(comfy.samplers.Sampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, *_, **__):
            with torch.enable_grad():
                for sigma in sigmas[:-1]:
                    model_wrap(noise, sigma * noise.new_ones(1), **extra_args)
            return noise

    guide = runs.guider(patched, case)
    with runs.counted(case.model) as calls, torch.inference_mode(False):
        guide.sample(
            runs.seeded(case.latent), case.latent, Trainer(), sigmas, disable_pbar=True, seed=1
        )
    assert calls[0] == STEPS
    assert reports.last.reused == 0
    assert any("gradients" in message for message in reports.last.texts)


@pytest.mark.parametrize("sigmas", [[], [0.0], [0.5]])
def test_lists_without_a_step_sample_as_without_us(runs, host, sigmas):
    """What SplitSigmas leaves on one side when it splits at an end."""
    case, reports = models.load("wan_t2v"), runs.Reports()
    sigmas = torch.tensor(sigmas)
    plain = runs.sample(case.model, case, sigmas=sigmas)
    out = runs.sample(host.attach(case.model, CacheConfig(), reports), case, sigmas=sigmas)
    assert runs.same(out, plain) and reports == []


def test_detached_is_as_never_attached(runs, host):
    case, reports = models.load("wan_t2v"), runs.Reports()
    assert host.detach(case.model) is case.model
    patched = host.attach(case.model, CacheConfig(), reports)
    bare, plain = host.detach(patched), runs.sample(case.model, case, steps=STEPS)
    assert runs.same(runs.sample(bare, case, steps=STEPS), plain) and reports == []
    runs.sample(patched, case, steps=STEPS)
    assert reports.last.evaluations == STEPS // 2  # the other clone caches as before


def test_the_plan_is_told_before_the_first_evaluation(runs, host):
    case, told = models.load("wan_t2v"), []

    def live(report):
        told.append((len(report.steps), report.rounds, len(report.planned), report.expected))

    runs.sample(host.attach(case.model, CacheConfig(), live=live), case, steps=STEPS)
    assert [steps for steps, *_ in told] == list(range(STEPS + 1))
    assert all(known[:2] == [STEPS, STEPS] and known[2] > 0 for _, *known in told)


@pytest.mark.parametrize("which", ["publish", "live"])
def test_a_callback_that_raises_costs_no_sample(runs, host, which):
    case, seen = models.load("wan_t2v"), []

    def failing(report):
        seen.append(report)
        raise RuntimeError("the disk is full")

    plain = runs.sample(host.attach(case.model, CacheConfig()), case, steps=STEPS)
    patched = host.attach(case.model, CacheConfig(), **{which: failing})
    assert runs.same(runs.sample(patched, case, steps=STEPS), plain)
    assert seen and seen[-1].completed and any("disk is full" in m for m in seen[-1].texts)
