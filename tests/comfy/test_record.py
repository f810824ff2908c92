"""Calibration on real models: sound figures, and a run that is none the worse for it."""

from __future__ import annotations

import models
import numpy as np
import pytest

from sencache_core import CacheConfig
from sencache_core.measure.profile import CHANGES, combine
from sencache_core.model.fingerprint import fingerprint
from sencache_core.policies import TeaCache

pytestmark = pytest.mark.comfyui

STEPS = 12


@pytest.mark.parametrize("tap", ["output", "stack", "layers"])
@pytest.mark.parametrize("name", ["wan_t2v", "wan_vace", "ltxv", "ltxav", "cog_1_0", "cog_1_5"])
def test_measures_and_changes_nothing(runs, host, name, tap):
    case = models.load(name)
    plain = runs.sample(case.model, case, steps=STEPS)
    found, reports = [], []
    model = host.record(case.model, lambda *args: found.append(args), reports.append, tap)
    with runs.counted(case.model) as calls:
        assert runs.same(runs.sample(model, case, steps=STEPS), plain)
    ((recording, header),) = found
    assert len(recording.t) == STEPS - 1
    assert {"alpha_x", "alpha_t", "speed", "ratio", *CHANGES} <= recording.curves.keys()
    for curve in recording.curves.values():
        known = np.asarray(curve)[np.isfinite(curve)]
        assert known.size and (known >= 0).all()
    assert calls[0] == reports[-1].calls == 2 * STEPS - 1
    assert (recording.layers is not None) == (tap == "layers")
    tap = "output" if tap == "layers" else tap  # whose figures these are, too
    assert header.tap == tap and header.sampler == "euler" and header.guidance == 4.0
    assert header.fingerprint == fingerprint(case.model.model.diffusion_model)

    config = CacheConfig(profile=combine([recording], header), tap=tap)
    kept = runs.Reports()
    runs.sample(host.attach(case.model, config, kept), case, steps=STEPS)
    assert kept.last.evaluations == 6
    assert not any("its figures may not fit" in message for message in kept.last.texts)

    policy = TeaCache(2.0, model="measured", place=tap)
    config = CacheConfig(policy, budget=None, profile=combine([recording], header))
    runs.sample(host.attach(case.model, config, kept), case, steps=STEPS)
    assert kept.last.reused > 0
    assert not any("Connect a profile" in message for message in kept.last.texts)


def test_an_interrupted_run_is_not_a_profile(runs, host):
    import comfy.model_management as management

    case = models.load("wan_t2v")
    found = []

    def interrupt(step, *_):
        if step == 3:
            raise management.InterruptProcessingException

    model = host.record(case.model, lambda *args: found.append(args))
    with pytest.raises(management.InterruptProcessingException):
        runs.sample(model, case, steps=STEPS, callback=interrupt)
    assert not found
    runs.sample(model, case, steps=STEPS)
    assert len(found) == 1


def test_guided_by_areas_the_true_cond_leads(runs, host):
    """The uncond twin of an area carries the cond's uuid, but not its role."""
    case = models.load("wan_t2v")
    area = {"area": (3, 8, 4, 0, 0, 0), "strength": 1.0}
    case.positive = [[case.positive[0][0], case.positive[0][1] | area]]
    from sencache_core.measure.recorder import Recorder

    leaders = []
    observe = Recorder.observe

    def spy(self, keys, y, evaluate_at):
        observe(self, keys, y, evaluate_at)
        leaders.append((self._leader, [key.branch.role for key in keys]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "observe", spy)
        runs.sample(host.record(case.model, lambda *_: None), case, steps=3)
    roles = {role for _, names in leaders for role in names}
    assert roles == {"cond", "uncond"}
    leader = next(leader for leader, _ in leaders if leader)
    assert leader.role == "cond" and leader.ident[1] == 0
