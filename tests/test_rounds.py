"""The log of a run's rounds: what each cost, how long it took, what it came to be."""

import pytest

from sencache_core import Branch, RunReport, StepRecord
from sencache_core.run.rounds import RoundLog
from sencache_core.types import ALL, NONE, Decision, Only, Reason

COND, UNCOND = Branch("cond"), Branch("uncond")


def log_of(*times):
    ticks = iter(times)
    return RoundLog(RunReport("wan", "planned", "fitted", "output", 3), lambda: next(ticks))


def opened(log, decision):
    log.tick()
    number = len(log.report.steps)
    log.open(StepRecord(number, number, 0.5, 0.5, decision, "why", score=0.1, limit=0.2))


def test_times_are_those_of_their_round():
    log = log_of(10.0, 12.5, 13.0, 16.0)
    for decision, share in (("computed", 1.0), ("reused", 0.0), ("computed", 1.0)):
        opened(log, decision)
        log.called((COND,), share)
        log.close()
    log.finish(True)
    assert [record.seconds for record in log.report.steps] == [2.5, 0.5, 3.0]
    assert log.report.seconds == 6.0
    assert log.report.saved_seconds() == 2.5


def test_cost_is_the_share_of_block_work():
    log = log_of(*range(5))
    opened(log, "partial")
    log.called((COND, UNCOND), 0.25)
    log.called((COND,), 1.0)
    assert log.asked and log.spared
    log.close()
    assert log.record.cost == pytest.approx((2 * 0.25 + 1) / 3)
    assert (log.report.calls, log.report.calls_saved, log.record.calls) == (2, 0, 2)
    opened(log, "reused")
    log.called((COND, UNCOND), 0.0)
    log.close()
    assert log.record.cost == 0.0
    assert (log.report.calls, log.report.calls_saved, log.record.calls) == (2, 1, 0)


def test_branches_are_told_where_they_differ():
    log = log_of(*range(4))
    opened(log, "partial")
    log.called((COND, Branch("cond", "second window")), 1.0)
    log.called((UNCOND,), 0.0)
    log.close()
    assert log.record.branches == {"cond": 1.0, "cond 2": 1.0, "uncond": 0.0}
    opened(log, "reused")
    log.called((COND, UNCOND), 0.0)
    log.close()
    assert log.record.branches == {}


@pytest.mark.parametrize("decision", ["computed", "reused", "partial"])
def test_a_round_without_a_call_is_idle(decision):
    log = log_of(*range(3))
    opened(log, decision)
    log.close()
    record = log.record
    assert (record.decision, record.reason, record.cost) == ("idle", Reason.IDLE.value, 0.0)
    assert record.score is None and record.limit is None
    assert (log.report.idle, log.report.evaluations, log.report.reused) == (1, 0, 0)


@pytest.mark.parametrize("completed", [False, True])
def test_a_round_that_an_interrupt_cut_short_is_none(completed):
    log = log_of(*range(5))
    opened(log, "computed")
    log.called((COND,), 1.0)
    log.close()
    opened(log, "computed")
    log.close()
    log.finish(completed)
    assert len(log.report.steps) == 1 + completed


PART = Only("conditional branch", lambda key: True)


@pytest.mark.parametrize(
    ("compute", "share", "in_pairs", "decision", "said"),
    [
        (NONE, 0.0, False, "reused", None),
        (NONE, 1.0, False, "forced", None),
        (PART, 0.5, True, "partial", None),
        (PART, 1.0, True, "forced", "no pair"),
        (PART, 1.0, False, "forced", "no places"),
    ],
)
def test_what_could_not_be_spared_makes_a_full_round(compute, share, in_pairs, decision, said):
    log = log_of(*range(3))
    wanted = Decision(compute, Reason.WITHIN)
    opened(log, "reused" if compute is NONE else "partial")
    log.called((COND,), share)
    found = log.came_to(wanted, in_pairs)
    assert (found == wanted) == (decision != "forced") and log.record.decision == decision
    assert (found.compute is ALL) == (decision == "forced")
    assert [said in message for message in log.report.texts] == ([True] if said else [])
