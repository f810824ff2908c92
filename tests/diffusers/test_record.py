"""Measuring a transformer while it samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers_runs import GUIDANCE, Sampler, host
from host_contract import STEPS, Job

from sencache_core import CacheConfig, Calibration, Profile, ProfileHeader
from sencache_core.measure.profile import combine


def test_measuring_changes_nothing_and_gives_a_profile(wan, tmp_path):
    plain = wan()
    with host.record(wan.module, wan.scheduler) as attachment:
        assert torch.equal(wan(), plain)
        wan(Job(seed=1))
    assert len(attachment.recordings) == 2
    assert attachment.reports[0].calls == 3 * STEPS - 1
    profile = combine(attachment.recordings, ProfileHeader("wan"))
    assert len(profile.changes()[0]) == STEPS - 1
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


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("family", ["wan", "ltx", "cogvideox"])
def test_layers_are_measured_beside_the_outputs(family, batched):
    """Outputs stay the same to the bit, figures of outputs are those of a plain calibration."""
    sampler, job = Sampler(family), Job(batched=batched)
    plain, found = sampler(job), []
    for layers in (False, True):
        runs = Calibration(1)
        with host.record(
            sampler.module, sampler.scheduler, guidance=GUIDANCE, probes=1, layers=layers
        ) as measured:
            assert torch.equal(sampler(job), plain)
            for _ in range(runs.runs_of(STEPS) - 1):
                sampler(job)
            measured.close()
        found.append(measured.recordings[0])
    before, now = found
    assert before.layers is None
    assert np.array_equal(before.gram, now.gram) and before.travels == now.travels
    assert all(np.array_equal(before.curves[name], now.curves[name]) for name in before.curves)
    kinds = now.layers.kinds
    assert kinds.keys() == {"self", "mlp"} | ({"cross"} if family != "cogvideox" else set())
    assert np.allclose(now.layers.t, sorted(now.visited))
    for curve in kinds.values():
        assert curve.depth == len(first_stack(sampler.module))
        assert (curve.change[:, 0, :-1] > 0).all() and (curve.square > 0).all()
    assert combine([now, now], ProfileHeader(family)).layers.kinds.keys() == kinds.keys()


def first_stack(module):
    return module.blocks if hasattr(module, "blocks") else module.transformer_blocks
