"""The Calibrate node from end to end on the bundled model, in this process."""

import json

import numpy as np
import pytest
import torch

from sencache_core import tiny

pytestmark = pytest.mark.comfyui

STEPS = 8


@pytest.fixture
def calibrate(pack, monkeypatch, tmp_path):
    """Runs the node; what it put out, and the list of what it has shown."""
    import comfy.sd

    folders = pack.part("nodes.folders")
    monkeypatch.setattr(folders, "user_profiles", lambda: tmp_path)
    said = []
    shown = pack.part("nodes.calibrating")
    monkeypatch.setattr(shown, "_EVERY", 0.0)
    monkeypatch.setattr(shown, "send_event", lambda name, data: said.append(data))
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
            return pack.run("SenCacheCalibrate", **{**inputs, **changed})[:2]

    return run, said


def test_measures_gain_and_says_what_it_costs(pack, calibrate, tmp_path):
    run, said = calibrate
    calibration = pack.part("sencache_core.measure.calibration")
    profile, path = run()
    total = calibration.Calibration().evaluations(2, STEPS)
    first = said[0]
    assert (first["state"], first["phase"], first["sample"]) == ("running", "measuring", 1)
    assert (first["spent"], first["total"], first["left"]) == (0, total, None)
    after = next(data for data in said if data["phase"] == "probing")
    assert after["spent"] == 2 * STEPS - 1 and after["left"] > 0 and after["run"] == 1
    assert [data["spent"] for data in said] == sorted(data["spent"] for data in said)
    last = said[-1]
    assert (last["state"], last["spent"], last["samples"]) == ("done", total, 2)
    assert (last["file"], last["kept"], last["levels"]) == ("mine.safetensors", 2, STEPS - 1)
    assert len(last["gains"]) == 6 and last["seeds"] == ["1", "2"]
    json.dumps(said, allow_nan=False)
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
    assert len(said[-1]["gains"]) == found and said[-1]["levels"] == steps - 1


def test_the_stack_can_be_probed(calibrate):
    run, said = calibrate
    profile, _ = run(tap="stack", samples=1, probes=1)
    assert profile.header.tap == "stack" and len(said[-1]["gains"]) == 1


@pytest.mark.parametrize(("run_number", "kept"), [(2, 1), (4, 1), (5, 1), (7, 2)])
def test_an_interrupt_keeps_measured_samples(
    pack, calibrate, monkeypatch, tmp_path, run_number, kept
):
    """A sample is measured in runs 1 and 5 and probed in the others."""
    from comfy.model_management import InterruptProcessingException

    run, said = calibrate
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
    assert path.name == "mine.safetensors"
    saved = pack.part("sencache_core").Profile.load(path)
    assert saved.header.samples == len(saved.moments.gram) == kept
    assert (saved.moments.gain is not None) == (run_number > 2)
    last = said[-1]
    assert (last["state"], last["file"], last["kept"]) == ("stopped", "mine.safetensors", kept)


def test_a_place_that_cannot_be_written_to_is_told_before_the_first_sample(
    pack, calibrate, monkeypatch, tmp_path
):
    run, said = calibrate
    (tmp_path / "file").touch()
    monkeypatch.setattr(pack.part("nodes.folders"), "user_profiles", lambda: tmp_path / "file")
    with pytest.raises(ValueError, match=r"cannot write the profile .*choose another folder"):
        run()
    assert not said


def test_a_model_of_no_known_family_is_told_before_the_first_sample(pack, calibrate, monkeypatch):
    """Its profile could not be made into a file afterwards."""
    run, said = calibrate
    monkeypatch.setattr(pack.part("sencache_core.hosts.comfy"), "model_family", lambda model: None)
    with pytest.raises(ValueError, match=r"cannot be calibrated: it is none of Wan"):
        run()
    assert not said


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("", "wan_euler_simple_4steps"),
        ("a/b\\c", "a_b_c"),
        ("../..", "profile"),
        ("...", "profile"),
        ("  ", "wan_euler_simple_4steps"),
        ("CON", "profile_CON"),
        ("nul.txt", "profile_nul.txt"),
        ("v1.5", "v1.5"),
        ("моя модель", "моя модель"),
        ("e\u0301te\u0301", "\u00e9t\u00e9"),
        ("x\0y\ud800z", "x_y_z"),
        ("n" * 300, "n" * 120),
        ("名" * 300, "名" * 40),
    ],
)
def test_any_name_is_made_into_a_file_before_the_first_sample(
    pack, calibrate, monkeypatch, tmp_path, name, file
):
    run, _ = calibrate
    module, names = pack.part("nodes.calibrate"), []
    trial = pack.part("nodes.folders").check_writable

    def note(path):
        names.append(path.name)
        trial(path)

    def stop(*_):
        raise InterruptedError

    monkeypatch.setattr(pack.part("nodes.folders"), "check_writable", note)
    monkeypatch.setattr(module, "_sample", stop)
    with pytest.raises(InterruptedError):
        run(name=name, steps=4)
    assert names == [f"{file}.safetensors"] and not list(tmp_path.iterdir())


def test_a_name_taken_while_measuring_is_not_overwritten(pack, calibrate, monkeypatch, tmp_path):
    run, said = calibrate
    module = pack.part("nodes.calibrate")
    sample = module._sample

    def interfere(*arguments):
        (tmp_path / "mine.safetensors").write_text("of another program")
        sample(*arguments)

    monkeypatch.setattr(module, "_sample", interfere)
    _, path = run(steps=4, samples=1, probes=0)
    assert path == str(tmp_path / "mine_2.safetensors") and said[-1]["file"] == "mine_2.safetensors"
    assert (tmp_path / "mine.safetensors").read_text() == "of another program"


def test_a_disk_that_fills_up_does_not_take_the_measurement(pack, calibrate, monkeypatch, tmp_path):
    """The folder is taken away while it measures: every later write fails."""
    run, said = calibrate
    module, sample = pack.part("nodes.calibrate"), pack.part("nodes.calibrate")._sample
    folder = tmp_path / "profiles"
    monkeypatch.setattr(pack.part("nodes.folders"), "user_profiles", lambda: folder)

    def take_away(*arguments):
        sample(*arguments)
        if folder.is_dir():
            folder.rmdir()
            folder.touch()

    monkeypatch.setattr(module, "_sample", take_away)
    profile, path = run(steps=4, samples=2, probes=0)
    assert profile.header.samples == 2 and path == ""
    assert "cannot write the profile" in said[-1]["lost"] and said[-1]["file"] == ""


def test_curves_come_as_they_are_measured(calibrate):
    run, said = calibrate
    profile, _ = run(samples=1, probes=1)
    lengths = [len(data["curves"][0]["t"]) for data in said if data["curves"]]
    assert lengths == sorted(lengths) and {1, STEPS - 1} <= set(lengths)
    (curve,) = said[-1]["curves"]
    assert curve["t"] == pytest.approx(profile.t[::-1], rel=1e-3)
    assert curve["alpha_x"] == pytest.approx(profile.mean["alpha_x"][::-1], rel=1e-3)


def test_an_interrupted_calibration_goes_on(pack, calibrate, monkeypatch, tmp_path):
    """As if it had not been interrupted, and in the same file."""
    from comfy.model_management import InterruptProcessingException

    run, said = calibrate
    few = {"samples": 2, "probes": 1, "steps": 5}
    whole, _ = run(**few, name="whole")
    module = pack.part("nodes.calibrate")
    sample, calls = module._sample, []

    def interrupted(*arguments):
        calls.append(arguments[-1])
        if len(calls) == 3:
            raise InterruptProcessingException
        sample(*arguments)

    monkeypatch.setattr(module, "_sample", interrupted)
    with pytest.raises(InterruptProcessingException):
        run(**few)
    said.clear()
    profile, path = run(**few, resume="mine.safetensors", seed=1)
    assert calls == [1, 1, 2, 2, 2]
    assert (said[0]["sample"], said[0]["samples"], said[0]["kept"]) == (2, 2, 1)
    assert path == str(tmp_path / "mine.safetensors")
    assert {file.name for file in tmp_path.iterdir()} == {"mine.safetensors", "whole.safetensors"}
    assert profile.header.samples == 2 and profile.header.seeds == (1, 2)
    saved = pack.part("sencache_core").Profile.load(path)
    for found in (profile, saved):
        for name in whole.mean:
            np.testing.assert_allclose(found.mean[name], whole.mean[name], rtol=1e-6)
            np.testing.assert_allclose(found.spread[name], whole.spread[name], atol=1e-6)
        for name in ("gram", "lead", "gain", "response"):
            ours, theirs = (getattr(one.moments, name) for one in (found, whole))
            # A probe takes forecasts back by what earlier ones of its calibration have found.
            exact = name in ("gram", "lead")
            np.testing.assert_allclose(ours, theirs, *((1e-5, 1e-7) if exact else (0.05, 0.05)))
    calls.clear()
    again, _ = run(**few, resume="mine")
    assert not calls and again.header.samples == 2 and said[-1]["state"] == "done"
    with pytest.raises(ValueError, match="measured with another scheduler, cfg, noise levels"):
        run(**few, resume="mine", scheduler="karras", cfg=3.0)
    with pytest.raises(ValueError, match="no profile 'gone'"):
        run(resume="gone")


def test_blocks_are_profiled_too(pack, calibrate):
    run, said = calibrate
    run(samples=1, probes=0, blocks=True, steps=5)
    by_change, by_attention = said[-1]["blocks"]
    blocks, count = pack.part("sencache_core.policies.profilingdit").parse_blocks(by_change["list"])
    assert 0 < len(blocks) < count and by_change["expected"] > 0
    assert by_attention.get("list") or by_attention["problem"]
    assert said[-1]["spent"] == said[-1]["total"] == 2 * 5 - 1 + 5


@pytest.fixture
def load(pack, monkeypatch, tmp_path):
    """Runs Load Profile on a folder of its own."""
    import folder_paths

    folders = pack.part("nodes.folders")
    monkeypatch.setattr(folders, "user_profiles", lambda: tmp_path)
    kinds = dict(folder_paths.folder_names_and_paths)
    kinds[folders.PROFILES] = ([str(tmp_path)], {".safetensors"})
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", kinds)
    return lambda name: pack.run("SenCacheProfileLoad", name=name)[0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none found: run SenCache Calibrate", "make one with SenCache Calibrate"),
        ("gone.safetensors", "press R to refresh the list and pick another"),
        ("", "There is no profile ''"),
        ("../secret.safetensors", "There is no profile"),
        ("text.safetensors", "cannot read the profile"),
        ("model.safetensors", "not a SenCache profile"),
    ],
)
def test_a_profile_that_cannot_be_loaded_is_told_in_words(pack, load, tmp_path, name, words):
    from safetensors.torch import save_file

    (tmp_path / "text.safetensors").write_text("hello")
    save_file({"weight": torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(pack.part("sencache_core").ProfileError, match=words):
        load(name)
    fingerprint = pack.nodes["SenCacheProfileLoad"].fingerprint_inputs
    assert bool(fingerprint(name)) == name.startswith(("text", "model"))


def test_a_replaced_profile_is_read_again(pack, load, tmp_path):
    core = pack.part("sencache_core")
    profile = core.Profile.load(core.__path__[0] + "/measure/priors/wan.safetensors")
    path, fingerprint = (
        tmp_path / "p.safetensors",
        pack.nodes["SenCacheProfileLoad"].fingerprint_inputs,
    )
    profile.save(path)
    before = fingerprint("p.safetensors")
    assert load("p.safetensors").header == profile.header
    profile.save(path)
    assert fingerprint("p.safetensors") != before


@pytest.mark.parametrize("name", ["dpmpp_sde_gpu", "euler", "uni_pc", "uni_pc_bh2", "dpm_adaptive"])
def test_a_sampler_has_one_name(pack, name):
    """ComfyUI's function for ``uni_pc`` is ``sample_unipc``."""
    import comfy.samplers

    found = pack.part("sencache_core.hosts.comfy").sampler_name(comfy.samplers.sampler_object(name))
    schedule = pack.part("sencache_core").Schedule
    assert schedule((1.0, 0.0), found) == schedule((1.0, 0.0), name)
