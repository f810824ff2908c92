"""The reference host keeps the contract of all hosts."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from host_contract import HALF, STEPS, Driver, HostContract, Interrupted, Result
from toys import COND, UNCOND, WAN, curved, noise, observe, predict, schedule

from sencache_core.hosts import loop

GUIDANCE = 3.0


class Overwriter:
    """Zeroes every output but the last two, which the sampler may still have to read."""

    def __init__(self):
        self.outputs = []

    def __call__(self, output):
        self.outputs.append(output)
        if len(self.outputs) > 2:
            self.outputs.pop(0).zero_()
        return output


class LoopDriver(Driver):
    """Split guidance by the loop itself; batched guidance by one call over both branches."""

    def __init__(self):
        self.sessions = []

    def run(self, config, jobs):
        return [self._job(config, job) for job in jobs]

    def holds_state(self):
        return any(each.outputs.history.nbytes or each.course.last for each in self.sessions)

    def _job(self, config, job):
        toy, asked, overwrite = curved(), [], Overwriter()

        def model(x, sigma, condition):
            output = toy(x, sigma, condition)
            return overwrite(output) if job.in_place else output

        session = config.start(WAN, schedule(STEPS)) if config else None
        if session:
            self.sessions.append(session)
            predict = session.predict

            def watched(branches, shape):
                asked.append(branches)
                if len(asked) - 1 == job.fail_at:
                    raise Interrupted
                output = predict(branches, shape)
                return overwrite(output) if job.in_place and output is not None else output

            session.predict = watched
        x = noise(1, 2, 3, 6 if job.large else 4, seed=job.seed)
        before = x.clone()
        conditions = {"cond": 0.4 + job.prompt, "uncond": 0.0}
        sample = batched_sample if job.batched else loop.sample
        try:
            latent = sample(model, x, schedule(STEPS), conditions, GUIDANCE, session)
        except Interrupted:
            latent = None
        report = session.report if session else None
        return Result(latent, toy.calls, report, not torch.equal(x, before))


def batched_sample(model, x, sched, conditions, guidance, runner):
    """``loop.sample`` with one call over both branches, as hosts that batch guidance do it."""
    both = torch.tensor(list(conditions.values())).reshape(2, 1, 1, 1)
    for sigma, following in zip(sched.sigmas[:-1], sched.sigmas[1:], strict=True):
        pair = torch.cat([x, x])
        output = None
        if runner is not None and runner.begin((x,), sigma).partial:
            rows = both.chunk(2)
            alone = zip((COND, UNCOND), rows, strict=True)
            output = torch.cat([loop._call(model, x, sigma, b, row, runner) for b, row in alone])
        elif runner is not None:
            output = predict(runner, (COND, UNCOND), pair.shape)
        if output is None:
            output = model(pair, sigma, both)
            if runner is not None:
                again = partial(model, pair, condition=both)
                handed = observe(runner, (COND, UNCOND), output, again)
                output = output if handed is None else handed
        cond, uncond = output.chunk(2)
        x = x + (following - sigma) * (uncond + guidance * (cond - uncond))
    if runner is not None:
        runner.finish(True)
    return x


class TestLoop(HostContract):
    @pytest.fixture
    def driver(self):
        return LoopDriver()

    def test_ddim_recovers_the_data_of_a_perfect_model(self):
        """With v = cos(phi) noise - sin(phi) x0 of one fixed x0, DDIM must end exactly there."""
        clean, sched = noise(1, 2, 3, seed=3), schedule(STEPS)

        def perfect(x, sigma, condition):
            cos, sin = 1 / (1 + sigma**2) ** 0.5, sigma / (1 + sigma**2) ** 0.5
            return (cos * x - clean) / sin

        end = loop.sample(perfect, noise(1, 2, 3), sched, {"cond": None}, prediction="v")
        torch.testing.assert_close(end, clean)

    def test_a_run_that_is_finished_again_stays_as_it_was(self):
        session = HALF.start(WAN, schedule(STEPS))
        conditions = {"cond": 0.4, "uncond": 0.0}
        latent = loop.sample(curved(), noise(1, 2, 3), schedule(STEPS), conditions, 3.0, session)
        report = session.report.to_dict()
        assert session.finish(False) is session.report
        assert session.report.to_dict() == report
        assert report["completed"] and torch.isfinite(latent).all()
