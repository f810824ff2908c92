"""The Calibrate node from end to end on the bundled model, in this process."""

import pytest
import torch

from sencache_core import tiny

pytestmark = pytest.mark.comfyui

STEPS = 8


@pytest.fixture
def calibrate(pack, monkeypatch, tmp_path):
    """Runs the node; returns what it put out and what it said."""
    import comfy.sd

    folders, module = pack.part("nodes.folders"), pack.part("nodes.calibrate")
    monkeypatch.setattr(folders, "user_profiles", lambda: tmp_path)
    said = []
    monkeypatch.setattr(module, "show_text", lambda text, node: said.append(text))
    model = comfy.sd.load_diffusion_model(
        str(tiny.weights_path("wan")), model_options={"dtype": torch.float32}
    )
    prompt = pack.nodes["SenCacheTinyPrompt"].execute
    inputs = {
        "model": model,
        "positive": prompt("a red circle", "wan").result[0],
        "negative": prompt("", "wan").result[0],
        "latent_image": {"samples": torch.zeros(1, 16, 2, 8, 8)},
        "seed": 1,
        "steps": STEPS,
        "cfg": 4.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "denoise": 1.0,
        "samples": 2,
        "name": "mine",
    }

    def run(**changed):
        with torch.inference_mode():
            return pack.run("SenCacheCalibrate", **{**inputs, **changed})

    return run, said


def test_measures_gain_and_says_what_it_costs(pack, calibrate, tmp_path):
    run, said = calibrate
    calibration = pack.part("sencache_core.measure.calibration")
    profile, path = run()
    total = calibration.Calibration().evaluations(2, STEPS)
    assert said[0] == f"sample 1 of 2, measuring,\n0 of {total} evaluations of the model"
    after = next(text for text in said if text.startswith("sample 1 of 2, probe 1"))
    assert f"{2 * STEPS - 1} of {total}" in after and "minutes left" in after
    assert said[-1] == f"Saved mine.safetensors: 2 samples, {STEPS - 1} noise levels, 6 probes"
    assert profile.header.samples == 2
    assert profile.moments.gain.shape == (2, STEPS) and (profile.moments.gain > 0).all()
    core = pack.part("sencache_core")
    saved = core.Profile.load(path)
    assert (saved.moments.gain == profile.moments.gain).all()
    assert path == str(tmp_path / "mine.safetensors")


@pytest.mark.parametrize(("steps", "probes", "found"), [(STEPS, 0, 0), (4, 4, 1), (3, 4, 0)])
def test_fewer_probes(calibrate, steps, probes, found):
    run, said = calibrate
    profile, _ = run(steps=steps, probes=probes, samples=1)
    assert (profile.moments.gain is not None) == bool(found)
    assert said[-1].endswith(f"1 samples, {steps - 1} noise levels, {found} probes")


def test_the_stack_can_be_probed(calibrate):
    run, said = calibrate
    profile, _ = run(tap="stack", samples=1, probes=1)
    assert profile.header.tap == "stack" and said[-1].endswith("1 probes")


@pytest.mark.parametrize(("run_number", "kept"), [(2, 1), (4, 1), (5, 1), (7, 2)])
def test_an_interrupt_keeps_measured_samples(
    pack, calibrate, monkeypatch, tmp_path, run_number, kept
):
    """A sample is measured in runs 1 and 5 and probed in the others."""
    from comfy.model_management import InterruptProcessingException

    run, _ = calibrate
    module = pack.part("nodes.calibrate")
    sample, calls = module._sample, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == run_number:
            raise InterruptProcessingException
        sample(*arguments)

    monkeypatch.setattr(module, "_sample", interrupted)
    with pytest.raises(InterruptProcessingException):
        run()
    (path,) = tmp_path.iterdir()
    saved = pack.part("sencache_core").Profile.load(path)
    assert saved.header.samples == len(saved.moments.gram) == kept
    assert (saved.moments.gain is not None) == (run_number > 2)
