"""Pictures of the command line: what is drawn of a run."""

import pytest
from toys import cached_run, schedule

from sencache_core import CacheConfig, SenCache
from sencache_core.app import plots

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def drawn(config, tmp_path, monkeypatch):
    """Report of a run and the curves of its plot by label."""
    figures, make = [], plots._figure
    monkeypatch.setattr(plots, "_figure", lambda *size: figures.append(make(*size)) or figures[0])
    report = cached_run(config, schedule(20))[1]
    plots.stats_plot(report, tmp_path / "stats.png")
    assert (tmp_path / "stats.png").stat().st_size > 1000
    return report, {line.get_label(): line for line in figures[0].axes[1].get_lines()}


def test_a_plan_shows_the_error_it_expects(tmp_path, monkeypatch):
    report, curves = drawn(CacheConfig(), tmp_path, monkeypatch)
    scored = [step for step in report.steps if step.score is not None]
    assert len(scored) > 10
    assert "limit" not in curves and "score" not in curves
    assert list(curves["expected error of a prediction"].get_xdata()) == [
        step.ordinal + 1 for step in scored
    ]
    assert list(curves["expected error of a prediction"].get_ydata()) == [
        step.score for step in scored
    ]


def test_a_score_shows_its_limit(tmp_path, monkeypatch):
    report, curves = drawn(CacheConfig(policy=SenCache()), tmp_path, monkeypatch)
    limits = [step.limit for step in report.steps if step.limit is not None]
    assert limits
    assert list(curves["limit"].get_ydata()) == limits
    assert {"score", "limit"} <= curves.keys() and "expected error of a prediction" not in curves
