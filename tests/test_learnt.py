"""Learning from ordinary runs: what is kept, what is not, and what later runs plan from."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from learning import HEADER, observed
from toys import WAN, curved, noise, schedule

from sencache_core import CacheConfig, Off, Profile, ProfileError, Recorder
from sencache_core.forecast.completion import completed, fitted_to, surprises
from sencache_core.hosts import loop
from sencache_core.measure.learnt import MOST_RUNS, LearntProfile
from sencache_core.measure.learnt_store import LearntStore, default_folder
from sencache_core.measure.prior import prior_moments
from sencache_core.measure.profile import combine
from sencache_core.run.witness import MOST_OUTPUTS

#: Large enough that a sketch leaves something out.
SHAPE = (1, 4, 3, 40, 40)


def run(config, seed=0, sched=None, header=HEADER, model=None, shape=(1, 2, 3, 4), guidance=3.0):
    """One clip and its report."""
    sched = sched or schedule()
    session = config.start(WAN, sched, header)
    texts = {"cond": 0.4, "uncond": 0.0} if guidance else {"cond": 0.4}
    out = loop.sample(
        model or curved(), noise(*shape, seed=seed), sched, texts, guidance or 1.0, session
    )
    return out, session.report


def mask(report):
    return "".join("." if step.decision == "reused" else "C" for step in report.steps)


def only(store):
    ((_, learnt),) = store.listed()
    return learnt


@pytest.fixture
def store(tmp_path):
    return LearntStore(tmp_path / "learnt")


def test_a_run_teaches_what_a_recorder_measures(store):
    """Every round computed, whole outputs seen: the very inner products."""
    _, report = run(CacheConfig(learn=replace(store, full_first=True)))
    (learnt,) = only(store).runs
    recorder = Recorder.start(WAN, schedule(), guidance=3.0)
    loop.sample(
        curved(), noise(1, 2, 3, 4), schedule(), {"cond": 0.4, "uncond": 0.0}, 3.0, recorder
    )
    recording = recorder.recording()
    order = np.argsort(recording.visited)
    assert mask(report) == 20 * "C" and learnt.complete
    assert learnt.t == pytest.approx(np.array(recording.visited)[order])
    for name in ("gram", "lead"):
        expected = getattr(recording, name)[np.ix_(order, order)]
        np.testing.assert_allclose(getattr(learnt, name), expected, rtol=1e-5)


def test_sketches_tell_of_whole_outputs(store):
    """To within what clips differ by, at a twentieth of the memory."""
    config = CacheConfig(learn=store)
    _, report = run(config, shape=(1, 4, 6, 80, 80))
    _, whole = run(replace(config, learn=store.folder.with_name("b")), shape=(1, 4, 2, 24, 24))
    assert report.history_bytes < 1.3 * run(CacheConfig(), shape=(1, 4, 6, 80, 80))[1].history_bytes
    few, all_of = only(store).runs[0], only(LearntStore(store.folder.with_name("b"))).runs[0]
    np.testing.assert_allclose(np.diag(few.gram), np.diag(all_of.gram), rtol=0.05)
    assert mask(whole).count("C") == 10


def test_plans_rest_on_what_they_say(store):
    config = CacheConfig(learn=store)
    told = [run(config, seed)[1] for seed in range(3)]
    assert [report.basis for report in told] == ["prior", "learnt", "learnt"]
    assert [report.learnt_from for report in told] == [0, 1, 2]
    assert [report.evaluations for report in told] == [10, 10, 10]
    assert "The plan follows a generic prior" in told[0].texts[0]
    assert told[1].texts[0] == (
        "Predictions follow what 1 earlier run of this model showed, the plan a generic prior."
    )
    assert told[2].texts[0] == (
        "Predictions follow what 2 earlier runs of this model showed, the plan a generic prior."
    )
    first, later = (c.start(WAN, schedule(), HEADER).course.run for c in (CacheConfig(), config))
    assert later.moments is first.moments and later.rule != first.rule
    recorder = Recorder.start(WAN, schedule())
    loop.sample(curved(), noise(1, 2, 3, 4), schedule(), {"cond": 0.4}, 1.0, recorder)
    profile = combine([recorder.recording()], replace(HEADER, guidance=1.0))
    assert run(replace(config, profile=profile), guidance=None)[1].basis == "profile"


def test_what_is_learnt_helps(store):
    """On a model that the prior does not know, plans come nearer after three runs."""

    def error(config, seed):
        return float((run(config, seed, shape=SHAPE)[0] - plain[seed]).norm())

    plain = {s: run(CacheConfig(policy=Off(), budget=None), s, shape=SHAPE)[0] for s in range(3, 6)}
    before = [error(CacheConfig(aim="same"), seed) for seed in plain]
    for seed in range(3):
        run(CacheConfig(learn=store), seed, shape=SHAPE)
    after = [error(CacheConfig(learn=store, aim="same"), seed) for seed in plain]
    assert sum(after) < 0.8 * sum(before)


@pytest.mark.parametrize("how", ["interrupted", "failed", "off", "budget", "short", "unknown"])
def test_what_teaches_nothing(store, how):
    config, sched, header = CacheConfig(learn=store), schedule(), HEADER
    if how == "off":
        config = replace(config, policy=Off(), budget=None)
    elif how == "budget":
        config = replace(config, budget=1.0)
    elif how == "short":
        sched = schedule(6)
    elif how == "unknown":
        header = replace(HEADER, fingerprint="")
    if how in ("interrupted", "failed"):

        def broken(x, sigma, condition):
            if sigma < 0.5:
                raise KeyboardInterrupt if how == "interrupted" else RuntimeError
            return curved()(x, sigma, condition)

        with pytest.raises((KeyboardInterrupt, RuntimeError)):
            run(config, model=broken)
    else:
        run(config, sched=sched, header=header)
    assert not list(store.listed()) and not store.folder.exists()


def test_outputs_that_are_not_finite_teach_nothing(store):
    def broken(x, sigma, condition):
        return x * (torch.inf if sigma < 0.3 else 1.0)

    run(CacheConfig(learn=store), model=broken)
    assert not list(store.listed())


@pytest.mark.parametrize("guidance", [3.0, None])
def test_nothing_changes_but_plans(store, guidance):
    """Off, and in the first run: bit-identical; a run that is only watched is as it was."""
    plain, _ = run(CacheConfig(), guidance=guidance)
    first, report = run(CacheConfig(learn=store), guidance=guidance)
    off, _ = run(CacheConfig(learn=None), guidance=guidance)
    assert torch.equal(first, plain) and torch.equal(off, plain) and report.basis == "prior"
    uncached, _ = run(CacheConfig(policy=Off(), budget=None), guidance=guidance)
    other = LearntStore(store.folder.with_name("b"), full_first=True)
    full, report = run(CacheConfig(learn=other), guidance=guidance)
    assert torch.equal(full, uncached)
    assert any("computed in full, and seen in full" in message for message in report.texts)
    _, report = run(CacheConfig(learn=other), guidance=guidance)
    assert report.basis == "learnt" and report.evaluations == 10


def test_runs_that_differ_are_kept_apart(store):
    config = CacheConfig(learn=store)
    run(config)
    others = [
        {"header": replace(HEADER, fingerprint="f" * 16)},
        {"header": replace(HEADER, guidance=5.0)},
        {"sched": schedule(20, 3.0)},
        {"sched": schedule(24)},
    ]
    for other in others:
        assert run(config, **other)[1].basis == "prior", other
    assert run(config)[1].basis == "learnt"
    assert len(list(store.listed())) == 1 + len(others)


@pytest.mark.parametrize("count", [10, 25, 50, MOST_OUTPUTS])
def test_fifty_runs_keep_the_file_small(store, count):
    for number in range(50):
        learnt = store.add(HEADER, observed(count, seed=number))
    assert learnt.header.samples == only(store).header.samples == 50
    assert store.path(HEADER).stat().st_size < 200_000
    assert 1 <= len(learnt.runs) <= MOST_RUNS
    np.testing.assert_allclose(only(store).runs[-1].gram, observed(count, seed=49).gram, rtol=1e-5)


def test_complete_runs_stay_longest():
    learnt = LearntProfile(HEADER).with_run(observed(20, rounds=20))
    for number in range(2 * MOST_RUNS):
        learnt = learnt.with_run(observed(10, seed=number))
    assert learnt.runs[0].complete and len(learnt.runs) == MOST_RUNS


def test_concurrent_writers_lose_nothing(tmp_path):
    """Real processes on one folder."""
    code = """
import sys
from learning import HEADER, observed
from sencache_core.measure.learnt_store import LearntStore
store = LearntStore(sys.argv[1])
for number in range(8):
    store.add(HEADER, observed(8, seed=100 * int(sys.argv[2]) + number))
"""
    code = f"import sys; sys.path[:0] = {sys.path!r}\n{code}"
    command = [sys.executable, "-c", code, str(tmp_path)]
    workers = [subprocess.Popen([*command, str(number)]) for number in range(3)]
    assert [worker.wait(120) for worker in workers] == [0, 0, 0]
    learnt = only(LearntStore(tmp_path))
    assert learnt.header.samples == 24 and len(learnt.runs) == MOST_RUNS


@pytest.mark.parametrize("damage", ["cut", "noise", "other", "shape", "negative"])
def test_a_damaged_file_is_passed_over_and_said_once(store, damage):
    config = CacheConfig(learn=store)
    run(config)
    ((path, learnt),) = store.listed()
    data = path.read_bytes()
    if damage in ("cut", "noise"):
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"\x07" * 400)
    elif damage == "other":
        t = np.linspace(0.1, 1, 3)
        Profile(HEADER, t, {"alpha_x": t, "alpha_t": t}).save(path)
    else:
        only_run = learnt.runs[0]
        gram = only_run.gram[:-1, :-1] if damage == "shape" else -only_run.gram
        LearntProfile(learnt.header, (replace(only_run, gram=gram),)).save(path)
    _, report = run(config)
    said = [message for message in report.texts if "is lost, and learnt anew" in message]
    assert report.basis == "prior" and report.completed and len(said) == 1
    _, report = run(config)
    assert report.learnt_from == 1 and not any("lost" in m for m in report.texts)


def test_what_a_newer_version_wrote_is_left_alone(store, monkeypatch):
    config = CacheConfig(learn=store)
    monkeypatch.setattr("sencache_core.measure.learnt.FORMAT_VERSION", 2)
    run(config)
    ((path, _),) = store.listed()
    data = path.read_bytes()
    monkeypatch.setattr("sencache_core.measure.learnt.FORMAT_VERSION", 1)
    _, report = run(config)
    assert report.basis == "prior" and path.read_bytes() == data
    assert any("newer SenCache" in message for message in report.texts)


def test_a_folder_that_cannot_be_written_costs_no_clip(tmp_path):
    (tmp_path / "file").write_text("")
    _, report = run(CacheConfig(learn=tmp_path / "file" / "learnt"))
    assert report.completed
    assert any("Nothing was learnt from this run" in message for message in report.texts)


def test_removed_by_the_beginning_of_a_name(store):
    for scale in (3.0, 4.0):
        store.add(replace(HEADER, guidance=scale), observed(8))
    assert store.remove("ltx") == 0 and store.remove("wan-0123") == 2
    assert not list(store.listed())


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SENCACHE_LEARNT", "off")
    assert default_folder() is None
    monkeypatch.setenv("SENCACHE_LEARNT", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("SENCACHE_LEARNT")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "sencache" / "learnt"


def test_completion_keeps_what_was_measured():
    full, likely = observed(12).gram, observed(12, seed=1).gram
    places = [0, 1, 3, 6, 8, 11]
    seen = full[np.ix_(places, places)]
    out = completed(seen, places, likely)
    np.testing.assert_allclose(out[np.ix_(places, places)], seen)
    np.testing.assert_allclose(out, out.T)
    assert np.linalg.eigvalsh(out).min() > -1e-9 * np.trace(out)
    np.testing.assert_allclose(completed(full, range(12), likely), full)
    own = completed(seen, places, full)  # the model itself: the truth, but for what is far away
    assert np.abs(own - full).max() < 0.02 * full.max()


def test_the_prior_takes_the_size_of_what_was_seen():
    """Differences four times as large: found, and given to rounds nobody has seen."""
    likely = observed(16).gram
    sizes = np.diag(likely).mean()
    rough = 16 * (likely - sizes) + 40 * sizes
    places = [0, 2, 4, 5, 9, 12, 15]
    where, ratios = surprises(rough[np.ix_(places, places)], places, likely)
    assert list(where) == places[1:-1] and ratios == pytest.approx(np.log(16), rel=0.02)
    out = fitted_to(likely, [(rough[np.ix_(places, places)], places)])

    def steps(gram):
        return np.diag(gram)[1:] + np.diag(gram)[:-1] - 2 * np.diag(gram, 1)

    assert steps(out) == pytest.approx(16 * steps(likely), rel=0.1)


def test_learnt_moments_serve_a_plan_at_other_rounds_not_at_all():
    learnt = LearntProfile(HEADER, (observed(10),))
    prior = prior_moments("wan")
    assert learnt.moments(prior, [0.013, 0.29, 0.71]) is None
    moments = learnt.moments(prior, [*observed(10).t, 0.5, 0.5 + 1e-9])
    assert len(moments.t) == 11
    assert moments.gain_at(0.5) == pytest.approx(prior.gain_at(0.5))


def test_a_locked_folder_is_waited_for_and_then_left(store, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr("sencache_core.measure.learnt_store.PATIENCE", 0.05)
    store.folder.mkdir(parents=True)
    with FileLock(store.folder / ".lock"), pytest.raises(ProfileError, match="locked"):
        store.add(HEADER, observed(8))
