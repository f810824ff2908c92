"""The tables that rows come to, finished or not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import summary

FOLDER = Path(summary.__file__).parent


def row(method, exact, uncached=None, **changes):
    same = uncached or exact
    clips = [
        {"clip": k, "cost": 0.5, "exact": a, "uncached": b}
        for k, (a, b) in enumerate(zip(exact, same))
    ]
    keys = {"family": "wan", "regime": "rough", "method": method, "budget": 0.5, "title": method}
    own = method.startswith("planned")
    return {**keys, "ours": own, "clips": clips, "error": None, "setting": {}, **changes}


def whole(exact, **changes):
    made = row("uncached", exact, budget=1.0, **changes)
    for clip in made["clips"]:
        clip |= {"cost": 1.0, "own": 60.0, "uncached": 100.0}
    return made


ROWS = [
    row("planned", [30, 31, 29], [40, 41, 39], title="planned, first run"),
    whole([33, 34, 35]),
    row("unipc", [29, 32, 28], [28, 28, 28], title="UniPC, fewer steps"),
    row("seacache", [20, 20, 20], [45, 30, 45]),
]


def test_fewer_steps_count_as_a_peer():
    (place,) = summary.places(ROWS)
    methods = summary.places(ROWS)[place]
    won = summary.beside_peers(methods["planned"], methods, summary.EXACT)
    assert (won.peer, won.share) == ("unipc", pytest.approx(2 / 3))
    won = summary.beside_peers(methods["planned"], methods, summary.SAME)
    assert (won.peer, won.share) == ("seacache", pytest.approx(1 / 3))


def test_tables_hold_means_and_tenth_percentiles():
    table = summary.across(ROWS, 0.5, summary.EXACT).splitlines()
    assert table[0] == "|  | wan, rough |"
    assert table[2:] == [
        "| uncached | 34.0 / 33.2 |",
        "| UniPC, fewer steps | 29.7 / 28.2 |",
        "| planned, first run | 30.0 / 29.2 |",
        "| best other cache | 20.0 / 20.0 `seacache` |",
    ]
    assert "| uncached | = |" in summary.across(ROWS, 0.5, summary.SAME)
    rows = summary.every_row(ROWS)
    assert "| **planned, first run** | 0.500 | 30.0 / 29.2 | 67% (" in rows
    assert "right to 60 dB or better" in rows


def test_a_peer_that_spends_much_more_is_not_put_beside_ours():
    dear = row("seacache", [50, 50, 50])
    for clip in dear["clips"]:
        clip["cost"] = 0.56
    rows = [*ROWS[:3], dear]
    (methods,) = summary.places(rows).values()
    assert summary.beside_peers(methods["planned"], methods, summary.EXACT).peer == "unipc"
    assert "| best other cache |  |" in summary.across(rows, 0.5, summary.EXACT)


def test_a_row_that_is_not_done_is_compared_on_its_own_clips_and_marked():
    short = row("planned-profile", [28], [28])
    rows = [*ROWS, short, row("failed", [], error="IndexError: no")]
    (methods,) = summary.places(rows).values()
    assert summary.beside_peers(methods["planned-profile"], methods, summary.EXACT).share == 0.0
    table = summary.every_row(rows)
    (line,) = (line for line in table.splitlines() if "planned-profile" in line)
    assert line.endswith("| 1 |")
    assert "`failed` cannot run: IndexError: no" in table
    assert "| wan, rough |" in summary.summarise([ROWS[0]])


def test_models_stand_side_by_side_and_budgets_apart():
    rows = [*ROWS, row("planned", [1, 2], family="ltx"), row("planned", [3], budget=0.36)]
    assert "|  | wan, rough | ltx, rough |" in summary.across(rows, 0.5, summary.EXACT)
    text = summary.summarise(rows)
    assert text.index("## Budget 0.5") < text.index("## Budget 0.36")


def test_the_command_merges_files_and_plots(tmp_path):
    pytest.importorskip("matplotlib")
    files = tmp_path / "a.json", tmp_path / "b.json"
    files[0].write_text(json.dumps(ROWS))
    files[1].write_text(json.dumps([row("planned", [44, 44, 44], title="planned, first run")]))
    command = [sys.executable, "-m", "benchmarks.summary", *map(str, files)]
    command += ["--plots", str(tmp_path / "plots")]
    done = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "| planned, first run | 44.0 / 44.0 |" in done.stdout
    assert (tmp_path / "plots" / "methods_wan_rough.png").stat().st_size > 10_000


def test_ours_less_their_origins():
    """On the clips that both have, with costs where they are not the same."""
    own = row("ours-seacache", [22, 23, 24], [40, 40, 40], ours=True)
    origin = row("seacache", [20, 20, 20], [41, 40], origin_of=["ours-seacache"])
    dear = row("pab", [9, 9, 9], origin_of=["ours-pab"], title="PAB")
    for clip in dear["clips"]:
        clip["cost"] = 0.9
    alone = row("dbcache", [1], origin_of=["ours-dbcache"])
    rows = [own, origin, dear, row("ours-pab", [8, 8, 8]), alone]
    table = summary.pairs(rows, 0.5).splitlines()
    assert table[0] == "|  | wan, rough, uncached clip | wan, rough, exact solution |"
    assert table[2].startswith("| ours-seacache - seacache | -0.5 (-1.0 to +0.0) | +2.5 (")
    same = "-1.0 (-1.0 to -1.0) at 0.50 and 0.90"
    assert table[3:] == [f"| ours-pab - PAB | {same} | {same} |"]
    assert summary.pairs([own], 0.5) == ""
    assert table[2] in summary.summarise(rows)


def test_samplers_that_draw_noise_have_no_exact_solution(tmp_path):
    """Rows without one are in every table, where its cells are empty."""
    pytest.importorskip("matplotlib")
    from benchmarks.picture import draw

    rows = [json.loads(json.dumps(one)) for one in ROWS]
    for one in rows:
        one["regime"] = "rough lcm"
        for clip in one["clips"]:
            clip["exact"] = None
            clip.pop("own", None)
    text = summary.summarise(rows)
    assert "| planned, first run |  |" in text
    assert "| **planned, first run** | 0.500 |  |  | 40.0 / 39.2 | 33% (" in text
    assert "| lcm |  |  |  |  |" in summary.by_sampler(rows)
    assert [file.name for file in draw(rows, tmp_path)] == ["methods_wan_rough_lcm.png"]


def test_the_mean_is_over_methods_that_are_everywhere():
    from benchmarks.picture import _points

    rows = [*ROWS, row("planned", [20, 20, 20], family="ltx"), whole([36, 36, 36], family="ltx")]
    points = _points(rows, "exact", 2)
    assert points == {"planned": [(0.5, 25.0)], "uncached": [(1.0, 35.0)]}
    assert list(_points(rows, "uncached", 2)) == ["planned"]


def test_results_hold_what_their_rows_come_to():
    rows = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
    if "clips" not in rows[0]:
        pytest.skip("results.json is older than the tables: it has no clips")
    results = (FOLDER / "RESULTS.md").read_text(encoding="utf-8")
    assert summary.summarise(rows).strip() in results
