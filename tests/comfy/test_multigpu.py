"""Several devices: cond and uncond run in threads of their own, each on its own model."""

from __future__ import annotations

import threading
from dataclasses import replace

import models
import pytest
import torch

pytestmark = pytest.mark.comfyui


@pytest.mark.parametrize("tap", ["output", "stack"])
def test_two_devices(runs, host, tap):
    multigpu = pytest.importorskip("comfy.multigpu")
    import comfy.model_management
    import comfy.patcher_extension
    import comfy.samplers

    case = models.load("wan_t2v")
    other = models.build("wan_t2v")
    comfy.model_management.load_models_gpu([other])
    other.pre_run()
    devices = [torch.device("cpu"), torch.device("cpu", 0)]
    threads = set()

    def spy(executor, *args, **kwargs):
        threads.add(threading.get_ident())
        return executor(*args, **kwargs)

    class Split(comfy.samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options, seed=None):
            model_options = {
                **model_options,
                "multigpu_clones": dict(zip(devices, (self.model_patcher, other), strict=True)),
                "multigpu_thread_pool": pool,
            }
            return super().predict_noise(x, timestep, model_options, seed)

    def sample(model):
        guide = Split(model)
        guide.set_conds(case.positive, case.negative)
        guide.set_cfg(4.0)
        return runs.sample(model, case, sigmas=runs.paired(case.model, 4), guide=guide)

    pool = multigpu.MultiGPUThreadPool(devices)
    try:
        plain = sample(case.model)
        reports = runs.Reports()
        model = host.attach(case.model, replace(runs.REPLAY, tap=tap), reports)
        kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
        model.add_wrapper_with_key(kind, "spy", spy)
        out = sample(model)
    finally:
        pool.shutdown()
        other.cleanup()
    assert len(threads) == 2
    report = reports.last
    assert (report.evaluations, report.calls, report.calls_saved) == (4, 8, 8)
    assert runs.error(out, plain) <= 1e-5
