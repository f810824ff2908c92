"""MagCache: its ratios, its schedules, and what it says where there are none."""

from dataclasses import replace

import numpy as np
import pytest
from toys import WAN, cached_run, run_info, schedule

from sencache_core import FAMILIES, CacheConfig, Guards, Moments, Profile, Schedule
from sencache_core.measure import prior
from sencache_core.policies import MagCache
from sencache_core.policies.magcache import nearest, tables
from sencache_core.policies.presets import PRESETS


def mask(policy, guards, sched):
    """Computed steps, as decided: the policy is fed the rounds of a whole run."""
    report = cached_run(CacheConfig(policy, guards=guards, budget=None), sched)[1]
    return "".join("0" if step.decision == "reused" else "1" for step in report.steps)


#: Replays of the authors' scripts: threshold, skip limit, retention, steps, shift, schedule.
REPLAYS = [
    *(
        ("Wan 2.1 T2V 14B", threshold, longest, 0.2, 50, 5.0, wanted)
        for threshold, longest, wanted in (
            (0.12, 2, "11111111110010010010010010010010010010010010101011"),
            (0.12, 4, "11111111110000100001000010000100001000100100101011"),
            (0.24, 6, "11111111110000001000000100000010000010000100100101"),
        )
    ),
    ("Wan 2.1 I2V 14B 480p", 0.24, 6, 0.2, 40, 3.0, "1111111100000010000010000100001000100101"),
    ("Wan 2.1 I2V 14B 720p", 0.24, 6, 0.2, 40, 5.0, "1111111100000010000001000001000010010010"),
]


@pytest.mark.parity("magcache", "masks of the authors' scripts")
@pytest.mark.parametrize(
    ("model", "threshold", "longest", "ret", "steps", "shift", "want"), REPLAYS
)
def test_schedules_are_those_of_the_authors_scripts(
    model, threshold, longest, ret, steps, shift, want
):
    policy, guards = MagCache(threshold, model, ret), Guards(1, 0, longest)
    assert mask(policy, guards, schedule(steps, shift)) == want


def origins(ratios, threshold, longest, retained, carried):
    """The repository's loop over one branch; ``carried``: sums outlive the second start."""
    out, ratio, error, run = "", 1.0, 0.0, 0
    for number, gamma in enumerate(ratios):
        skip = False
        if not retained(number):
            ratio, run = ratio * gamma, run + 1
            error += abs(1 - ratio)
            skip = error < threshold and run <= longest
            if not skip:
                ratio, error, run = 1.0, 0.0, 0
        elif not carried:
            ratio, error, run = 1.0, 0.0, 0
        out += "0" if skip else "1"
    return out


def retained_t2v(k):
    return 2 * k < int(52 * 0.4) or 52 <= 2 * k <= 28 * 0.4 + 52


def test_two_experts_begin_with_computed_steps():
    """Wan 2.2. The scripts' sums outlive the second start; ours are dropped at every evaluation."""
    table, guards = tables()["Wan 2.2 T2V A14B"], Guards(1, 0, 2)
    as_printed = "1111111111001001001001001011111101010111"
    assert origins(table.cond, 0.06, 2, retained_t2v, True) == as_printed
    ours = mask(MagCache(0.06, "Wan 2.2 T2V A14B", 0.4), guards, schedule(40, 12.0))
    assert ours == origins(table.cond, 0.06, 2, retained_t2v, False)
    image = MagCache(0.06, "Wan 2.2 I2V A14B", 0.1)
    assert mask(image, guards, schedule(40, 5.0)) == "1111111111111111110010010010101010111111"
    assert mask(replace(image, branch="uncond"), guards, schedule(40, 5.0)).count("1") == 29


def test_ratios_for_other_numbers_of_steps_are_the_nearest():
    assert nearest([1, 2, 3, 4, 5], 3) == [1, 3, 5]
    assert nearest([1, 2, 3], 5) == [1, 1, 2, 3, 3]  # halves go to the even one
    assert nearest([1, 2, 3], 1) == [3]


def test_a_stage_takes_its_part_of_the_ratios():
    whole, policy = schedule(40, 12.0), MagCache(model="Wan 2.2 T2V A14B")
    published = tables()["Wan 2.2 T2V A14B"].cond
    parts = []
    for sigmas in (whole.sigmas[:27], whole.sigmas[26:]):
        parts += policy.start(run_info(Schedule(sigmas, "euler"))).ratios
    assert parts == list(published)


def test_measured_ratios_are_those_of_the_sizes():
    """An output that halves over the run: each ratio is that of neighbouring steps."""
    t = np.linspace(0, 1, 51)
    size = 0.5 + 0.5 * t
    run = replace(run_info(schedule(10, 1.0)), moments=Moments(t, np.outer(size, size)[None]))
    state = MagCache(model="measured", place="output").start(run)
    times = [1 - k / 10 for k in range(10)]
    wanted = [(1 + now) / (1 + before) for before, now in zip(times[:-1], times[1:], strict=True)]
    assert state.ratios == pytest.approx([1.0, *wanted])
    assert MagCache().start(run).ratios == nearest(tables()["Wan 2.1 T2V 14B"].cond, 10)


def test_a_connected_profile_of_the_stack_takes_the_place_of_the_table():
    profile = Profile.load(prior._FOLDER / "wan.safetensors")
    profile = replace(profile, header=replace(profile.header, tap="stack"))
    session = CacheConfig(MagCache(), profile=profile, budget=None).start(WAN, schedule(10))
    state = MagCache().start(session.course.run)
    sizes = np.sqrt(profile.moments.lead_at(state.times).diagonal())
    assert state.ratios == pytest.approx([1.0, *(sizes[1:] / sizes[:-1])])


@pytest.mark.parametrize(
    ("family", "policy", "why"),
    [
        ("ltx", MagCache(), "no ratios for the block stack of LTX-Video"),
        ("ltx2", MagCache(model="measured"), "no ratios for the block stack"),
        ("ltx", MagCache(place="output"), ""),
        ("cogvideox", MagCache(), ""),
        ("cogvideox", MagCache(model="Wan 2.1 T2V 14B"), "do not fit a model of CogVideoX"),
        ("wan", MagCache(model="Wan 2.1 T2V 14B", place="output"), "not of the output"),
    ],
)
def test_models_it_cannot_serve_are_told(family, policy, why):
    said = policy.misfit(replace(run_info(), family=FAMILIES[family]))
    assert (why in str(said)) and bool(said) == bool(why)


def test_presets_are_the_published_points():
    presets = {name: preset for name, preset in PRESETS.items() if "MagCache" in name}
    found = {n: (p.policy.threshold, p.guards.longest_run) for n, p in presets.items()}
    assert found["MagCache Wan 2.1 T2V 1.3B slow"] == (0.12, 2)
    assert found["MagCache Wan 2.2 I2V A14B"] == (0.06, 2)
    assert len(found) == len(tables()) + 1


@pytest.mark.parametrize("wrong", [{"threshold": -1}, {"model": "Wan 3"}, {"retention": 2}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w{3}"):
        MagCache(**wrong)
