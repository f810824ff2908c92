"""The run report, pinned by a golden file that the browser code's tests read too.

Run this file as a script to write the golden file anew after a deliberate change.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sencache_core import Message, RunReport, StepRecord, flow_sigmas
from sencache_core.policies.base import CONDITIONAL
from sencache_core.run.stats import decision_name
from sencache_core.types import ALL, FORCED, NONE, Decision, Reason

GOLDEN = Path(__file__).parent / "fixtures" / "run_report.json"


def golden_report() -> RunReport:
    """Ten steps: two forced at each end, then every kind of decision."""
    rows = [
        ("forced", Reason.FIRST, None, None, None),
        ("forced", Reason.WARMUP, None, None, 0.041),
        ("computed", Reason.OVER, 0.62, 0.49, 0.012),
        ("reused", Reason.WITHIN, 0.31, 0.49, None),
        ("computed", Reason.OVER, 0.58, 0.49, 0.0075),
        ("reused", Reason.WITHIN, 0.33, 0.49, None),
        ("reused", Reason.BUDGET_SPENT, 0.52, 0.49, None),
        ("forced", Reason.LONGEST_RUN, None, None, 0.0188),
        ("partial", Reason.SCHEDULED_PART, 0.44, None, 0.0203),
        ("forced", Reason.COOLDOWN, None, None, 0.0312),
    ]
    report = RunReport(
        family="wan",
        policy="sencache",
        rule="linear",
        tap="output",
        num_steps=10,
        budget=0.7,
        whole=10,
        rounds=10,
        calls=13,
        calls_saved=7,
        basis="profile",
        history_bytes=196608,
        messages=[Message.of("profile.sampler", measured="euler", used="uni_pc")],
        completed=True,
        ended=True,
    )
    sigmas = flow_sigmas(10, 5.0)
    for number, (decision, reason, score, limit, error) in enumerate(rows):
        cost = {"reused": 0.0, "partial": 0.5}.get(decision, 1.0)
        report.steps.append(
            StepRecord(
                ordinal=number,
                step=number,
                sigma=sigmas[number],
                t=sigmas[number],
                decision=decision,
                reason=reason.value,
                score=score,
                limit=limit,
                part="conditional branch" if decision == "partial" else "",
                error=error,
                calls=int(2 * cost),
                cost=cost,
                branches={"cond": 1.0, "uncond": 0.0} if decision == "partial" else {},
                seconds=0.0625 + 1.4375 * cost,
            )
        )
    return report


def test_golden_file():
    assert json.loads(GOLDEN.read_text()) == golden_report().to_dict()


def test_counts():
    report = golden_report()
    assert (report.evaluations, report.reused) == (7, 3)
    assert report.to_dict()["forced"] == 4
    assert (report.partial, report.cost) == (1, pytest.approx(0.65))
    assert report.seconds == 6 * 1.5 + 0.78125 + 3 * 0.0625
    assert report.saved_seconds() == pytest.approx(3 * (1.5 - 0.0625) + 1.5 - 0.78125)
    alone = "1 of them in part"
    assert f"7 of 10 steps computed ({alone}), 3 skipped" in str(report.summary())


def test_rounds_in_which_nobody_asked_are_no_part_of_the_cost():
    report = golden_report()
    report.steps += [replace(report.steps[0], decision="idle", calls=0, cost=0.0)] * 5
    assert (report.idle, report.cost) == (5, pytest.approx(0.65))
    assert "7 of 10 steps computed" in str(report.summary())


def test_saved_time_is_never_negative():
    report = golden_report()
    for record in report.steps:
        record.seconds = 2.0 if record.cost < 1 else 0.1
    assert report.saved_seconds() == 0.0


def test_json_has_no_infinity():
    report = golden_report()
    report.steps[0].sigma = float("inf")
    assert json.loads(report.to_json())["steps"][0]["sigma"] is None


def test_a_message_is_said_once_the_most_urgent_first():
    report = golden_report()
    for _ in range(2):
        report.say("learnt", count=2)
        report.say(Message.of("off.rising"))
    report.say("learnt", count=3)
    assert [m.key for m in report.messages] == ["off.rising", "profile.sampler", *["learnt"] * 2]
    assert [m["level"] for m in report.to_dict()["messages"]] == [
        "problem",
        "note",
        *["detail"] * 2,
    ]
    assert report.to_dict()["messages"][2]["text"] == report.texts[2]


@pytest.mark.parametrize("reason", Reason)
def test_decision_names(reason):
    assert decision_name(Decision(NONE, reason)) == "reused"
    assert decision_name(Decision(CONDITIONAL, reason)) == "partial"
    assert decision_name(Decision(ALL, reason)) == ("forced" if reason in FORCED else "computed")


def why(*reasons: Reason, scores=()) -> str:
    report = RunReport("wan", "sencache", "linear", "output", 10)
    for number, reason in enumerate(reasons):
        score, limit = scores[number] if scores else (None, None)
        name = decision_name(Decision(ALL, reason))
        report.steps.append(
            StepRecord(number, number, 0.5, 0.5, name, reason.value, score, limit, calls=1)
        )
    said = report.why_nothing_was_reused()
    assert report.to_dict()["why"] == (said and said.to_dict())
    return str(said)


def test_why_names_the_closest_score():
    text = why(Reason.OVER, Reason.OVER, scores=[(0.9, 0.1), (0.31, 0.1)])
    assert "0.31 against 0.1" in text
    assert "step 1" in text


def test_why_off():
    assert "off" in why(Reason.FIRST, Reason.OFF, Reason.OFF, Reason.COOLDOWN)
    assert "had to" not in why(Reason.FIRST, Reason.OFF, Reason.OFF, Reason.COOLDOWN)


def test_a_cause_that_was_told_is_the_reason():
    report = golden_report()
    off = {"decision": "computed", "reason": "caching is off", "score": None}
    report.steps = [replace(record, **off) for record in report.steps]
    report.say("off.rising")
    report.say_what_it_came_to(None, 10, False)
    assert report.why_nothing_was_reused() == report.messages[0] == Message.of("off.rising")
    assert len(report.messages) == 2


def test_why_guards():
    text = why(Reason.FIRST, Reason.WINDOW, Reason.WINDOW, Reason.COOLDOWN)
    assert "had to be computed" in text
    assert "outside start/end" in text


def test_why_schedule():
    text = why(Reason.FIRST, Reason.SCHEDULED_COMPUTE, Reason.COOLDOWN)
    assert "had to" not in text
    assert "computed by plan" in text


def test_why_is_silent_when_something_was_reused():
    assert golden_report().why_nothing_was_reused() is None
    assert RunReport("wan", "off", "hold", "output", 5).why_nothing_was_reused() is None


if __name__ == "__main__":
    GOLDEN.write_text(golden_report().to_json(indent=2) + "\n")
