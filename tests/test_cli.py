"""The ``sencache`` command, on the bundled models."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from sencache_core import Calibration, Profile
from sencache_core.app import cli, plots
from sencache_core.measure.authors import AUTHORS_NUMEL
from sencache_core.model.families import FAMILIES
from sencache_core.policies.profilingdit import parse_blocks
from sencache_core.tiny import COG_SCHEDULER, SPECS, weights_path

for extra in ("diffusers", "kornia", "matplotlib", "PIL", "tqdm"):
    pytest.importorskip(extra)
demo = pytest.importorskip("sencache_core.app.demo")

STEPS = 12
KEYS = {
    "family",
    "steps",
    "budget",
    "evaluations",
    "seconds_uncached",
    "seconds_cached",
    "psnr_mean",
    "psnr_worst",
    "ssim_mean",
}


def needs(family: str):
    missing = not weights_path(family).is_file()
    return pytest.mark.skipif(missing, reason=f"no weights of the tiny {family} model")


@pytest.fixture
def one_pair(monkeypatch):
    """Figures and files need no more than one run with the cache and one without."""
    monkeypatch.setattr(demo, "PAIRS", 1)


FAMILY = [pytest.param(family, marks=needs(family)) for family in SPECS]


@pytest.mark.parametrize("family", FAMILY)
@pytest.mark.usefixtures("one_pair")
def test_demo(family, tmp_path, capsys):
    file = tmp_path / "figures.json"
    command = ["demo", "--family", family, "--steps", str(STEPS), "--clips", "1"]
    command += ["--budget", "0.75", "--out", str(tmp_path / "clips"), "--json", str(file)]
    assert cli.main(command) == 0
    (figures,) = json.loads(file.read_text())
    assert KEYS <= figures.keys()
    assert (figures["family"], figures["steps"], figures["budget"]) == (family, STEPS, 0.75)
    assert figures["evaluations"] == 9
    assert figures["speedup"] == figures["seconds_uncached"] / figures["seconds_cached"]
    assert 15 < figures["psnr_worst"] <= figures["psnr_mean"] < 100
    assert 0.3 < figures["ssim_mean"] < 1
    output = capsys.readouterr().out
    assert f"9.0 of {STEPS}" in output
    assert "synthetic clips" in output
    assert all(f"{family}: {message}" in output for message in figures["messages"])
    check_files(tmp_path / "clips", family)


def check_files(folder, family):
    from PIL import Image

    spec = SPECS[family]
    with Image.open(folder / f"{family}.webp") as clip:
        assert clip.n_frames == spec.frames
        assert clip.size == (2 * spec.pixels, spec.pixels + plots.HEAD)
    for name in ("frames", "stats"):
        with Image.open(folder / f"{family}_{name}.png") as picture:
            assert np.asarray(picture).std() > 10, "an empty picture"
    detail = json.loads((folder / f"{family}.json").read_text())
    assert len(detail["reports"][0]["steps"]) == STEPS


@needs("wan")
def test_one_clip_is_drawn_as_it_is_sampled(tmp_path, capsys):
    from PIL import Image

    from sencache_core.app.animation import AFTER

    path = tmp_path / "clip.webp"
    assert cli.main(["demo", "--animate", str(path), "--steps", "12", "--family", "wan"]) == 0
    output = capsys.readouterr().out
    assert "6 of 12 steps computed" in output and "synthetic clips" in output
    with Image.open(path) as clip:
        assert clip.n_frames == 12 + AFTER
        first = np.asarray(clip.convert("RGB"))
        clip.seek(clip.n_frames - 1)
        last = np.asarray(clip.convert("RGB"))
    assert first.shape == last.shape and (first != last).any()
    assert cli.main(["demo", "--animate", str(path), "--family", "cogvideox"]) == 2


@needs("wan")
@pytest.mark.usefixtures("one_pair")
def test_full_budget_changes_nothing(tmp_path):
    (figures,) = demo.run_demo(["wan"], 1.0, tmp_path, clips=1, steps=STEPS, progress=False)
    assert figures["evaluations"] == STEPS
    assert figures["psnr_worst"] == 100
    assert figures["ssim_mean"] == pytest.approx(1.0)


@needs("wan")
def test_speed_up_is_that_of_medians_of_runs_in_turns(tmp_path, monkeypatch):
    """On a clock of network calls, with one slow run of each kind, half the calls are twice."""
    clock, order, ran = [0.0], [], demo.sample

    def sample(family, module, *arguments):
        order.append(module.is_cached())
        clock[0] += 1000.0 * (len(order) in (1, 6))
        return ran(family, module, *arguments)

    load = demo.load_diffusers

    def loaded(family):
        module = load(family)
        module.blocks[0].register_forward_hook(lambda *_: clock.__setitem__(0, clock[0] + 1))
        usual = module.forward
        module.is_cached = lambda: module.forward != usual
        return module

    monkeypatch.setattr(demo, "sample", sample)
    monkeypatch.setattr(demo, "load_diffusers", loaded)
    monkeypatch.setattr(demo.time, "perf_counter", lambda: clock[0])
    (figures,) = demo.run_demo(["wan"], 0.5, tmp_path, clips=1, steps=STEPS, progress=False)
    assert order == [False, True, True, False, False, True]
    assert (figures["seconds_uncached"], figures["seconds_cached"]) == (STEPS, STEPS / 2)
    assert figures["speedup"] == 2


@needs("wan")
@pytest.mark.parametrize(
    ("options", "evaluations", "message"),
    [
        (["--budget", "0.1", "--steps", str(STEPS)], "of 12", "cannot be met"),
        (["--steps", "8"], "8.0 of 8", "runs of fewer than 10"),
        (["--policy", "off", "--steps", "4"], "4.0 of 4", "caching was off"),
    ],
)
@pytest.mark.usefixtures("one_pair")
def test_what_was_done_is_said(options, evaluations, message, tmp_path, capsys):
    command = ["demo", "--family", "wan", "--clips", "1", "--out", str(tmp_path), *options]
    assert cli.main(command) == 0
    output = capsys.readouterr().out
    assert evaluations in output
    assert any(line.startswith("wan: ") and message in line for line in output.splitlines())


@needs("wan")
@pytest.mark.usefixtures("one_pair")
def test_more_clips_than_prompts(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "held_out_prompts", lambda: ["a red circle", "a blue square"])
    (figures,) = demo.run_demo(["wan"], 1.0, tmp_path, clips=3, steps=2, progress=False)
    assert figures["evaluations"] == 2


@needs("wan")
@pytest.mark.usefixtures("one_pair")
def test_more_evaluations_come_closer(tmp_path):
    figures = [
        demo.run_demo(["wan"], budget, tmp_path, clips=1, steps=STEPS, progress=False)[0]
        for budget in (0.35, 0.8)
    ]
    assert figures[0]["psnr_mean"] < figures[1]["psnr_mean"]


@pytest.mark.parametrize("family", FAMILY)
def test_sampling_agrees_with_the_reference_sampler(family):
    """diffusers' scheduler and the tiny models' own plain sampler are two ways to one clip."""
    from sencache_core.tiny import held_out_prompts, load_diffusers, sample

    module, prompt = load_diffusers(family), held_out_prompts()[0]
    ours = demo.sample(family, module, demo.make_scheduler(family), prompt, 3, STEPS)
    reference = sample(family, module, [prompt], seed=3, steps=STEPS)
    error = (ours - reference).square().mean() / reference.square().mean()
    assert error < 1e-4


@pytest.mark.parametrize("family", FAMILY[:1])
def test_a_calibration_that_cannot_be_saved_does_not_begin(family, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "load_diffusers", lambda family: pytest.fail("the model was loaded"))
    out = tmp_path / "none" / "p.safetensors"
    assert cli.main(["calibrate", "--family", family, "--out", str(out)]) == 2
    assert "cannot write the profile" in capsys.readouterr().err


@needs("wan")
def test_profile_blocks_lists_them_both_ways(capsys):
    assert cli.main(["profile-blocks", "--family", "wan", "--steps", "10"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert "blocks to reuse" in head
    assert [row.split()[0] for row in rows] == ["change", "attention"]
    for row in rows:
        blocks, count = parse_blocks(row[11:33].strip())
        assert (len(blocks), count) == (4, 6)


@needs("wan")
@pytest.mark.usefixtures("one_pair")
def test_calibrate_show_and_use(tmp_path, capsys):
    file, plot = tmp_path / "wan.safetensors", tmp_path / "wan.png"
    measure = ["calibrate", "--family", "wan", "--samples", "2", "--steps", str(STEPS)]
    assert cli.main([*measure, "--out", str(file)]) == 0
    profile = Profile.load(file)
    assert profile.header.samples == 2
    assert profile.header.fingerprint
    assert len(profile.t) == STEPS - 1
    assert (profile.mean["alpha_x"] > 0).all()
    assert profile.moments.gain.shape == (2, STEPS)
    assert "with terminal sensitivity" in capsys.readouterr().out
    assert cli.main(["profile", "show", str(file), "--plot", str(plot)]) == 0
    shown = capsys.readouterr().out
    assert profile.header.fingerprint in shown
    assert "alpha_x" in shown and "gain max" in shown and "response" in shown
    assert plot.stat().st_size > 1000
    use = ["demo", "--family", "wan", "--clips", "1", "--steps", str(STEPS), "--profile", str(file)]
    assert cli.main([*use, "--out", str(tmp_path / "out")]) == 0
    detail = json.loads((tmp_path / "out" / "wan.json").read_text())
    assert detail["evaluations"] == STEPS / 2
    assert not any("another" in message for message in map(str, detail["reports"][0]["messages"]))


@needs("wan")
@pytest.mark.parametrize(
    ("samples", "more"), [(2, 0), (1, 1)], ids=["between samples", "between probes"]
)
def test_interrupted_calibration_keeps_what_it_has(tmp_path, monkeypatch, capsys, samples, more):
    file, sample, taken = tmp_path / "wan.safetensors", demo.sample, []
    runs = Calibration().runs_of(STEPS)

    def interrupted(*arguments):
        if len(taken) == (samples - bool(more)) * runs + more:
            raise KeyboardInterrupt
        taken.append(arguments)
        return sample(*arguments)

    monkeypatch.setattr(demo, "sample", interrupted)
    command = ["calibrate", "--family", "wan", "--samples", "5", "--steps", str(STEPS)]
    assert cli.main([*command, "--out", str(file)]) == 130
    assert Profile.load(file).header.samples == samples
    assert f"{samples} of 5" in capsys.readouterr().out


def table(path, timesteps, slope_x=2.0, slope_t=3.0):
    timesteps = np.asarray(timesteps)
    np.savez(
        path,
        timesteps=timesteps,
        J_x_norm=np.full(len(timesteps), slope_x),
        J_t_norm=np.full(len(timesteps), slope_t),
    )


@pytest.mark.parametrize("family", sorted(AUTHORS_NUMEL))
def test_import_of_a_published_table(family, tmp_path, capsys):
    table(tmp_path / "table.npz", [999, 500, 20])
    out = tmp_path / "profile.safetensors"
    command = ["profile", "import", str(tmp_path / "table.npz"), "--family", family]
    assert cli.main([*command, "--out", str(out)]) == 0
    profile = Profile.load(out)
    assert profile.header.family == family
    assert profile.mean["alpha_x"] == pytest.approx([2.0, 2.0, 2.0])
    if family == "cogvideox":
        assert profile.t[-1] == pytest.approx(1.0)
        assert (np.diff(profile.t) > 0).all()
    else:
        assert profile.t == pytest.approx([0.02, 0.5, 0.999])
        expected = 3.0 / AUTHORS_NUMEL[family] ** 0.5 * 1000
        assert profile.mean["alpha_t"] == pytest.approx([expected] * 3)
    assert cli.main(["profile", "show", str(out)]) == 0
    assert FAMILIES[family].name in capsys.readouterr().out


def test_cogvideox_times_are_those_of_its_scheduler():
    import diffusers

    alphas = diffusers.CogVideoXDDIMScheduler(**COG_SCHEDULER).alphas_cumprod.double()
    for timestep in (0, 1, 500, 998, 999):
        alpha = float(alphas[timestep])
        sigma = ((1 - alpha) / max(alpha, 1e-12)) ** 0.5
        expected = FAMILIES["cogvideox"].time(sigma)
        assert cli.cogvideox_time(timestep) == pytest.approx(expected, abs=2e-5)
    assert cli.cogvideox_time(0.5) == pytest.approx(
        (cli.cogvideox_time(0) + cli.cogvideox_time(1)) / 2
    )
    assert cli.cogvideox_time(999.5) > 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["profile", "show", "nowhere.safetensors"], "cannot read the profile"),
        (["profile", "import", "no.npz", "--family", "wan", "--out", "x"], "cannot read no.npz"),
        (["profile", "import", "no.npz", "--family", "sora", "--out", "x"], "'wan', 'cogvideox'"),
        (["profile", "show", "no", "--nothing"], "unrecognized arguments"),
        (["demo", "--family", "sora"], "choose from 'wan', 'ltx', 'cogvideox', 'all'"),
        (["demo", "--budget", "0"], "--budget: a budget is a share above 0 and up to 1, not '0'"),
        (["demo", "--budget", "half"], "not 'half'"),
        (["demo", "--budget", "nan"], "not 'nan'"),
        (["demo", "--clips", "0"], "--clips: a whole number from 1 on, not '0'"),
        (["demo", "--steps", "1"], "--steps: a whole number from 2 on, not '1'"),
        (["demo", "--steps", "7.5"], "not '7.5'"),
        (["demo", "--rule", "cubic"], "'fitted', 'hold', 'linear', 'quadratic'"),
        (["demo", "--policy", "best"], "choose from 'planned'"),
        (["demo", "--profile", "nowhere.safetensors"], "cannot read the profile"),
        (["demo", "--out", "file/x"], "file"),
        (["demo", "--json", "file/x"], "file"),
        (["demo", "--comfyui", "."], "is not a ComfyUI folder"),
        (["demo", "--comfyui", ".", "--family", "ltx", "--clips", "2"], "no --family ltx, --clips"),
        (["calibrate", "--family", "wan", "--samples", "0", "--out", "x"], "from 1 on"),
        (["calibrate", "--family", "wan", "--steps", "1", "--out", "x"], "from 2 on"),
        (["calibrate", "--family", "wan", "--out", "file/x"], "file"),
        (["calibrate", "--out", "x"], "--family"),
        (["profile-blocks", "--family", "wan", "--steps", "1"], "from 2 on"),
        (["profile-blocks", "--family", "wan", "--share", "1"], "between 0 and 1"),
        ([], "COMMAND"),
    ],
)
def test_what_the_user_can_mend_is_one_line(command, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("sencache: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_profile_of_no_family_of_the_demo_is_refused(tmp_path, capsys):
    table(tmp_path / "table.npz", [999, 500, 20])
    file = str(tmp_path / "profile.safetensors")
    made = ["profile", "import", str(tmp_path / "table.npz"), "--family", "ltx", "--out", file]
    assert cli.main(made) == 0
    assert cli.main(["demo", "--family", "wan", "--profile", file, "--out", str(tmp_path)]) == 2
    assert "the profile is of ltx, the demo is of wan" in capsys.readouterr().err


def test_missing_extra_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.delitem(sys.modules, "sencache_core.hosts.diffusers", raising=False)
    monkeypatch.delitem(sys.modules, "sencache_core.hosts._diffusers", raising=False)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[demo\]'"):
        demo.make_scheduler("wan")


@needs("wan")
@pytest.mark.usefixtures("one_pair")
def test_threads_are_put_back(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        demo.run_demo(["wan"], 1.0, tmp_path, clips=1, steps=2, progress=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_starting_the_command_is_quick_and_needs_no_extra():
    """``--help`` must not import diffusers, matplotlib or kornia."""
    code = (
        "import sys; from sencache_core.app import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'diffusers', 'matplotlib', 'kornia', 'PIL'} & sys.modules.keys()))"
    )
    root = str(cli.Path(cli.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout.rstrip().endswith("[]")


@pytest.mark.comfyui
@needs("wan")
def test_demo_in_comfyui(comfyui, tmp_path, capsys):
    command = ["demo", "--comfyui", str(comfyui), "--steps", str(STEPS), "--out", str(tmp_path)]
    assert cli.main(command) == 0
    output = capsys.readouterr().out
    assert f"{STEPS // 2} of {STEPS} steps computed" in output
    assert "PSNR" in output
    assert "generic prior" in output
    (report,) = json.loads((tmp_path / "reports.json").read_text())
    assert report["evaluations"] == STEPS // 2
    assert len(list(tmp_path.glob("*.webp"))) == 2


def test_learnt_is_listed_and_removed(tmp_path, monkeypatch, capsys):
    from learning import HEADER, observed

    from sencache_core.measure.learnt_store import LearntStore

    store = LearntStore(tmp_path / "learnt")
    monkeypatch.setenv("SENCACHE_LEARNT", str(store.folder))
    assert cli.main(["learnt", "list"]) == 0
    assert "nothing has been learnt" in capsys.readouterr().out
    for scale in (3.0, 4.0):
        store.add(replace(HEADER, guidance=scale, sigmas=(1.0, 0.5, 0.0)), observed(8))
    (store.folder / "wan-broken.safetensors").write_bytes(b"\x07" * 40)
    assert cli.main(["learnt", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "cannot read" in lines[2]
    assert "1 run, 2 steps, guidance " in lines[0] and lines[0].endswith("kB")
    assert cli.main(["learnt", "remove", lines[0].split(":")[0]]) == 0
    assert cli.main(["learnt", "remove", "ltx"]) == 2
    assert cli.main(["learnt", "remove", "all", "--folder", str(store.folder)]) == 0
    assert "2 removed" in capsys.readouterr().out
    assert not list(store.listed())
