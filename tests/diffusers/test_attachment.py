"""Attaching and detaching: what stays on a model, what is refused, who hears of a run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers_runs import host, network, noise, text
from host_contract import HALF, STEPS

from sencache_core import CacheConfig, Profile, ProfileError, ProfileHeader
from sencache_core.hosts._diffusers import ModelHook


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
    class Note(ModelHook):
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


def test_a_callback_that_raises_costs_no_sample(wan):
    def broken(report):
        raise OSError("disk full")

    fresh = wan()
    attachment = host.attach(wan.module, HALF, wan.scheduler, on_report=broken)
    with pytest.warns(UserWarning, match="What was to hear of this run failed: OSError: disk full"):
        clips = [wan(), wan()]
        attachment.detach()
    assert torch.equal(*clips)
    assert clips[0].shape == fresh.shape
    assert [report.completed for report in attachment.reports] == [True, True]
    assert any("disk full" in message for message in attachment.reports[0].texts)


def test_ending_twice_is_ending_once(wan):
    attachment = host.attach(wan.module, HALF, wan.scheduler)
    wan()
    for _ in range(2):
        wan.module._reset_stateful_cache()
        attachment.close()
    attachment.detach()
    attachment.close()
    assert [report.completed for report in attachment.reports] == [True]


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


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        ("wan", {}, "pass scheduler"),
        ("cogvideox", {"num_steps": 12}, "pass scheduler"),
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
