"""The diffusers host: the contract of all hosts, and what only diffusers asks for."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from functools import cache

import numpy as np
import pytest
import torch
from host_contract import HALF, STEPS, Driver, HostContract, Interrupted, Job, Result

from sencache_core import (
    CacheConfig,
    Calibration,
    Interval,
    Profile,
    ProfileError,
    ProfileHeader,
)
from sencache_core.measure.profile import combine
from sencache_core.model.families import FAMILIES
from sencache_core.tiny import COG_SCHEDULER, SPECS, forward

diffusers = pytest.importorskip("diffusers")
host = pytest.importorskip("sencache_core.hosts.diffusers")
Clock = pytest.importorskip("sencache_core.hosts._diffusers").Clock

TEXT = 32
GUIDANCE = 3.0
NARROW = {
    "wan": {"num_layers": 2, "text_dim": TEXT},
    "ltx": {"num_layers": 1, "caption_channels": TEXT},
    "cogvideox": {"num_layers": 1, "text_embed_dim": TEXT},
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small lose far more than they gain by threads, most of all on busy machines."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def network(family: str, **changes):
    """A small, randomly initialised transformer of a real class, without gradients."""
    config = {**SPECS[family].config, **NARROW[family], **changes}
    torch.manual_seed(0)
    module = getattr(diffusers, SPECS[family].diffusers_class)(**config)
    return module.eval().requires_grad_(False)


def scheduler_of(family: str):
    if family == "cogvideox":
        return diffusers.CogVideoXDDIMScheduler(**COG_SCHEDULER)
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0)


def noise(family: str, seed: int = 0, large: bool = False) -> torch.Tensor:
    shape = (1, SPECS[family].latent[0], 2, 4, 8 if large else 4)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def text(prompt: int) -> torch.Tensor:
    return 4 * torch.randn(1, 8, TEXT, generator=torch.Generator().manual_seed(100 + prompt))


def first_block(module):
    """A hook on the module itself fires on reused calls too; its blocks run only when it does."""
    return (module.blocks if hasattr(module, "blocks") else module.transformer_blocks)[0]


class Sampler:
    """A plain guided sampling loop over one network, as a pipeline's ``__call__`` has it.

    Args:
        family: key in ``SPECS``.
        names: cache contexts of the calls; ``None`` names nothing.
    """

    def __init__(self, family: str, names: tuple[str, ...] | None = ("cond", "uncond")) -> None:
        self.family, self.names = family, names
        self.module, self.scheduler = network(family), scheduler_of(family)
        self.calls, self.asked, self.armed_at, self.input_changed = 0, 0, None, False

    def __call__(self, job: Job = Job(), extra: bool = False) -> torch.Tensor:  # noqa: B008
        self.calls, self.asked, self.armed_at, self.input_changed = 0, 0, job.fail_at, False
        hook = first_block(self.module).register_forward_pre_hook(self._count)
        try:
            with torch.no_grad():
                return self._sample(job, extra)
        finally:
            hook.remove()

    def _count(self, *_) -> None:
        self.calls += 1
        if self.armed_at == self.asked:
            raise Interrupted

    def _sample(self, job: Job, extra: bool) -> torch.Tensor:
        self.scheduler.set_timesteps(STEPS)
        cond, uncond = text(job.prompt), torch.zeros(1, 8, TEXT)
        x = noise(self.family, job.seed, job.large)
        for t in self.scheduler.timesteps:
            if job.batched:
                both = self._model(torch.cat([x, x]), t, torch.cat([uncond, cond]), "cond_uncond")
                u, c = both.chunk(2)
            else:
                c = self._model(x, t, cond, "cond")
                u = self._model(x, t, uncond, "uncond")
            guided = u + GUIDANCE * (c - u)
            if extra:
                with perturbed(self.module):
                    weak = self._model(x, t, cond, "perturbed")
                guided = guided + 0.5 * (c - weak)
            if job.in_place:
                c.zero_()
                u.zero_()
            x = self.scheduler.step(guided, t, x, return_dict=False)[0]
        return x

    def _model(self, x, t, context, name) -> torch.Tensor:
        named = self.names is not None and (name in self.names or name == "cond_uncond")
        before = x.clone(), context.clone()
        with self.module.cache_context(name) if named else nullcontext():
            time = t if self.family == "cogvideox" else t / 1000
            output = forward(self.family, self.module, x, time, context)
        if self.armed_at == self.asked:
            raise Interrupted
        self.asked += 1
        same = torch.equal(x, before[0]) and torch.equal(context, before[1])
        self.input_changed |= not same
        return output


@contextmanager
def perturbed(module):
    """The network with a damped first block, as perturbed guidance has it."""
    hook = first_block(module).register_forward_hook(lambda _, __, output: output * 0.5)
    try:
        yield
    finally:
        hook.remove()


class DiffusersDriver(Driver):
    def __init__(self, sampler: Sampler) -> None:
        self.sampler, self.tells_apart = sampler, sampler.names is not None

    def run(self, config, jobs):
        sampler, results = self.sampler, []
        attachment = None
        if config is not None:
            attachment = host.attach(sampler.module, config, sampler.scheduler)
        for job in jobs:
            try:
                latent = sampler(job)
            except Interrupted:
                latent = None
            results.append(Result(latent, sampler.calls, None, sampler.input_changed))
        if attachment is not None:
            attachment.detach()
            for result, report in zip(results, attachment.reports, strict=True):
                result.report = report
        return results

    def holds_state(self):
        return bool({"forward", "_diffusers_hook"} & vars(self.sampler.module).keys())


class TestWan(HostContract):
    @pytest.fixture
    def driver(self):
        return DiffusersDriver(Sampler("wan"))


class TestWanUnnamed(HostContract):
    @pytest.fixture
    def driver(self):
        return DiffusersDriver(Sampler("wan", names=None))


class TestCogVideoXNamed(HostContract):
    @pytest.fixture
    def driver(self):
        return DiffusersDriver(Sampler("cogvideox"))


class TestLTX(HostContract):
    @pytest.fixture
    def driver(self):
        return DiffusersDriver(Sampler("ltx"))


class TestCogVideoX(HostContract):
    @pytest.fixture
    def driver(self):
        return DiffusersDriver(Sampler("cogvideox", names=None))


@pytest.fixture
def wan():
    return Sampler("wan")


@pytest.mark.parametrize("family", sorted(SPECS))
def test_unnamed_guidance_equals_named(family):
    results = []
    for names in (None, ("cond", "uncond")):
        (result,) = DiffusersDriver(Sampler(family, names)).run(HALF, [Job()])
        results.append(result)
    unnamed, named = results
    assert torch.equal(unnamed.latent, named.latent)
    assert unnamed.calls == named.calls
    assert [s.score for s in unnamed.report.steps] == [s.score for s in named.report.steps]


@pytest.mark.parametrize("names", [None, ("cond", "uncond")], ids=["unnamed", "named"])
def test_third_call_with_equal_conditioning_is_a_branch_of_its_own(names):
    """Skipped-layer and perturbed guidance ask twice with equal x, t and text."""
    truth = Sampler("wan", ("cond", "uncond", "perturbed"))
    with host.attach(truth.module, HALF, truth.scheduler):
        expected = truth(extra=True)
    sampler = Sampler("wan", names)
    with host.attach(sampler.module, HALF, sampler.scheduler):
        assert torch.equal(sampler(extra=True), expected)
    assert sampler.calls == STEPS // 2 * 3


def test_detach_leaves_the_model_as_it_was(wan):
    before, plain = dict(vars(wan.module)), wan()
    attachment = host.attach(wan.module, HALF, wan.scheduler)
    assert not torch.equal(wan(), plain)
    attachment.detach()
    attachment.detach()
    assert vars(wan.module).keys() == before.keys()
    assert torch.equal(wan(), plain)
    assert wan.calls == 2 * STEPS


def test_detach_below_a_hook_that_came_later(wan):
    """accelerate's offload hooks wrap ``forward`` too and must survive, in working order."""
    accelerate_hooks = pytest.importorskip("accelerate.hooks")
    seen = []

    class Note(accelerate_hooks.ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            seen.append(module)
            return args, kwargs

    plain = wan()
    attachment = host.attach(wan.module, HALF, wan.scheduler)
    accelerate_hooks.add_hook_to_module(wan.module, Note())
    assert not torch.equal(wan(), plain)
    attachment.detach()
    seen.clear()
    assert torch.equal(wan(), plain)
    assert len(seen) == 2 * STEPS
    accelerate_hooks.remove_hook_from_module(wan.module)
    del wan.module.forward


def test_another_hook_of_diffusers_stays(wan):
    class Note(host.ModelHook):
        calls = 0

        def post_forward(self, module, output):
            self.calls += 1
            return output

    note = Note()
    attachment = host.attach(wan.module, HALF, wan.scheduler)
    registry = host.HookRegistry.check_if_exists_or_initialize(wan.module)
    registry.register_hook(note, "note")
    attachment.detach()
    wan()
    assert note.calls == wan.calls == 2 * STEPS
    registry.remove_hook("note")
    del wan.module.forward, wan.module._diffusers_hook


def test_same_noise_after_an_aborted_first_step_forgets_the_old_prompt(wan):
    """The pipeline was stopped outside the model, so nothing told the host."""
    with host.attach(wan.module, HALF, wan.scheduler):
        fresh = wan(Job(prompt=1))
    with host.attach(wan.module, HALF, wan.scheduler), torch.no_grad():
        wan.scheduler.set_timesteps(STEPS)
        t = wan.scheduler.timesteps[0]
        wan._model(noise("wan"), t, text(0), "cond")
        torch.testing.assert_close(wan(Job(prompt=1)), fresh)


@pytest.mark.parametrize("return_dict", [True, False])
def test_reused_output_comes_in_the_models_own_container(wan, return_dict):
    config = CacheConfig(policy=Interval(2.0), budget=None, min_steps=1)
    wan.scheduler.set_timesteps(STEPS)
    kinds = set()
    with host.attach(wan.module, config, wan.scheduler) as cached, torch.no_grad():
        for k, t in enumerate(wan.scheduler.timesteps):
            out = wan.module(noise("wan", k), t.expand(1), text(0), return_dict=return_dict)
            kinds.add(type(out))
            sample = out.sample if return_dict else out[0]
            assert sample.shape == noise("wan").shape
    assert cached.reports[0].reused > 0
    assert len(kinds) == 1
    assert kinds.pop() is not tuple or not return_dict


def test_image_channels_do_not_count_as_displacement():
    module, scheduler = network("wan", in_channels=36), scheduler_of("wan")
    scheduler.set_timesteps(STEPS)
    still, scores = noise("wan"), []
    with host.attach(module, HALF.with_tolerance(1e9), scheduler) as cached, torch.no_grad():
        for k, t in enumerate(scheduler.timesteps):
            image = torch.randn(1, 20, *still.shape[2:], generator=torch.Generator().manual_seed(k))
            module(torch.cat([still, image], 1), t.expand(1), text(0))
    prior, times = FAMILIES["wan"].prior, [float(t) / 1000 for t in scheduler.timesteps]
    scores = [step.score for step in cached.reports[0].steps]
    assert scores[1] == pytest.approx(prior(times[0])[1] * (times[0] - times[1]), rel=1e-4)


def test_image_channels_of_cogvideox_lie_in_dimension_two():
    module = network("cogvideox", in_channels=32)
    frames = torch.randn(1, 3, 32, 4, 4)
    noisy = host.noisy_channels(FAMILIES["cogvideox"], module, frames)
    assert torch.equal(noisy, frames[:, :, :16])


def test_timestep_of_each_token(wan):
    """Wan 2.2 5B and LTX image-to-video give clean tokens timestep 0."""
    wan.scheduler.set_timesteps(STEPS)
    module = network("ltx")
    with host.attach(module, HALF, wan.scheduler) as cached, torch.no_grad():
        for t in wan.scheduler.timesteps:
            times = t.expand(1, 32).clone()
            times[:, :16] = 0
            module(noise("ltx").flatten(2).transpose(1, 2), text(0), times, None, 2, 4, 4)
    (report,) = cached.reports
    assert [s.sigma for s in report.steps] == pytest.approx(
        [float(t) / 1000 for t in wan.scheduler.timesteps]
    )
    moved = host.at_timestep({"timestep": times, "other": 1}, 7.0)
    assert moved["timestep"].unique().tolist() == [0.0, 7.0]
    assert moved["other"] == 1


def test_noise_levels_of_the_v_family():
    sampler = Sampler("cogvideox")
    with host.attach(sampler.module, HALF, sampler.scheduler) as cached:
        sampler()
    steps = cached.reports[0].steps
    alphas = sampler.scheduler.alphas_cumprod[sampler.scheduler.timesteps].double()
    sigmas = ((1 - alphas) / alphas.clamp_min(1e-12)).sqrt()
    assert [s.sigma for s in steps] == pytest.approx(sigmas.tolist(), rel=1e-6)
    clock = host.Clock(FAMILIES["cogvideox"], lambda: sampler.scheduler, None)
    for timestep in (999, 500, 20, 1):
        assert clock.timestep(clock.sigma(timestep)) == timestep


def test_run_that_starts_in_the_middle(wan):
    """Video-to-video skips the first steps but leaves them on the scheduler's list."""
    wan.scheduler.set_timesteps(2 * STEPS)
    late = wan.scheduler.timesteps[STEPS:]
    with host.attach(wan.module, HALF, wan.scheduler) as cached, torch.no_grad():
        for k, t in enumerate(late):
            wan._model(noise("wan", k), t, text(0), "cond")
    (report,) = cached.reports
    assert report.num_steps == STEPS
    assert report.evaluations == STEPS // 2
    assert report.completed


def test_timestep_that_is_not_on_the_list_means_full_compute(wan):
    plain = wan()
    stale = scheduler_of("wan")
    stale.set_timesteps(7)
    wan.scheduler.timesteps = None
    with host.attach(wan.module, HALF, stale) as cached, torch.no_grad():
        wan.scheduler.set_timesteps(STEPS)
        for t in wan.scheduler.timesteps[3:]:
            wan._model(noise("wan"), t, text(0), "cond")
    (report,) = cached.reports
    assert report.reused == 0
    assert any("list" in message for message in report.messages)
    assert torch.equal(wan(), plain)


def test_second_order_scheduler(wan):
    """Heun lists every inner timestep twice; both visits are rounds of their own."""
    wan.scheduler = diffusers.FlowMatchHeunDiscreteScheduler(shift=5.0)
    plain = wan()
    rounds = wan.calls // 2
    with host.attach(wan.module, HALF, wan.scheduler) as cached:
        clip = wan()
    (report,) = cached.reports
    assert len(report.steps) == rounds == 2 * STEPS - 1
    assert report.evaluations == (rounds + 1) // 2
    assert (clip - plain).square().mean() < 0.1 * plain.square().mean()


def test_number_of_steps_may_stand_in_for_a_scheduler(wan):
    with host.attach(wan.module, HALF, num_steps=STEPS) as cached:
        wan()
    assert cached.reports[0].evaluations == STEPS // 2


def test_on_report_hears_of_every_run(wan):
    heard = []
    with host.attach(wan.module, HALF, wan.scheduler, on_report=heard.append) as cached:
        wan()
        wan()
        assert len(heard) == 1
        wan.module._reset_stateful_cache()
        assert len(heard) == 2
    assert heard == cached.reports
    assert all(report.completed for report in heard)


def test_gradients_mean_a_plain_call(wan):
    x = noise("wan").requires_grad_()
    wan.scheduler.set_timesteps(STEPS)
    with host.attach(wan.module, HALF, wan.scheduler) as cached:
        with pytest.warns(UserWarning, match="no_grad"):
            out = wan.module(x, wan.scheduler.timesteps[:1], text(0), return_dict=False)[0]
        out.sum().backward()
    assert x.grad.abs().sum() > 0
    assert not cached.reports


def test_inference_mode(wan):
    plain = wan()
    with host.attach(wan.module, CacheConfig(budget=1.0), wan.scheduler), torch.inference_mode():
        assert torch.equal(wan(), plain)


def test_measuring_changes_nothing_and_gives_a_profile(wan, tmp_path):
    plain = wan()
    with host.record(wan.module, wan.scheduler) as attachment:
        assert torch.equal(wan(), plain)
        wan(Job(seed=1))
    assert len(attachment.recordings) == 2
    assert attachment.reports[0].calls == 3 * STEPS - 1
    profile = combine(attachment.recordings, ProfileHeader("wan"))
    profile.save(tmp_path / "wan.safetensors")
    config = CacheConfig(profile=Profile.load(tmp_path / "wan.safetensors"))
    with host.attach(wan.module, config, wan.scheduler) as cached:
        wan()
    assert cached.reports[0].evaluations == STEPS // 2


@pytest.mark.parametrize("family", ["wan", "ltx", "cogvideox"])
def test_calibration_of_a_batched_pair_is_that_of_the_guided_output(family):
    """Guidance given, both halves of a ``cond_uncond`` call: moments as the sampler steps."""
    sampler, outputs = Sampler(family), []
    look = sampler.module.register_forward_hook(
        lambda _, args, out: outputs.append(out[0] if isinstance(out, tuple) else out.sample)
    )
    plain = sampler(Job(batched=True))
    look.remove()
    halves = (y.flatten(1).double() for y in outputs)
    guided = torch.stack([u + GUIDANCE * (c - u) for u, c in halves])
    runs = Calibration(2)
    calls = 0
    with host.record(sampler.module, sampler.scheduler, guidance=GUIDANCE, probes=2) as measured:
        for _ in range(runs.runs_of(STEPS)):
            out = sampler(Job(batched=True))
            assert torch.equal(out, plain) == (not calls)
            calls += sampler.calls
        measured.close()
    (recording,) = measured.recordings
    # Each run's first call is made in any case: it shows in what container outputs come.
    assert calls == runs.evaluations(1, STEPS) + 2
    expected = guided @ guided.T / guided.shape[1]
    assert np.allclose(recording.gram, expected.numpy(), rtol=1e-3, atol=1e-5)
    assert len(recording.travels) == 2
    assert all(np.isfinite(travel).all() and travel.gain > 0 for travel in recording.travels)
    moments = combine([recording], ProfileHeader(family)).moments
    assert moments.gain.shape == (1, STEPS)


def test_a_first_transformers_last_step_ends_at_the_seconds_first():
    """As the scheduler takes it: not at the boundary between them."""
    scheduler = scheduler_of("wan")
    scheduler.set_timesteps(STEPS)
    times = scheduler.timesteps.tolist()
    high = Clock(FAMILIES["wan"], lambda: scheduler, None, low=800.0).schedule(times[0])
    low = Clock(FAMILIES["wan"], lambda: scheduler, None, high=800.0).schedule(
        max(t for t in times if t < 800)
    )
    assert high.sigmas[-1] == low.sigmas[0]
    assert (*high.sigmas, *low.sigmas[1:]) == pytest.approx(scheduler.sigmas.tolist())


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        ("wan", {}, "pass scheduler"),
        ("cogvideox", {"num_steps": 12}, "pass scheduler"),
        ("wan", {"config": CacheConfig(tap="stack"), "num_steps": 12}, "output only"),
    ],
)
def test_what_cannot_work_is_refused_at_once(family, arguments, message):
    config = arguments.pop("config", HALF)
    with pytest.raises(ValueError, match=message):
        host.attach(network(family), config, **arguments)
    assert "_diffusers_hook" not in vars(network(family))


def test_unknown_models_twins_and_foreign_profiles_are_refused(wan):
    with pytest.raises(ValueError, match="unknown transformer Linear"):
        host.attach(torch.nn.Linear(1, 1), HALF, wan.scheduler)
    with pytest.raises(ValueError, match="no transformer"):
        host.attach(object(), HALF, wan.scheduler)
    ones = np.ones(2)
    curves = {"alpha_x": ones, "alpha_t": ones}
    foreign = Profile(ProfileHeader("ltx"), np.array([0.0, 1.0]), curves)
    with pytest.raises(ProfileError, match="measured on ltx"):
        host.attach(wan.module, CacheConfig(profile=foreign), wan.scheduler)
    with (
        host.attach(wan.module, HALF, wan.scheduler),
        pytest.raises(ValueError, match="already"),
    ):
        host.attach(wan.module, HALF, wan.scheduler)
    assert "forward" not in vars(wan.module)


def wan_pipeline(**parts):
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    )
    pipe = diffusers.WanPipeline(
        tokenizer=None, text_encoder=None, vae=None, scheduler=scheduler, **parts
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe, steps: int = STEPS, seed: int = 0):
    return pipe(
        prompt_embeds=text(0),
        negative_prompt_embeds=torch.zeros(1, 8, TEXT),
        height=32,
        width=32,
        num_frames=5,
        num_inference_steps=steps,
        output_type="latent",
        generator=torch.Generator().manual_seed(seed),
        return_dict=False,
    )[0]


def test_wan_pipeline():
    pipe = wan_pipeline(transformer=network("wan"))
    plain = generate(pipe)
    with host.attach(pipe, HALF) as cached:
        first = generate(pipe)
        assert len(cached.reports) == 1, "the pipeline's end is the run's end"
        assert torch.equal(generate(pipe), first)
    assert all(report.completed and report.evaluations == STEPS // 2 for report in cached.reports)
    assert 0 < (first - plain).square().mean() < 0.1 * plain.square().mean()
    assert torch.equal(generate(pipe), plain)


def test_both_transformers_of_a_wan_22_pipeline():
    config = {**SPECS["wan"].config, **NARROW["wan"]}
    low = diffusers.WanTransformer3DModel(**config).eval().requires_grad_(False)
    pipe = wan_pipeline(transformer=network("wan"), transformer_2=low, boundary_ratio=0.8)
    with host.attach(pipe, HALF) as cached:
        generate(pipe, steps=30)
    high_report, low_report = cached.reports
    assert high_report.num_steps + low_report.num_steps == 30
    assert high_report.steps[-1].sigma >= 0.8 > low_report.steps[0].sigma
    assert high_report.completed
    assert low_report.completed
    assert high_report.evaluations == (high_report.num_steps + 1) // 2
    assert low_report.evaluations == (low_report.num_steps + 1) // 2


@pytest.mark.parametrize(
    ("name", "family", "size", "masks"),
    [
        ("LTXPipeline", "ltx", (128, 9), True),
        ("CogVideoXPipeline", "cogvideox", (64, 5), False),
    ],
)
def test_pipelines_that_batch_their_guidance(name, family, size, masks):
    parts = {"tokenizer": None, "text_encoder": None, "vae": None}
    pipe = getattr(diffusers, name)(
        transformer=network(family), scheduler=scheduler_of(family), **parts
    )
    pipe.set_progress_bar_config(disable=True)
    texts = {"prompt_embeds": text(0), "negative_prompt_embeds": torch.zeros(1, 8, TEXT)}
    if masks:
        texts["prompt_attention_mask"] = texts["negative_prompt_attention_mask"] = torch.ones(1, 8)

    def clip():
        return pipe(
            **texts,
            height=size[0],
            width=size[0],
            num_frames=size[1],
            num_inference_steps=STEPS,
            output_type="latent",
            generator=torch.Generator().manual_seed(0),
            return_dict=False,
        )[0]

    plain = clip()
    with host.attach(pipe, HALF) as cached:
        error = (clip() - plain).square().mean() / plain.square().mean()
    (report,) = cached.reports
    assert (report.evaluations, report.calls, report.completed) == (STEPS // 2, STEPS // 2, True)
    assert 0 < error < 0.05


@pytest.mark.parametrize("family", ["wan", "ltx"])
def test_a_third_pass_beside_a_batched_pair_belongs_to_its_round(family):
    """As LTX-2's pipeline calls: the pair in one batch of two, further guidance alone."""
    sampler = Sampler(family)
    attachment = host.attach(sampler.module, CacheConfig(budget=0.5), sampler.scheduler)
    sampler(Job(batched=True), extra=True)
    attachment.detach()
    (report,) = attachment.reports
    assert (len(report.steps), report.evaluations) == (STEPS, STEPS // 2)
    assert report.completed and sampler.calls == 2 * (STEPS // 2)
