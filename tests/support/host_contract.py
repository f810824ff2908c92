"""What every host owes its users, as tests: a host's test class gives a driver and inherits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from sencache_core import CacheConfig, CfgCache, Guards, Interval, RunReport, SenCache

#: Enough steps for a default configuration to cache at all, few enough to be quick.
STEPS = 12
#: Forces exactly 6 of 12 rounds, wherever the scores lie.
HALF = CacheConfig(policy=SenCache(), guards=Guards(), budget=0.5)
#: Every third round in full, the conditional branch alone in between.
ALONE = CacheConfig(policy=CfgCache(3.0), guards=Guards(), budget=None)


class Interrupted(RuntimeError):
    """Raised by a driver's model in mid-run, to see what the host leaves behind."""


@dataclass(frozen=True)
class Job:
    """One sampling run with classifier-free guidance.

    Attributes:
        seed: of the starting noise.
        prompt: number of the condition.
        batched: cond and uncond in one model call instead of two.
        fail_at: number of the model call (reused ones included) that raises ``Interrupted``.
        in_place: outputs are overwritten once the sampler has read them, as some samplers and
            graph captures do.
        large: a latent of another shape.
    """

    seed: int = 0
    prompt: int = 0
    batched: bool = False
    fail_at: int | None = None
    in_place: bool = False
    large: bool = False


@dataclass
class Result:
    """What a driver returns of one job.

    Attributes:
        latent: the last latent; ``None`` if the run failed.
        calls: calls in which the network really ran.
        report: the run's report; ``None`` without a cache.
        input_changed: whether a tensor that was handed to the model came back altered.
    """

    latent: Tensor | None
    calls: int
    report: RunReport | None = None
    input_changed: bool = False


class Driver(ABC):
    """Runs jobs through one host on one fixed small model of ``STEPS`` steps.

    Attributes:
        tells_apart: whether the host is told which of two split calls is the unconditional one.
    """

    tells_apart = True

    @abstractmethod
    def run(self, config: CacheConfig | None, jobs: Sequence[Job]) -> list[Result]:
        """Sample ``jobs`` one after the other through one attachment (none without a config).

        A job that fails gives a result without a latent; the next one goes on.
        """

    @abstractmethod
    def holds_state(self) -> bool:
        """Whether the host still holds a session or a hook after :meth:`run`."""

    def one(self, config: CacheConfig | None, job: Job) -> Result:
        return self.run(config, [job])[0]


class HostContract:
    """Inherit, and give a fixture ``driver``."""

    @pytest.mark.parametrize("batched", [False, True])
    @pytest.mark.parametrize(
        "strict",
        [
            pytest.param(CacheConfig(budget=1.0), id="budget 1"),
            pytest.param(HALF.with_tolerance(0.0), id="tolerance 0"),
            pytest.param(CacheConfig(policy=Interval(1.0), budget=None), id="interval 1"),
            pytest.param(CacheConfig(policy=CfgCache(1.0), budget=None), id="cfg_cache 1"),
        ],
    )
    def test_strictest_setting_is_bit_identical(self, driver, strict, batched):
        job = Job(batched=batched)
        plain, cached = driver.one(None, job), driver.one(strict, job)
        assert torch.equal(plain.latent, cached.latent)
        assert cached.calls == plain.calls
        assert cached.report.reused == 0
        assert cached.report.texts, "a run that reused nothing must say why"

    @pytest.mark.parametrize("batched", [False, True])
    def test_reuse_saves_real_calls_and_the_report_counts_them(self, driver, batched):
        job = Job(batched=batched)
        plain, cached = driver.one(None, job), driver.one(HALF, job)
        calls_a_round = 1 if batched else 2
        assert plain.calls == STEPS * calls_a_round
        assert cached.calls == STEPS // 2 * calls_a_round
        assert cached.report.evaluations == STEPS // 2
        assert cached.report.calls == cached.calls
        assert cached.report.calls_saved == plain.calls - cached.calls
        assert cached.report.completed
        assert not torch.equal(plain.latent, cached.latent)
        assert torch.isfinite(cached.latent).all()

    def test_conditional_rounds_run_no_other_branch(self, driver):
        plain, cached = driver.one(None, Job()), driver.one(ALONE, Job())
        half, report = cached.report.partial, cached.report
        if not driver.tells_apart:
            assert torch.equal(plain.latent, cached.latent)
            assert any("computed in full" in message for message in report.texts)
            return
        assert half == STEPS - 5  # rounds 0, 3, 6, 9 and the last
        assert report.calls == cached.calls == 2 * (STEPS - half) + half
        assert report.calls_saved == half
        assert report.cost == (STEPS - half / 2) / STEPS
        assert not torch.equal(plain.latent, cached.latent)
        other = driver.one(None, Job(prompt=1))
        error = (cached.latent - plain.latent).square().mean()
        assert error < 0.5 * (other.latent - plain.latent).square().mean()

    def test_a_batched_pair_is_taken_apart_for_conditional_rounds(self, driver):
        split, batched = driver.one(ALONE, Job()), driver.one(ALONE, Job(batched=True))
        assert batched.report.cost == split.report.cost
        assert batched.calls == batched.report.calls == STEPS
        torch.testing.assert_close(split.latent, batched.latent, rtol=1e-3, atol=1e-3)

    def test_two_runs_in_a_row_share_nothing(self, driver):
        second = Job(seed=1, prompt=1)
        fresh = driver.one(HALF, second)
        _, after = driver.run(HALF, [Job(), second])
        assert torch.equal(after.latent, fresh.latent)
        assert after.calls == fresh.calls
        assert len(after.report.steps) == STEPS

    def test_same_noise_and_another_prompt_share_nothing(self, driver):
        second = Job(prompt=1)
        fresh = driver.one(HALF, second)
        _, after = driver.run(HALF, [Job(), second])
        assert torch.equal(after.latent, fresh.latent)

    @pytest.mark.parametrize("fail_at", [0, 1, 2, 7, 2 * STEPS - 1])
    def test_error_in_mid_run_leaves_nothing_behind(self, driver, fail_at):
        second = Job(prompt=1)
        fresh = driver.one(HALF, second)
        failed, after = driver.run(HALF, [Job(fail_at=fail_at), second])
        assert failed.latent is None
        assert torch.equal(after.latent, fresh.latent)
        assert after.calls == fresh.calls
        assert not driver.holds_state()

    @pytest.mark.parametrize("fail_at", [6, 2 * STEPS - 1])
    def test_failed_run_is_reported_as_such(self, driver, fail_at):
        failed = driver.one(HALF, Job(fail_at=fail_at))
        assert failed.report is not None
        assert not failed.report.completed

    def test_nothing_is_left_after_a_run(self, driver):
        driver.one(HALF, Job())
        assert not driver.holds_state()

    def test_batched_and_split_guidance_agree(self, driver):
        split, batched = driver.one(HALF, Job()), driver.one(HALF, Job(batched=True))
        assert [s.decision for s in split.report.steps] == [
            s.decision for s in batched.report.steps
        ]
        torch.testing.assert_close(split.latent, batched.latent, rtol=1e-3, atol=1e-3)

    def test_guidance_survives_caching(self, driver):
        """Were uncond answered with cond's output, the cached clip would be the unguided one."""
        plain, cached = driver.one(None, Job()), driver.one(HALF, Job())
        other = driver.one(None, Job(prompt=1))
        error = (cached.latent - plain.latent).square().mean()
        assert error < 0.5 * (other.latent - plain.latent).square().mean()

    def test_the_callers_tensors_are_not_written_to(self, driver):
        assert not driver.one(HALF, Job()).input_changed

    def test_outputs_may_be_overwritten(self, driver):
        clean, writing = driver.one(HALF, Job()), driver.one(HALF, Job(in_place=True))
        assert torch.equal(clean.latent, writing.latent)

    def test_another_shape_is_a_run_of_its_own(self, driver):
        fresh = driver.one(HALF, Job(large=True))
        _, after = driver.run(HALF, [Job(), Job(large=True)])
        assert after.latent.shape == fresh.latent.shape
        assert torch.equal(after.latent, fresh.latent)
        assert after.report.steps[0].decision == "forced"

    def test_short_runs_are_computed_in_full_and_say_so(self, driver):
        cautious = replace(HALF, min_steps=STEPS + 1)
        plain, cached = driver.one(None, Job()), driver.one(cautious, Job())
        assert torch.equal(plain.latent, cached.latent)
        assert any("steps" in message for message in cached.report.texts)
