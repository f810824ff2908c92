"""The bench: rows, costs, peers that leave no trace."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import pytest
import torch

from benchmarks import Plan, Regime, find_methods, load_checkpoint, run_bench
from benchmarks import bench as bench_module
from benchmarks.case import Case, make_case, search
from benchmarks.host import BlockWork
from benchmarks.method import Method, Sweep
from benchmarks.store import Store
from benchmarks.summary import summarise
from sencache_core import POLICIES, REUSE_RULES
from sencache_core.app import cli
from sencache_core.tiny import SPECS, forward

for extra in ("diffusers", "tqdm"):
    pytest.importorskip(extra, reason=f"needs {extra}, of the extra `bench`")
ours = pytest.importorskip("benchmarks.ours")

FAMILIES = tuple(SPECS)
SHORT = Regime("short", steps=10, shift=5.0, guidance=4.0)
PEERS = [method.name for method in find_methods() if method.host == "diffusers"]
FEW = {"samples": 2, "tune_samples": 1, "calibration_samples": 1}

pytestmark = pytest.mark.filterwarnings("ignore:.*pkg_resources.*")


@pytest.fixture(scope="module")
def cases(small, tmp_path_factory):
    """A case of each small model."""
    folder = tmp_path_factory.mktemp("store")
    made = {
        f: make_case(small[f], SHORT, "diffusers", Store(folder, small[f]), 1, 1, 1)
        for f in FAMILIES
    }
    yield made
    for case in made.values():
        case.host.close()


def method(name: str) -> Method:
    if name.startswith("dbcache") and importlib.util.find_spec("cache_dit") is None:
        pytest.skip("cache-dit is not installed")
    return find_methods([name])[0]


def test_rows_are_of_clips_and_go_on_where_they_stopped(small, tmp_path, monkeypatch):
    file = tmp_path / "rows.json"
    methods = find_methods(["ours-interval", "unipc"])
    plan = Plan([replace(small["wan"], codec="wan")], [SHORT], methods, [0.5, 1.0], **FEW)
    rows = run_bench(plan, file, progress=False)
    named = {(row["method"], row["budget"]): row for row in rows}
    assert list(named) == [
        ("ours-interval", 0.5),
        ("uncached", 1.0),
        ("unipc", 0.5),
        ("unipc", 1.0),
    ]
    assert all(row["error"] is None and len(row["clips"]) == 2 for row in rows)
    for clip in named["uncached", 1.0]["clips"]:
        assert (clip["cost"], clip["uncached"]) == (1.0, 100.0)
        assert clip["own"] > clip["exact"]
    for name in ("ours-interval", "unipc"):
        for clip in named[name, 0.5]["clips"]:
            assert clip["cost"] == 0.5
            assert 5 < min(clip["exact"], clip["uncached"]) < 99
    assert named["unipc", 1.0]["clips"][0]["uncached"] < 99
    assert json.loads(file.read_text()) == rows
    assert "say nothing about real ones" in summarise(rows)

    # An interrupt after one clip of the second row; then one clip more than before.
    rows[2]["clips"], rows[3]["clips"] = rows[2]["clips"][:1], []
    file.write_text(json.dumps(rows))
    sampled = []
    clips = Case.clips

    def noted(case, method, setting, shots):
        sampled.append((method and method.name, [seed for _, seed in shots]))
        return clips(case, method, setting, shots)

    monkeypatch.setattr(Case, "clips", noted)
    again = run_bench(replace(plan, samples=3), file, resume=True, progress=False)
    assert sampled == [
        (None, [2]),
        ("ours-interval", [2]),
        ("unipc", [1, 2]),
        ("unipc", [0, 1, 2]),
    ]
    assert [len(row["clips"]) for row in again] == [3, 3, 3, 3]
    for row in again:
        for one, other in zip(row["clips"], named[row["method"], row["budget"]]["clips"]):
            assert one == pytest.approx(other, abs=1e-2)


def test_rows_of_other_weights_are_not_kept(small, tmp_path):
    file = tmp_path / "rows.json"
    counts = FEW | {"samples": 1}
    plan = Plan([small["wan"]], [SHORT], find_methods(["fewer-steps"]), [0.5], **counts)
    before = run_bench(plan, file, progress=False)
    other = replace(small["wan"], rope=None, levels={"shift_terminal": 0.2})
    after = run_bench(replace(plan, models=[other]), file, resume=True, progress=False)
    assert [row["identity"] for row in before] != [row["identity"] for row in after]
    assert before[0]["clips"] != after[0]["clips"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_changes_rounding_only(cases, family):
    one = cases[family]
    shots = [*one.tests, *one.calibration]
    together = one.host.sample(shots)
    for latent, shot in zip(together, shots):
        torch.testing.assert_close(latent[None], one.host.sample([shot]), rtol=1e-4, atol=1e-4)


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


def refused(name: str, family: str) -> str:
    """What a method says of a family that it cannot serve; empty: it can."""
    if name == "fastercache" and family != "cogvideox":
        return "dimension|index"
    return "list of tokens" if "seacache" in name and "ours" in name and family == "ltx" else ""


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", PEERS)
def test_a_method_leaves_no_trace(cases, name, family):
    tested, one = method(name), cases[family]
    shots, before = one.tests, one.references[0]
    one.prepare(tested)
    setting = tested.sweeps(one, 0.5)[0].settings[-1]
    if why := refused(name, family):
        with pytest.raises(Exception, match=why):
            list(one.clips(tested, setting, shots))
    else:
        (clip,) = one.clips(tested, setting, shots)
        assert 0 < clip.work < before.work
        assert not torch.equal(clip.latent, before.latent)
    assert torch.equal(one.host.sample(shots), before.latent)
    assert not any("forward" in vars(part) for part in one.model.blocks.modules())


def test_every_policy_and_rule_has_a_row():
    """Also those of another file, by being registered."""
    names = {method.name for method in find_methods()}
    assert {f"ours-{name}" for name in POLICIES} - names == {"ours-planned", "ours-off"}
    assert {f"ours-rule-{name}" for name in REUSE_RULES} - names == {"ours-rule-hold"}
    assert {row.host for row in find_methods() if row.name.startswith("ours as")} == {
        "comfyui",
        "diffusers",
    }


def test_a_policy_without_what_it_needs_is_given_it(cases):
    """MagCache has no ratios of LTX-Video's stack: a profile is measured, and outputs are kept."""
    config = ours.fitting("magcache", cases["ltx"])
    assert (config.policy.place, config.tap_in_use) == ("output", "output")
    assert config.profile.header.samples == 1
    assert ours.fitting("magcache", cases["wan"]).profile is None


@pytest.fixture
def refusing(monkeypatch):
    """A method that fails where it is attached, as peers do on models they do not know."""

    def attach(case, setting):
        raise IndexError("no index of that")

    refusing = Method("refusing", lambda case, budget: [Sweep([{}])], attach)
    monkeypatch.setattr("benchmarks.peers.METHODS", (refusing,))
    return refusing


def test_a_method_that_cannot_run_has_its_error_in_the_row(small, tmp_path, refusing):
    methods = [refusing, *find_methods(["ours-sencache"])]
    plan = Plan([small["wan"]], [SHORT], methods, [0.5], **FEW)
    rows = {row["method"]: row for row in run_bench(plan, tmp_path / "r.json", progress=False)}
    assert rows["refusing"]["error"] == "IndexError: no index of that"
    assert rows["refusing"]["clips"] == []
    # No codec: latents against the reference's range.
    assert 0 < rows["ours-sencache"]["clips"][0]["exact"] < 100
    assert "`refusing` cannot run: IndexError" in summarise(list(rows.values()))


def test_calibration_and_test_prompts_are_disjoint(cases):
    one = cases["ltx"]
    bigger = make_case(one.model, SHORT, "diffusers", one.store, 30, 30, 30)
    bigger.host.close()
    assert len(set(bigger.tests)) == len(set(bigger.calibration)) == 30
    for part in (0, 1):
        assert not {t[part] for t in bigger.tests} & {c[part] for c in bigger.calibration}


def test_profile_on_calibration_clips(cases):
    one = cases["wan"]
    measured = ours.profile(one)
    assert measured.header.samples == 1
    assert len(measured.t) >= one.regime.steps - 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one.host, "sample", None)  # it lies on disk now
        assert ours.profile(one).header == measured.header


def test_a_peer_is_tuned_to_the_budget(small, tmp_path):
    plan = Plan([small["ltx"]], [SHORT], find_methods(["taylorseer-1"]), [0.5], **FEW)
    row, _ = run_bench(plan, tmp_path / "rows.json", progress=False)
    assert [clip["cost"] for clip in row["clips"]] == pytest.approx([0.5, 0.5], abs=0.05)
    assert row["setting"]["cache_interval"] == 2


def test_search_finds_the_nearest_and_of_two_the_dearer():
    class Priced:
        def try_setting(self, method, setting):
            return 1 - setting["skip"] / 20, 0.0

    sweep = Sweep.over("skip", range(20))
    for skip in range(20):
        assert search(Priced(), None, sweep, 1 - skip / 20) == {"skip": skip}
    assert search(Priced(), None, sweep, 0.525) == {"skip": 9}


def test_refusals(small, tmp_path):
    with pytest.raises(ValueError, match=r"unknown methods nothing"):
        find_methods(["nothing"])
    file = tmp_path / "rows.json"
    with pytest.raises(ValueError, match="budgets"):
        Plan([], [], [], [1.5])
    file.write_text("{}")
    with pytest.raises(ValueError, match="no rows"):
        run_bench(Plan([], [], [], [0.5]), file, resume=True)
    config = tmp_path / "config.json"
    for facts, word in (
        ({"family": "wan", "config": {}}, "needs the keys"),
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


def test_command_with_failed_rows_only(small, tmp_path, monkeypatch, capsys, refusing):
    monkeypatch.setattr(bench_module, "load_checkpoint", lambda *_: small["wan"])
    monkeypatch.setitem(bench_module.REGIMES, "smooth", SHORT)
    command = ["bench", "--json", str(tmp_path / "rows.json"), "--checkpoint", "x", "--config", "x"]
    command += ["--regime", "smooth", "--budgets", "0.5", "--methods", "refusing"]
    command += ["--samples", "1", "--tune-samples", "1", "--calibration-samples", "1"]
    assert cli.main(command) == 1
    error = capsys.readouterr().err
    assert "wan, short: refusing at 0.5: IndexError" in error
    assert error.endswith("sencache: 1 of 1 rows failed\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "nothing"], "ours-rule-linear"),
        (["--config", "y"], "--checkpoint"),
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
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tqdm" else found(name)
    )
    plan = Plan([small["wan"]], [SHORT], find_methods(["ours-sencache"]), [0.5])
    with pytest.raises(ImportError, match="tqdm"):
        run_bench(plan, tmp_path / "rows.json")
    assert not (tmp_path / "rows.json").exists()
