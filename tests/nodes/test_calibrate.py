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
    assert path.name == "mine.safetensors"
    saved = pack.part("sencache_core").Profile.load(path)
    assert saved.header.samples == len(saved.moments.gram) == kept
    assert (saved.moments.gain is not None) == (run_number > 2)


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
    assert path == str(tmp_path / "mine_2.safetensors") and "mine_2" in said[-1]
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
    assert "but cannot write the profile" in said[-1] and "Save Profile" in said[-1]


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
