"""The tables that a bench comes to, and that RESULTS.md holds the ones of its own rows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import summary

FOLDER = Path(summary.__file__).parent
ROWS = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))


def row(method, mean, worst, **changes):
    keys = {"family": "wan", "regime": "rough", "budget": 0.5, "samples": 4, "error": None}
    return {
        **keys,
        "method": method,
        "psnr_mean": mean,
        "psnr_worst": worst,
        "cost": 0.5,
        **changes,
    }


def test_the_best_peer_may_be_two():
    rows = [row("planned", 30, 25), row("a", 29, 20), row("b", 27, 24), row("planned-hold", 50, 50)]
    (line,) = summary.beside_peers(rows).splitlines()[2:]
    assert "| 29.0 `a` at 0.50 | 24.0 `b` at 0.50 | +1.0 / +1.0 | +1.0 / +1.0 | neither |" in line
    rows[0] = row("planned", 31, 27)
    assert summary.beside_peers(rows).endswith("| +2.0 / +3.0 | mean and worst |")


def test_a_peer_that_spends_more_is_also_met_at_its_own_cost():
    rows = [row("planned", 30, 25), row("a", 31, 26, cost=0.55)]
    rows += [row("planned", 33, 27, budget=0.55, cost=0.55), row("planned", 40, 40, cost=0.6)]
    rows[-1]["budget"] = 0.6
    rows.append(row("planned", 20, 20, budget=0.4, cost=0.4))
    assert "| -1.0 / -1.0 | +2.0 / +1.0 | neither |" in summary.beside_peers(rows)


def test_rows_of_other_clips_or_with_an_error_are_not_compared():
    rows = [row("planned", 30, 25), row("a", 40, 40, samples=8), row("b", 50, 50, error="no")]
    rows.append(row("easycache", 60, 60, cost=0.65))  # not the same budget
    assert summary.beside_peers(rows).count("\n") == 1


def test_the_oracle_is_put_beside_the_plan_of_the_same_clips():
    rows = [row("planned", 30, 25), row("planned", 20, 15, samples=8), row("oracle", 33, 26)]
    (line,) = summary.oracles(rows).splitlines()[2:]
    assert line.endswith("| `oracle` | 30.0 / 25.0 | 33.0 / 26.0 | +3.0 |")


@pytest.mark.parametrize("title", summary.TABLES)
def test_results_hold_what_their_rows_come_to(title):
    results = (FOLDER / "RESULTS.md").read_text(encoding="utf-8")
    assert summary.TABLES[title](ROWS).strip() in results


def test_the_command_prints_every_table_and_plots(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    assert summary.main([str(FOLDER / "results.json"), "--plots", str(tmp_path / "plots")]) == 0
    printed = capsys.readouterr().out
    assert all(f"## {title}\n" in printed for title in summary.TABLES)
    assert len(list((tmp_path / "plots").iterdir())) == 6


def test_the_command_says_nothing_else():
    command = [sys.executable, "-m", "benchmarks.summary", str(FOLDER / "results.json")]
    done = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_plots_show_ours_and_peers_on_the_most_clips():
    rows = [row("a", 1, 1, samples=8), row("planned-hold", 1, 1, samples=8)]
    rows += [row("planned", 1, 1, samples=8), row("b", 1, 1), row("uncached", 9, 9, samples=8)]
    assert [shown["method"] for shown in summary.to_plot(rows)] == ["planned", "a"]
