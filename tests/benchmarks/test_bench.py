"""The bench: rows, costs, peers that leave no trace."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import Regime, find_methods, load_checkpoint, load_tiny, measures, run_bench
from benchmarks import bench as bench_module
from benchmarks.bench import KEYS, MEASURED
from benchmarks.case import make_case, search
from benchmarks.host import BlockWork
from benchmarks.method import Method, Sweep
from benchmarks.summary import table
from sencache_core.app import cli
from sencache_core.tiny import SPECS, build, forward, weights_path

for extra in ("diffusers", "kornia", "matplotlib", "torchmetrics", "tqdm"):
    pytest.importorskip(extra, reason=f"needs {extra}, of the extra `bench`")
ours = pytest.importorskip("benchmarks.ours")

FAMILIES = tuple(SPECS)
SHORT = Regime("short", steps=10, shift=5.0, guidance=4.0)
PEERS = [method.name for method in find_methods() if method.host == "diffusers"]
#: Peers that cannot run on a family, and a word of their error.
REFUSED = {("fastercache", "wan"): "index", ("fastercache", "ltx"): "tensor_format"}

pytestmark = pytest.mark.filterwarnings("ignore:.*pkg_resources.*")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Checkpoints of random weights, two latent frames of four by four, by family."""
    folder = tmp_path_factory.mktemp("small")
    models = {}
    for family in FAMILIES:
        torch.manual_seed(0)
        spec = SPECS[family]
        config = {**spec.config, "num_layers": 3}
        module = build(family).__class__(**config)
        save_file(module.state_dict(), folder / f"{family}.safetensors")
        latent = [spec.latent[0], 2, 4, 4]
        facts = {"family": family, "config": config, "latent": latent, "guidance": 3.0}
        (folder / f"{family}.json").write_text(json.dumps(facts))
        models[family] = load_checkpoint(
            folder / f"{family}.safetensors", folder / f"{family}.json"
        )
    return models


@pytest.fixture(scope="module")
def cases(small):
    """A case of each small model."""
    made = {f: make_case(small[f], SHORT, "diffusers", 1, 1, 1) for f in FAMILIES}
    yield made
    for case in made.values():
        case.host.close()


def method(name: str) -> Method:
    if name.startswith("dbcache") and importlib.util.find_spec("cache_dit") is None:
        pytest.skip("cache-dit is not installed")
    return find_methods([name])[0]


def test_rows_of_a_bundled_model(tmp_path, capsys, monkeypatch):
    if not weights_path("ltx").is_file():
        pytest.skip("no weights of the tiny ltx model")
    file, models = tmp_path / "rows.json", [load_tiny("ltx")]
    methods = find_methods(["interval-hold"])
    arguments = {"samples": 1, "calibration_samples": 1, "tune_samples": 1, "progress": False}
    rows = run_bench(models, [SHORT], methods, [0.5], file, out=tmp_path, **arguments)
    assert [row["method"] for row in rows] == ["uncached", "interval-hold"]
    for row in rows:
        assert row.keys() == {*KEYS, *MEASURED, "setting", "samples", "error"}
        assert row["error"] is None
    uncached, interval = rows
    assert uncached["cost"] == 1.0
    assert (uncached["psnr_worst"], uncached["rms_worst"]) == (100.0, 0.0)
    assert interval["cost"] == pytest.approx(0.5)
    assert 5 < interval["psnr_worst"] <= interval["psnr_mean"] < 90
    assert 0 < interval["msssim_mean"] < 1
    assert json.loads(file.read_text()) == rows
    assert (tmp_path / "pareto_ltx_short.png").stat().st_size > 10_000
    assert "say nothing about real models" in table(rows)

    def unexpected(*_):
        raise AssertionError("a finished row was made again")

    monkeypatch.setattr(bench_module, "_row", unexpected)
    assert run_bench(models, [SHORT], methods, [0.5], file, resume=True, **arguments) == rows


@pytest.mark.parametrize("family", FAMILIES)
def test_work_is_what_torch_counts(small, family):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = small[family]
    work = BlockWork(model.blocks)
    x, context = torch.randn(2, *model.spec.latent), model.encode("a red circle").expand(2, -1, -1)
    # It counts matrix products only, so attention must be made of them.
    mathematical = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, mathematical, torch.no_grad():
        forward(family, model.module, x, 0.5, context)
    work.close()
    blocks = {
        f"{type(model.module).__name__}.{name}"
        for name, module in model.module.named_modules()
        if any(module is block for block in model.blocks)
    }
    counts = counter.get_flop_counts()
    assert work.flops == sum(sum(counts[name].values()) for name in blocks) > 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", PEERS)
def test_a_method_leaves_no_trace(cases, name, family):
    tested, one = method(name), cases[family]
    prompt, before = one.tests[0], one.uncached[0].latent
    word = REFUSED.get((name, family))
    one.prepare(tested)
    setting = tested.sweeps(one, 0.5)[0].settings[-1]
    if word:
        with pytest.raises((IndexError, ValueError, RuntimeError), match=word):
            one.clip(tested, setting, *prompt)
    else:
        clip = one.clip(tested, setting, *prompt)
        assert 0 < clip.work < one.full_work
        assert not torch.equal(clip.latent, before)
    assert torch.equal(one.sample(*prompt), before)
    assert not any("forward" in vars(part) for part in one.model.blocks.modules())


def test_a_method_that_cannot_run_has_its_error_in_the_row(small, tmp_path):
    arguments = {"samples": 1, "calibration_samples": 1, "tune_samples": 1, "progress": False}
    rows = run_bench(
        [small["wan"]],
        [SHORT],
        find_methods(["fastercache", "sencache"]),
        [0.5],
        tmp_path / "rows.json",
        **arguments,
    )
    by_name = {row["method"]: row for row in rows}
    assert "index" in by_name["fastercache"]["error"]
    assert by_name["fastercache"]["cost"] is None
    assert by_name["sencache"]["cost"] == 0.5
    # No codec: latents against the reference's range, and nothing on frames.
    assert 0 < by_name["sencache"]["psnr_mean"] < 100
    assert by_name["sencache"]["ssim_mean"] is None
    assert "Without a codec" in table(rows)


def test_calibration_and_test_prompts_are_disjoint(cases):
    one = cases["ltx"]
    bigger = make_case(one.model, SHORT, "diffusers", 30, 30, 30)
    bigger.host.close()
    assert len(set(bigger.tests)) == len(set(bigger.calibration)) == 30
    for part in (0, 1):
        assert not {t[part] for t in bigger.tests} & {c[part] for c in bigger.calibration}


def test_profile_on_calibration_clips(cases):
    one = cases["wan"]
    measured = ours.profile(one)
    assert measured.header.samples == 1
    assert len(measured.t) >= one.regime.steps - 2


def test_a_peer_is_tuned_to_the_budget(small, tmp_path):
    arguments = {"samples": 2, "calibration_samples": 1, "tune_samples": 1, "progress": False}
    methods = find_methods(["taylorseer-1"])
    rows = run_bench([small["ltx"]], [SHORT], methods, [0.5], tmp_path / "rows.json", **arguments)
    assert rows[1]["cost"] == pytest.approx(0.5, abs=0.05)
    assert "cache_interval=2" in rows[1]["setting"]


def test_search_finds_the_nearest_and_of_two_the_dearer():
    class Priced:
        def try_setting(self, method, setting):
            return 1 - setting["skip"] / 20, 0.0

    sweep = Sweep.over("skip", range(20))
    for skip in range(20):
        assert search(Priced(), None, sweep, 1 - skip / 20) == {"skip": skip}
    assert search(Priced(), None, sweep, 0.525) == {"skip": 9}


def test_measures():
    reference = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) / 2
    assert measures.psnr(reference, reference) == 100.0
    assert measures.psnr(reference + 0.1, reference) == pytest.approx(20, abs=1e-4)
    assert measures.ms_ssim(reference, reference) == pytest.approx(1.0)
    assert 0 < measures.ms_ssim(reference.flip(0), reference) < 0.9
    assert measures.ms_ssim(reference[..., :32, :32], reference[..., :32, :32]) == pytest.approx(1)


def test_lpips_is_never_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    measures.lpips_model.cache_clear()
    try:
        model, why = measures.lpips_model()
    finally:
        measures.lpips_model.cache_clear()
    assert model is None
    assert why


def test_refusals(small, tmp_path):
    with pytest.raises(ValueError, match=r"unknown methods nothing"):
        find_methods(["nothing"])
    file = tmp_path / "rows.json"
    with pytest.raises(ValueError, match="budgets"):
        run_bench([], [], [], [1.5], file)
    file.write_text("{}")
    with pytest.raises(ValueError, match="no rows"):
        run_bench([], [], [], [0.5], file, resume=True)
    config = tmp_path / "config.json"
    for facts, word in (
        ({"family": "wan"}, "needs the keys"),
        ({"family": "wan", "config": {}, "latent": [], "step": 3}, "unknown keys step"),
        ({"family": "none", "config": {}, "latent": []}, "'none' is not one of"),
    ):
        config.write_text(json.dumps(facts))
        with pytest.raises(ValueError, match=word):
            load_checkpoint("none.safetensors", config)


def test_regime_overrides(small):
    assert small["wan"].regime(SHORT) == replace(SHORT, guidance=3.0)


def test_failed_rows_are_listed_and_make_the_exit_code(capsys):
    def row(method, error=None, regime="smooth", budget=0.5):
        return {
            "family": "wan",
            "regime": regime,
            "method": method,
            "budget": budget,
            "error": error,
        }

    good, bad = row("planned"), row("pab", "ValueError: not\n here")
    assert bench_module.show_failures([good], named=True) == 0
    assert capsys.readouterr().err == ""
    # Of all methods some cannot run on a model: that is a result.
    assert bench_module.show_failures([good, bad], named=False) == 0
    bads = [bad, row("pab", bad["error"], budget=0.25)]
    assert bench_module.show_failures([good, *bads], named=True) == 1
    first, second = capsys.readouterr().err.splitlines()[-2:]
    assert first == "sencache: wan, smooth: pab at 0.5, pab at 0.25: ValueError: not here"
    assert second == "sencache: 2 of 3 rows failed"
    # Nothing at all of one regime.
    rows = [good, bad, row("planned", "x", "rough"), row("pab", "x", "rough")]
    assert bench_module.show_failures(rows, named=False) == 1


def test_command_with_failed_rows_only(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_module, "load_checkpoint", lambda *_: small["wan"])
    monkeypatch.setitem(bench_module.REGIMES, "smooth", SHORT)
    command = ["bench", "--json", str(tmp_path / "rows.json"), "--checkpoint", "x", "--config", "x"]
    command += ["--regime", "smooth", "--budgets", "0.5", "--methods", "fastercache"]
    command += ["--samples", "1", "--tune-samples", "1", "--calibration-samples", "1"]
    assert cli.main(command) == 1
    error = capsys.readouterr().err
    assert "wan, short: fastercache at 0.5: IndexError" in error
    assert error.endswith("sencache: 1 of 1 rows failed\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "nothing"], "interval-linear"),
        (["--checkpoint", "y"], "--config"),
        (["--checkpoint", "y", "--config", "z", "--family", "wan"], "not from --family"),
        (["--budgets", "0.5,x"], "--budgets: a budget is a share above 0 and up to 1, not 'x'"),
        (["--budgets", "0.5,nan"], "not 'nan'"),
        (["--samples", "0"], "--samples: a whole number from 1 on, not '0'"),
        (["--tune-samples", "x"], "--tune-samples: "),
        (["--calibration-samples", "-1"], "--calibration-samples: "),
        (["--regime", "odd"], "'smooth', 'rough'"),
        (["--family", "sora"], "'wan', 'ltx', 'cogvideox'"),
        (["--json", "."], "is a folder"),
    ],
)
def test_wrong_values_are_one_line(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "--json", "x", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("sencache: ") and error.count("\n") == 1


def test_missing_packages_are_named_before_anything_is_sampled(small, tmp_path, monkeypatch):
    bundled = replace(small["wan"], codec="wan")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torchmetrics" else found(name)
    )
    with pytest.raises(ImportError, match="torchmetrics"):
        run_bench([bundled], [SHORT], find_methods(["sencache"]), [0.5], tmp_path / "rows.json")
    assert not (tmp_path / "rows.json").exists()
