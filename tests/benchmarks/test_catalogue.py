"""``sencache methods``: every cell says what ran, or why nothing did."""

from __future__ import annotations

import importlib
import json

import pytest

from benchmarks import catalogue
from sencache_core import POLICIES, REUSE_RULES
from sencache_core.app import cli

pytest.importorskip("diffusers", reason="the bundled models are those of diffusers")

KEYS = {"method", "family", "host", "runs", "saved", "psnr_mean", "parity", "note"}


def test_parity_marks_name_what_is_registered():
    found = catalogue.parities()
    assert set(found) <= {*POLICIES, *REUSE_RULES}
    assert {"magcache", "seacache", "easycache", "taylorseer"} <= set(found)
    for tests in found.values():
        for test in tests:
            file, _, name = test.partition(": ")[2].partition("::")
            assert f"def {name}(" in (catalogue.ROOT / file).read_text(encoding="utf-8")


def test_every_method_says_what_it_does_and_what_holds_it():
    names = catalogue.methods("wan")
    assert {*POLICIES} - {*names} == {"off"}
    assert all(f"{name} (rule)" in names for name in REUSE_RULES)
    for name in names:
        assert len(catalogue.sentence(name)) > 20
        assert catalogue.parity(name)


@pytest.mark.parametrize(
    ("name", "cost", "mebibytes"),
    [
        ("interval", 0.0, 2 * 8),  # two branches' latents in float32
        ("teacache", 0.0, 2 * 96),  # and two residuals of 32,760 x 1536 in half precision
        ("middle_blocks", 0.3, 2 * 96),
        ("cfg_cache", 0.5, 2 * 8),
        ("fastercache", 0.5, 30 * 2 * 2 * 96 + 2 * 8),
    ],
)
def test_cost_and_memory_at_the_size_of_a_real_model(name, cost, mebibytes):
    found = catalogue.at_wan(name)
    assert found["skipped_cost"] == pytest.approx(cost, abs=0.01)
    assert found["memory"] / 2**20 == pytest.approx(mebibytes, rel=0.01)


def test_cells_are_run_or_say_why(tmp_path, capsys, monkeypatch):
    def missing(family):
        raise ImportError("no such host")

    monkeypatch.setattr(catalogue, "in_comfyui", missing)
    command = ["methods", "--json", str(tmp_path / "m.json"), "--methods", "teacache,seacache"]
    assert cli.main([*command, "--family", "wan2.2", "--family", "ltx2"]) == 0
    rows = json.loads((tmp_path / "m.json").read_text())
    assert [(r["family"], r["host"], r["method"], r["runs"]) for r in rows] == [
        (family, host, method, host == "diffusers" and (family, method) != ("ltx2", "seacache"))
        for family in ("wan2.2", "ltx2")
        for host in ("comfyui", "diffusers")
        for method in ("teacache", "seacache")
    ]
    for row in rows:
        assert KEYS <= row.keys()
        assert all(row[key] not in ("", None) or not row["runs"] for key in KEYS)
        assert row["note"] and row["parity"]
        if row["runs"]:
            assert row["saved"] == 0.5 and 5 < row["psnr_mean"] < 100
        elif row["host"] == "comfyui":
            assert row["note"] == "not to be sampled here: ImportError: no such host"
    assert "list of picture and sound" in rows[-1]["note"]
    assert "teacache: runs in 2 of 4 cells" in capsys.readouterr().out


@pytest.mark.comfyui
def test_models_of_comfyui(comfyui):
    importlib.import_module("benchmarks.comfy_peers")
    cells = {
        r["method"]: r for r in catalogue.table(["ltx2"], ["comfyui"], ["interval", "seacache"])
    }
    assert cells["interval"]["saved"] == 0.5
    assert cells["interval"]["note"] == "small model of random weights"
    assert not cells["seacache"]["runs"]


def test_unknown_names_are_refused(capsys):
    assert cli.main(["methods", "--methods", "nothing"]) == 2
    assert "there are planned" in capsys.readouterr().err
    assert cli.main(["methods", "--methods", "teacache,taylorseer (rule)"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("teacache: ") and "tests/test_teacache.py::" in out[0]
    assert out[1].startswith("taylorseer (rule): every n-th evaluation")
