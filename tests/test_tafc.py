"""TAFC: its gate, its controller and its line, step by step beside the origin's loop."""

import math
from statistics import median

import pytest
import torch
from toys import COND, WAN, observe, predict, run_info, schedule

from sencache_core import CacheConfig, Guards
from sencache_core.forecast.reuse import Tangent
from sencache_core.policies.presets import PRESETS
from sencache_core.policies.tafc import Tafc
from sencache_core.types import Anchor, Reason, Step


def payload(t, bend=3.0):
    """``[1, 6]`` on a course that turns and speeds up, about evenly over steps at shift 5."""
    k, u = torch.arange(1.0, 7.0), t / (5 - 4 * t)
    return (2 + torch.sin(bend * u * k / 3) + 0.5 * u**2 * k / 6)[None]


def sampled(policy, guards, sched, bend=3.0):
    """Report of a run over payloads that are given, and what each round was answered with."""
    config = CacheConfig(policy, guards=guards, budget=None, hindsight=False)
    session = config.start(WAN, sched)
    answers = []
    for sigma in sched.sigmas[:-1]:
        session.begin((torch.full((1, 6), sigma),), sigma)
        found = predict(session, (COND,), (1, 6))
        if found is None:
            found = payload(sigma, bend)
            observe(session, (COND,), found)
        answers.append(found)
    return session.finish(True), answers


class Origin:
    """The repository's loop over one branch, with its constants: gate, forecast and controller."""

    def __init__(self, threshold, steps):
        self.threshold, self.steps = threshold, steps
        self.new = self.old = self.velocity = self.t = self.last = None
        self.run, self.log_gain, self.integral, self.off = 0, 0.0, 0.0, None
        self.expected, self.measured = [], []
        self.bent = None, -1
        self.growth = 0.0

    def wants(self, number, t):
        curvature = 0.01
        if self.old is not None:
            one, two = self.old.norm(), self.new.norm()
            cosine = (self.old * self.new).sum() / (one * two)
            curvature = float((two - one).abs() / one + 2 * (1 - cosine))
        if self.bent[1] != self.last:
            if self.bent[0] is not None:
                self.growth = (curvature - self.bent[0]) / self.bent[0] / (self.last - self.bent[1])
            self.bent = curvature, self.last
        loose = math.exp(self.log_gain) * max(0.3, 1 / (1 + 2 * max(0, self.growth)))
        share = number / (self.steps - 1)
        if self.velocity is None:
            return True
        ahead = self.velocity.abs().mean() * (self.t - t) / self.new.abs().mean()
        return bool(
            ahead > median(self.expected) * 3 * loose
            or curvature >= self.threshold * (0.7 + 1.3 * share) * loose
            or self.run >= 1 + 6 * share
        )

    def made(self, t):
        return self.new + self.velocity * (self.t - t)

    def learn(self, number, t, now, forced):
        if self.velocity is not None:
            error = float((now - self.made(t)).abs().mean() / now.abs().mean())
            if forced and number - self.last == 1:
                way = self.velocity.abs().mean() * (self.t - t)
                self.expected.append(float(way / self.new.abs().mean()))
                self.measured.append(error)
            elif number - self.last > 1:
                off = math.log(2.5 * median(self.measured) / error)
                turn = 0.0 if self.off is None else off - self.off
                whole = self.integral + off
                wanted = self.log_gain + 0.4 * off + 0.05 * whole + 0.2 * turn
                self.log_gain = min(max(wanted, math.log(0.3)), math.log(3))
                if wanted == self.log_gain:
                    self.integral = min(max(whole, -2), 2)
                self.off = off
        if self.new is not None:
            self.velocity = (now - self.new) / (self.t - t)
        self.old, self.new, self.t, self.last, self.run = self.new, now, t, number, 0


def origins_run(threshold, sched, bend, first=1):
    steps = len(sched.sigmas) - 1
    one, mask, answers = Origin(threshold, steps), [], []
    for number, t in enumerate(sched.sigmas[:-1]):
        calibrates = not one.expected and number < 3
        forced = number < first or number == steps - 1 or calibrates
        compute = forced or one.wants(number, t)
        if compute:
            answers.append(payload(t, bend))
            one.learn(number, t, answers[-1], forced)
        else:
            one.run += 1
            answers.append(one.made(t))
        mask.append(compute)
    return mask, answers


@pytest.mark.parity("tafc", "the authors' loop, written down")
@pytest.mark.parametrize(
    ("bend", "threshold", "shift", "first", "reused"),
    [
        (0.3, 0.03, 3.0, 1, 24),
        (0.3, 0.15, 3.0, 5, 26),
        (0.3, 0.15, 5.0, 1, 16),
        (1.0, 0.15, 3.0, 1, 10),
        (3.0, 0.03, 3.0, 1, 26),
        (3.0, 0.5, 3.0, 1, 31),
        (3.0, 0.15, 5.0, 5, 16),
        (6.0, 0.03, 3.0, 1, 22),
        (6.0, 0.5, 5.0, 1, 11),
    ],
)
def test_decisions_and_forecasts_are_the_origins(bend, threshold, shift, first, reused):
    sched = schedule(50, shift)
    policy = Tafc(threshold, place="output")
    report, answers = sampled(policy, Guards(first, 1, 10_000), sched, bend)
    mask, expected = origins_run(threshold, sched, bend, first)
    assert [step.decision != "reused" for step in report.steps] == mask
    assert report.reused == reused and not report.texts
    for found, truth in zip(answers, expected, strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-4)


def rounds(policy, sizes, times, ordinals=None):
    """State after payloads of these sizes along one direction."""
    state, x = policy.start(run_info()), (torch.zeros(1, 4),)
    for number, (size, t) in enumerate(zip(sizes, times, strict=True)):
        ordinal = number if ordinals is None else ordinals[number]
        output = torch.full((1, 4), size)
        now = Step(x, 0.1, t, t, ordinal, 20, ordinal, output=output)
        state = policy.observe(now, state)
    return state, now


def test_what_three_payloads_show():
    """1.0, 1.1, 1.3 at 1.0, 0.9, 0.8: 2/11 longer; a line from the first two errs by 0.1."""
    state, last = rounds(Tafc(), [1.0, 1.1, 1.3], [1.0, 0.9, 0.8])
    assert state.curvature == pytest.approx(0.2 / 1.1, rel=1e-4)
    assert state.slope == pytest.approx(0.2 / 1.3 / 0.1, rel=1e-4)
    assert state.before_errors == (pytest.approx(0.1 / 1.1, rel=1e-4),)
    assert state.after_errors == (pytest.approx(0.1 / 1.3, rel=1e-4),)
    now = Step(last.x, 0.1, 0.7, 0.7, 3, 20, 3)
    share = 3 / 19
    turned, gone = 0.2 / 1.1 / (0.7 + 1.3 * share), 0.2 / 1.3 / (3 * 0.1 / 1.1)
    policy = Tafc(0.4)
    assert policy.score(now, last, state) == pytest.approx(max(turned, 0.4 * gone), rel=1e-3)
    later = Step(last.x, 0.1, 0.1, 0.1, 9, 20, 9, streak=6)
    assert policy.score(later, last, state) == pytest.approx(0.4 * 7 * gone, rel=1e-3)
    assert policy.expected(last.t, 0.7, state) > 0


def test_the_run_of_reuse_has_a_cap_that_grows():
    """Of a course that hardly bends: 1 + 6 s in a row, and so 1 at the start and 6 near the end."""
    sched = schedule(50, 1.0)
    report, _ = sampled(Tafc(0.5, place="output"), Guards(1, 0, 10_000), sched, bend=0.0)
    longest, run = [], 0
    for step in report.steps[3:]:
        run = run + 1 if step.decision == "reused" else 0
        longest.append(run)
        assert run <= math.ceil(1 + 6 * step.ordinal / 49)
    assert max(longest) >= 5


def test_an_error_that_is_too_large_makes_it_stricter():
    """Off by e times what is tolerated: the gain's logarithm falls by 0.4 + 0.05."""
    policy = Tafc()
    state, _ = rounds(policy, [1.0, 1.1, 1.3], [1.0, 0.9, 0.8])
    tolerated = 2.5 * state.after_errors[0]
    policy._control(tolerated * math.e, state)
    assert state.log_gain == pytest.approx(-0.45)
    policy._control(tolerated, state)  # on aim: the integral stays, the fall is over
    assert state.log_gain == pytest.approx(-0.45 + 0.05 * -1 + 0.2 * 1)
    for _ in range(9):
        policy._control(tolerated * 100, state)
    assert state.log_gain == pytest.approx(math.log(0.3))


def test_the_line_goes_on_where_others_hold():
    anchors = [Anchor(0.9, torch.tensor([[1.0]])), Anchor(0.89, torch.tensor([[1.1]]))]
    assert float(Tangent().predict(0.79, anchors)) == pytest.approx(2.1)
    assert float(Tangent().predict(0.0, anchors)) == pytest.approx(1.1)  # beyond 20 times: held


def test_the_first_three_are_computed_whatever_the_guards():
    report, _ = sampled(Tafc(3.0, place="output"), Guards(1, 0, 99), schedule(20))
    assert [step.decision for step in report.steps[:3]] == ["forced", "computed", "computed"]
    assert report.steps[1].reason == Reason.OVER.value


def test_presets_are_the_published_points():
    found = {n: (p.policy.threshold, p.guards) for n, p in PRESETS.items() if "TAFC" in n}
    guards = Guards(1, 1, 10_000)
    assert found == {"TAFC Wan 2.1 slow": (0.03, guards), "TAFC Wan 2.1 fast": (0.15, guards)}


@pytest.mark.parametrize("wrong", [{"threshold": -1}, {"place": "blocks"}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w{3}"):
        Tafc(**wrong)
