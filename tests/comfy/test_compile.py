"""torch.compile on top of or under SenCache: nothing of a run is traced at the output tap."""

from __future__ import annotations

from dataclasses import replace

import models
import pytest
import torch

from sencache_core import CacheConfig

pytestmark = pytest.mark.comfyui


@pytest.fixture
def compiled(comfyui):
    """``model -> compiled clone``, with the number of graphs compiled so far."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def node(model):
        out = model.clone()
        set_torch_compile_wrapper(model=out, backend=backend)
        return out

    torch._dynamo.reset()
    yield node, graphs
    torch._dynamo.reset()


@pytest.fixture
def case(comfyui):
    """One layer is enough to trace, and quicker."""
    return replace(models.load("wan_t2v"), model=models.build("wan_t2v", layers=1))


def test_compiled_model(runs, host, compiled, case):
    node, graphs = compiled
    eager = runs.sample(host.attach(case.model, CacheConfig()), case, steps=12)
    for build in (
        lambda publish: host.attach(node(case.model), CacheConfig(), publish),
        lambda publish: node(host.attach(case.model, CacheConfig(), publish)),
    ):
        torch._dynamo.reset()
        graphs.clear()
        reports = runs.Reports()
        model = build(reports)
        out = runs.sample(model, case, steps=12)
        first = len(graphs)
        again = runs.sample(model, case, steps=12)
        assert len(graphs) == first > 0
        assert [r.evaluations for r in reports] == [6, 6]
        assert runs.same(out, again)
        assert runs.error(out, eager) <= 1e-4


def test_the_stack_tap_refuses_a_model_compiled_as_a_whole(runs, host, compiled, case):
    """Before anything is traced, whichever node comes first, and with the way out."""
    node, graphs = compiled
    config = CacheConfig(tap="stack")
    for model in (host.attach(node(case.model), config), node(host.attach(case.model, config))):
        with pytest.raises(
            host.UnsupportedModel, match="choose the output tap, or compile it block"
        ):
            runs.sample(model, case, steps=12)
    assert not graphs
    assert "_apply_model" not in vars(case.model.model)
    runs.sample(host.attach(case.model, config), case, steps=12)


def test_compiled_blocks_under_the_stack_tap(runs, host, comfyui):
    """Per-block compilation replaces modules; the tap puts them back as it found them."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    torch._dynamo.reset()
    case = models.load("wan_t2v")
    model = case.model.clone()
    keys = ["diffusion_model.blocks.0", "diffusion_model.blocks.2"]
    set_torch_compile_wrapper(model=model, backend="eager", keys=keys)
    reports = runs.Reports()
    blocks = list(case.model.model.diffusion_model.blocks)
    out = runs.sample(host.attach(model, CacheConfig(tap="stack"), reports), case, steps=12)
    eager = runs.sample(host.attach(case.model, CacheConfig(tap="stack")), case, steps=12)
    assert reports.last.evaluations == 6
    assert runs.error(out, eager) <= 1e-4
    found = list(case.model.model.diffusion_model.blocks)
    assert all(a is b for a, b in zip(found, blocks, strict=True))
    torch._dynamo.reset()
