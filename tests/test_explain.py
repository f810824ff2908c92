"""Fresh noise is seen in the latents, whatever the sampler calls itself."""

import pytest
import torch
from toys import COND, UNCOND, WAN, curved, noise, observe, predict

from sencache_core import CacheConfig, Schedule, flow_sigmas

SHAPE = (2, 4, 3, 8, 8)
STEPS = 20


def step(kind, x, y, before, now, after, k):
    """One step of a sampler in the guided output ``y``."""
    if kind == "multistep" and before is not None:  # Adams and Bashforth, even grid
        return x + (after - now) * (1.5 * y - 0.5 * before)
    if kind == "churn":
        return x + (after - now) * y + 0.02 * noise(*SHAPE, seed=k)
    if kind == "lcm":
        return (1 - after) * (x - now * y) + after * noise(*SHAPE, seed=k)
    if kind == "mask":
        inside = torch.arange(SHAPE[-1]) < SHAPE[-1] // 2
        kept = (1 - after) * noise(*SHAPE, seed=3) + after * noise(*SHAPE, seed=4)
        return torch.where(inside, x + (after - now) * y, kept)
    return x + (after - now) * y


def play(kind, dtype=torch.float32, guidance=4.0):
    """A run of a sampler that calls itself euler."""
    sched, model, x, before = Schedule(flow_sigmas(STEPS), "euler"), curved(), noise(*SHAPE), None
    session = CacheConfig(budget=0.5).start(WAN, sched)
    for k, (now, after) in enumerate(zip(sched.sigmas[:-1], sched.sigmas[1:], strict=True)):
        session.begin((x.to(dtype),), now)
        outputs = {}
        for branch, condition in ((COND, 0.4), (UNCOND, 0.0)):
            y = predict(session, (branch,), SHAPE)
            if y is None:
                y = model(x, now, condition)
                handed = observe(session, (branch,), y)
                y = y if handed is None else handed
            outputs[branch] = y
        y = outputs[UNCOND] + guidance * (outputs[COND] - outputs[UNCOND])
        x = step(kind, x, y, before, now, after, k).to(dtype).float()
        before = y
    found = not session.outputs.hindsight.on
    return session.finish(True), found


@pytest.mark.parametrize("kind", ["euler", "multistep", "churn", "lcm", "mask"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_outputs_do_not_explain_is_said_and_not_taken_back(kind, dtype):
    report, off = play(kind, dtype)
    said = any("more than the outputs explain" in message for message in report.texts)
    assert said == off == (kind in ("churn", "lcm", "mask"))


@pytest.mark.parametrize("guidance", [1.0, 12.0])
def test_guidance_of_any_scale_is_explained(guidance):
    report, off = play("euler", guidance=guidance)
    assert not off and not any("explain" in message for message in report.texts)
