"""LTX-2: video and audio travel packed in one latent, and both count."""

from __future__ import annotations

import models
import pytest
import torch

from sencache_core import CacheConfig, SenCache

pytestmark = pytest.mark.comfyui


def test_either_modality_alone_raises_the_score(runs, host, monkeypatch):
    from sencache_core.run.session import Session

    case = models.load("ltxav")
    begin = Session.begin
    seen = []

    def spy(self, x, sigma):
        seen.append([tuple(part.shape) for part in x])
        return begin(self, x, sigma)

    monkeypatch.setattr(Session, "begin", spy)
    import comfy.samplers

    video, audio = case.latent.unbind()
    size = video[0].numel()

    class Mover(comfy.samplers.Sampler):
        """Evaluates at falling sigmas; moves one part of the latent only."""

        def __init__(self, moving):
            self.moving = moving

        def sample(self, model_wrap, sigmas, extra_args, callback, noise, *_, **__):
            x = noise.clone()
            for sigma in sigmas[:-1]:
                model_wrap(x, sigma * x.new_ones(len(x)), **extra_args)
                x = x.clone()
                x[..., self.moving] += 0.5
            return x

    scores = []
    for moving in (slice(0, 0), slice(0, size), slice(size, None)):
        reports = runs.Reports()
        patched = host.attach(case.model, CacheConfig(policy=SenCache()), reports)
        sigmas = runs.sigmas_of(patched, "euler", 12)
        runs.sample(patched, case, sampler=Mover(moving), sigmas=sigmas)
        scores.append(next(r.score for r in reports.last.steps if r.score is not None))
    still, sees, hears = scores
    assert sees > still + 0.1 and hears > still + 0.1
    assert sees == pytest.approx(hears, rel=1e-4)
    assert seen[0] == [(1, 1, size), (1, 1, audio[0].numel())]


@pytest.mark.parametrize("tap", ["output", "stack"])
def test_shapes_come_back(runs, host, tap):
    case = models.load("ltxav", batch=2)
    reports = runs.Reports()
    out = runs.sample(host.attach(case.model, CacheConfig(tap=tap), reports), case, steps=12)
    assert [p.shape for p in out.unbind()] == [p.shape for p in case.latent.unbind()]
    assert reports.last.evaluations == 6


def test_profile_header_tells_both_shapes(runs, host):
    case = models.load("ltxav")
    found = []
    runs.sample(host.record(case.model, lambda *args: found.append(args)), case, steps=4)
    ((_, header),) = found
    assert header.shape == tuple(n for p in case.latent.unbind() for n in p.shape)


def test_video_and_audio_guided_apart(runs, host):
    case = models.load("ltxav")
    from comfy_extras.nodes_lt import Guider_LTXAVDualCFG

    def guide(model):
        out = Guider_LTXAVDualCFG(model)
        out.set_conds(case.positive, case.negative)
        out.set_cfg(3.0, 7.0)
        return out

    sigmas = runs.paired(case.model, 3)
    plain = runs.sample(case.model, case, sigmas=sigmas, guide=guide(case.model))
    patched = host.attach(case.model, runs.REPLAY)
    out = runs.sample(patched, case, sigmas=sigmas, guide=guide(patched))
    assert runs.error(out, plain) <= 1e-5


def test_audio_reference_tokens(runs, host):
    """Tokens put before the audio: the pass without them must not be mixed with the other."""
    case = models.load("ltxav")
    tokens = {"tokens": models.noise(1, 4, 128, seed=70)}
    case.positive = [[case.positive[0][0], case.positive[0][1] | {"ref_audio": tokens}]]
    sigmas = runs.paired(case.model, 3)
    plain = runs.sample(case.model, case, sigmas=sigmas)
    for tap in ("output", "stack"):
        from dataclasses import replace

        patched = host.attach(case.model, replace(runs.REPLAY, tap=tap))
        assert runs.error(runs.sample(patched, case, sigmas=sigmas), plain) <= 1e-5
    assert torch.isfinite(runs.flat(plain)).all()
