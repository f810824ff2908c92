"""Calls of several samples through one transformer: each belongs to the run that it continues."""

from __future__ import annotations

import threading
from itertools import chain, zip_longest

import pytest
import torch
from diffusers_runs import Sampler, host, noise, rel, scheduler_of, text
from host_contract import HALF, STEPS, Job

from sencache_core.hosts._diffusers_runs import MOST_OPEN


def started(sampler: Sampler, job: Job, first: int = 0, x: torch.Tensor | None = None):
    """The steps of one sample, with a scheduler of its own as samples made in turn need it."""
    scheduler = scheduler_of(sampler.family)
    scheduler.set_timesteps(STEPS)
    start = noise(sampler.family, job.seed) if x is None else x
    return sampler.steps(job, scheduler, start, first=first)


def in_turn(*samples, late: int = 0) -> list[torch.Tensor]:
    """Last latent of each sample; all but the first begin ``late`` steps after it."""
    waiting = [chain([None] * late * (k > 0), sample) for k, sample in enumerate(samples)]
    ends = [None] * len(samples)
    with torch.no_grad():
        for latents in zip_longest(*waiting):
            ends = [new if new is not None else end for new, end in zip(latents, ends, strict=True)]
    return ends


def alone(sampler: Sampler, *jobs: Job):
    """Last latents and reports of samples that are made one after the other."""
    with host.attach(sampler.module, HALF, sampler.scheduler) as cached:
        latents = [in_turn(started(sampler, job))[0] for job in jobs]
    return latents, cached.reports


def decisions(report) -> list[str]:
    return [step.decision for step in report.steps]


@pytest.fixture(params=["wan", "cogvideox"])
def sampler(request):
    sampler = Sampler(request.param)
    sampler.scheduler.set_timesteps(STEPS)
    return sampler


@pytest.mark.parametrize("late", [0, 1, 5])
@pytest.mark.parametrize(
    "jobs",
    [
        pytest.param((Job(), Job(seed=1, prompt=1)), id="two prompts"),
        pytest.param((Job(), Job(seed=1), Job(seed=2)), id="three seeds"),
        pytest.param((Job(), Job(prompt=1)), id="one seed"),
        pytest.param((Job(batched=True), Job(prompt=1, batched=True)), id="one seed, batched"),
    ],
)
def test_samples_made_in_turn_are_each_what_they_are_alone(sampler, jobs, late):
    expected, reports = alone(sampler, *jobs)
    with host.attach(sampler.module, HALF, sampler.scheduler) as cached:
        latents = in_turn(*(started(sampler, job) for job in jobs), late=late)
    for latent, truth in zip(latents, expected, strict=True):
        assert torch.equal(latent, truth)
    assert [decisions(r) for r in cached.reports] == [decisions(r) for r in reports]
    assert all(report.completed for report in cached.reports)


def test_unnamed_samples_of_one_seed_come_near_what_they_are_alone():
    """Nothing tells their first calls apart; from the second step on their latents do."""
    sampler, jobs = Sampler("wan", names=None), (Job(), Job(prompt=1))
    sampler.scheduler.set_timesteps(STEPS)
    plain = [in_turn(started(sampler, job))[0] for job in jobs]
    expected, _ = alone(sampler, *jobs)
    with host.attach(sampler.module, HALF, sampler.scheduler):
        latents = in_turn(*(started(sampler, job) for job in jobs))
    for latent, cached, truth in zip(latents, expected, plain, strict=True):
        assert rel(latent, truth) < 1.5 * rel(cached, truth)


def test_samples_beyond_the_limit_are_computed_in_full(sampler):
    jobs = [Job(seed=seed, prompt=seed % 2) for seed in range(MOST_OPEN + 2)]
    expected, _ = alone(sampler, *jobs[:MOST_OPEN])
    expected += [in_turn(started(sampler, job))[0] for job in jobs[MOST_OPEN:]]
    with host.attach(sampler.module, HALF, sampler.scheduler) as cached:
        latents = in_turn(*(started(sampler, job) for job in jobs))
    for latent, truth in zip(latents, expected, strict=True):
        assert torch.equal(latent, truth)
    beyond = [report for report in cached.reports if not report.reused]
    assert sum(len(report.steps) for report in beyond) == 2 * STEPS
    assert sum("at once" in message for report in beyond for message in report.texts) == 1


def test_an_editing_sampler_that_draws_fresh_noise_is_computed_in_full(sampler):
    """Two latents at each noise level, neither of which continues the last one."""
    clean = noise(sampler.family, 7)

    def edited():
        generator = torch.Generator().manual_seed(0)
        result = clean
        for t, after in zip(sampler.scheduler.timesteps, sampler.scheduler.timesteps[1:]):
            share = float(t) / 1000
            fresh = torch.randn(clean.shape, generator=generator)
            source = (1 - share) * clean + share * fresh
            target = result + source - clean
            a, b = (sampler._model(x, t, text(k), "cond") for k, x in enumerate((source, target)))
            result = result + (float(after) - float(t)) / 1000 * (b - a)
        return result

    with torch.no_grad():
        plain = edited()
        with host.attach(sampler.module, HALF, sampler.scheduler) as cached:
            assert rel(edited(), plain) < 0.02
    assert any("fresh noise" in m for report in cached.reports for m in report.texts)


@pytest.mark.parametrize("seeds", [(0, 1), (3, 3)], ids=["two seeds", "one seed"])
def test_two_threads_share_one_transformer(sampler, seeds):
    jobs = [Job(seed=seed, prompt=prompt) for prompt, seed in enumerate(seeds)]
    expected, reports = alone(sampler, *jobs)
    latents, errors, together = {}, [], threading.Barrier(2)

    def work(number: int, job: Job):
        try:
            with torch.no_grad():
                for x in started(sampler, job):
                    latents[number] = x
                    together.wait(30)
        except Exception as error:
            errors.append(error)
            together.abort()

    with host.attach(sampler.module, HALF, sampler.scheduler) as cached:
        threads = [threading.Thread(target=work, args=pair) for pair in enumerate(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
    for number, truth in enumerate(expected):
        assert torch.equal(latents[number], truth)
    assert sorted(decisions(r) for r in cached.reports) == sorted(decisions(r) for r in reports)
    assert all(report.completed for report in cached.reports)


@pytest.mark.parametrize("anew", [True, False], ids=["list set anew", "same list"])
@pytest.mark.parametrize(("stopped", "first"), [(4, 4), (4, 8), (6, 5)])
def test_a_run_stopped_outside_the_model_leaves_nothing_to_one_with_less_noise(
    sampler, stopped, first, anew
):
    """A callback raised, and image-to-image follows: from less noise, or from the same."""
    job = Job(prompt=1)
    amount = float(sampler.scheduler.timesteps[first]) / 1000
    # Of a list that was set anew, even the same noise says nothing.
    mixed = noise(sampler.family, 0 if anew else 1)
    image = (1 - amount) * noise(sampler.family, 5) + amount * mixed

    def image_to_image():
        if anew:
            sampler.scheduler.set_timesteps(STEPS)
        return in_turn(started(sampler, job, first, image))[0]

    with host.attach(sampler.module, HALF, sampler.scheduler):
        expected = image_to_image()
    sampler.scheduler.set_timesteps(STEPS)
    with host.attach(sampler.module, HALF, sampler.scheduler) as cached, torch.no_grad():
        sample = sampler.steps(Job(), sampler.scheduler, noise(sampler.family))
        for _ in range(stopped):
            next(sample)
        assert torch.equal(image_to_image(), expected)
    broken, after = sorted(cached.reports, key=lambda report: report.num_steps, reverse=True)
    assert (len(broken.steps), broken.completed) == (stopped, False)
    assert (len(after.steps), after.completed) == (STEPS - first, True)


def test_same_noise_after_an_aborted_first_step_forgets_the_old_prompt(wan):
    """The pipeline was stopped outside the model, so nothing told the host."""
    with host.attach(wan.module, HALF, wan.scheduler):
        fresh = wan(Job(prompt=1))
    with host.attach(wan.module, HALF, wan.scheduler), torch.no_grad():
        wan.scheduler.set_timesteps(STEPS)
        t = wan.scheduler.timesteps[0]
        wan._model(noise("wan"), t, text(0), "cond")
        assert torch.equal(wan(Job(prompt=1)), fresh)


def test_samples_that_were_given_up_make_room():
    """Nothing tells of their end where only the number of steps is known."""
    sampler = Sampler("wan")
    with host.attach(sampler.module, HALF, num_steps=STEPS) as cached, torch.no_grad():
        for seed in range(MOST_OPEN):
            next(started(sampler, Job(seed=seed)))
        for seed in range(20, 32):
            in_turn(started(sampler, Job(seed=seed)))
        assert cached.reports[-1].reused > 0
    given_up = [report for report in cached.reports if len(report.steps) == 1]
    assert len(given_up) == MOST_OPEN
    assert not any(report.completed for report in given_up)
