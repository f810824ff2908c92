"""Compiled transformers: the model's graphs are compiled as ever, the cache stays outside."""

from __future__ import annotations

import pytest
import torch
from diffusers_runs import Sampler, host, network
from host_contract import HALF, STEPS, Job

from sencache_core import CacheConfig


class Compiler:
    """A backend that runs graphs as they are and counts them.

    Attributes:
        sizes: nodes of each compiled graph.
        runs: how often a graph of the model's size ran.
    """

    def __init__(self) -> None:
        self.sizes, self.runs = [], 0

    def __call__(self, graph, inputs):
        size = len(graph.graph.nodes)
        self.sizes.append(size)

        def run(*args):
            self.runs += size >= LARGE
            return graph.forward(*args)

        return run


#: Nodes of a graph that holds a transformer and not just a helper.
LARGE = 100


def sampled(sampler: Sampler, job: Job = Job()) -> torch.Tensor:  # noqa: B008
    """The last latent, sampled without hooks that would make graphs anew."""
    sampler.scheduler.set_timesteps(STEPS)
    with torch.no_grad():
        *_, x = sampler.steps(job, sampler.scheduler, torch.ones(1, 16, 2, 4, 4))
    return x


@pytest.fixture
def sampler():
    torch._dynamo.reset()
    sampler = Sampler("wan")
    sampler.module = network.__wrapped__("wan")
    yield sampler
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("order", "batched"),
    [
        ("compile, attach", False),
        ("attach, compile", True),
        ("wrapper", False),
        ("wrap later", False),
    ],
)
def test_a_compiled_transformer_is_cached(sampler, order, batched):
    job, compiler = Job(batched=batched), Compiler()
    with host.attach(sampler.module, HALF, sampler.scheduler):
        expected = sampled(sampler, job)
    plain = sampler.module
    if order == "compile, attach":
        plain.compile(backend=compiler)
    if order == "wrapper":
        sampler.module = torch.compile(plain, backend=compiler)
    with host.attach(sampler.module, HALF, sampler.scheduler) as cached:
        if order == "attach, compile":
            plain.compile(backend=compiler)
        if order == "wrap later":
            sampler.module = torch.compile(plain, backend=compiler)
        assert torch.equal(sampled(sampler, job), expected)
    (report,) = cached.reports
    assert (report.evaluations, report.completed) == (STEPS // 2, True)
    assert compiler.runs == report.calls == (STEPS // 2) * (1 if batched else 2)
    # Not the cache's own arithmetic: nothing but the transformer's graphs, and small change.
    assert sum(size >= LARGE for size in compiler.sizes) == 1


def test_compiled_blocks_are_cached_at_any_tap(sampler):
    config = CacheConfig(budget=0.5, tap="stack")
    with host.attach(sampler.module, config, sampler.scheduler):
        expected = sampled(sampler)
    compiler = Compiler()
    sampler.module.compile_repeated_blocks(backend=compiler, fullgraph=True)
    with host.attach(sampler.module, config, sampler.scheduler) as cached:
        assert torch.equal(sampled(sampler), expected)
    assert cached.reports[0].evaluations == STEPS // 2
    assert compiler.sizes


def test_a_tap_inside_a_compiled_transformer_is_refused(sampler):
    config = CacheConfig(budget=0.5, tap="stack")
    with (
        host.attach(sampler.module, config, sampler.scheduler),
        pytest.raises(ValueError, match="compile_repeated_blocks"),
    ):
        sampler.module.compile(backend="eager")
        sampled(sampler)
    with pytest.raises(ValueError, match="compile_repeated_blocks"):
        host.attach(sampler.module, config, sampler.scheduler)
    assert "_diffusers_hook" not in vars(sampler.module)


def test_one_graph_for_all_is_refused_with_the_way_out(sampler):
    sampler.module.compile(backend="eager", fullgraph=True)
    with (
        host.attach(sampler.module, HALF, sampler.scheduler),
        pytest.raises(Exception, match="compile_repeated_blocks"),
    ):
        sampled(sampler)
