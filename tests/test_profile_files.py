"""Profile files: what goes in comes out; anything else is refused in plain words."""

import json
import math
import os
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from profiles import HEADER, MEAN, T, moments
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

from sencache_core import (
    FAMILIES,
    CacheConfig,
    Planned,
    Profile,
    ProfileError,
    ProfileHeader,
    Schedule,
    SenCache,
    flow_sigmas,
)
from sencache_core.hosts.loop import sample
from sencache_core.measure.profile import FORMAT_VERSION
from sencache_core.measure.profile_file import check_writable


def test_curves_that_this_version_does_not_know_are_passed_over(tmp_path):
    profile = Profile(HEADER, T, MEAN, {"alpha_x": np.ones(3)})
    profile.save(tmp_path / "profile.safetensors")
    arrays = load_file(tmp_path / "profile.safetensors")
    with safe_open(tmp_path / "profile.safetensors", framework="numpy") as file:
        header = file.metadata()
    names = ("mean.error_hold", "spread.error_hold", "moments.skew", "blocks.0")
    arrays = {k: torch.from_numpy(v) for k, v in arrays.items()}
    arrays |= {name: torch.ones(3, 4).to(torch.float8_e4m3fn) for name in names}
    save_torch(arrays, tmp_path / "more.safetensors", metadata=header)
    loaded = Profile.load(tmp_path / "more.safetensors")
    assert loaded.mean.keys() == MEAN.keys()
    assert loaded.spread.keys() == {"alpha_x"}
    assert loaded.moments is None and loaded.header == HEADER


WHOLE = {"t": T, "mean.alpha_x": T, "mean.alpha_t": T}


def write(path, header, arrays=WHOLE):
    if not isinstance(header, str):
        header = json.dumps(header)
    save_file(
        {k: np.asarray(v) for k, v in arrays.items()},
        str(path),
        {"sencache_profile": header},
    )


GOOD = {"format": FORMAT_VERSION, "family": "wan", "sigmas": [], "shape": []}


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("{", "cannot be used: Expecting property name"),
        ("[]", "not a JSON object"),
        ('"wan"', "not a JSON object"),
        ("[" * 100_000, "cannot be used: its header is nested too deeply"),
        ({**GOOD, "format": FORMAT_VERSION + 1}, "update"),
        ({**GOOD, "format": 10**400}, "update"),
        ({**GOOD, "format": 0}, "format as a number"),
        ({**GOOD, "format": "x"}, "format as a number"),
        ({**GOOD, "format": True}, "format as a number"),
        ({k: v for k, v in GOOD.items() if k != "format"}, "format as a number"),
        ({**GOOD, "family": ["wan"]}, "'family' in its header must be a text"),
        ({**GOOD, "family": "mochi"}, "does not know"),
        ({**GOOD, "family": ""}, "does not know"),
        ({k: v for k, v in GOOD.items() if k != "family"}, "model family"),
        ({**GOOD, "sampler": 5}, "'sampler' in its header must be a text, not 5"),
        ({**GOOD, "source": "\ud800"}, "'source' in its header must be a text"),
        ({**GOOD, "sigmas": None}, "'sigmas' in its header must be a list of numbers"),
        ({**GOOD, "sigmas": "1.0"}, "'sigmas' in its header"),
        ({**GOOD, "sigmas": [1.0, None]}, "'sigmas' in its header"),
        ({**GOOD, "sigmas": [math.nan]}, "'sigmas' in its header"),
        ({**GOOD, "sigmas": [math.inf]}, "'sigmas' in its header"),
        ({**GOOD, "sigmas": [-1.0]}, "'sigmas' in its header"),
        ({**GOOD, "sigmas": [10**400]}, "'sigmas' in its header"),
        ({**GOOD, "shape": [1.5]}, "'shape' in its header must be a list of whole numbers"),
        ({**GOOD, "shape": {"a": 1}}, "'shape' in its header"),
        ({**GOOD, "guidance": "5"}, "'guidance' in its header must be a number"),
        ({**GOOD, "guidance": [5.0]}, "'guidance' in its header"),
        ({**GOOD, "samples": 1.5}, "'samples' in its header must be a whole number"),
        ({**GOOD, "samples": -1}, "'samples' in its header"),
        ({**GOOD, "tap": None}, "'tap' in its header"),
    ],
)
def test_damaged_headers_are_refused(tmp_path, header, words):
    write(tmp_path / "p.safetensors", header)
    with pytest.raises(ProfileError, match=words):
        Profile.load(tmp_path / "p.safetensors")


def test_header_keys_of_a_newer_version_are_passed_over(tmp_path):
    write(tmp_path / "p.safetensors", {**GOOD, "colour": {"deep": [1, math.nan]}, "mean": 3})
    assert Profile.load(tmp_path / "p.safetensors").header == ProfileHeader("wan")


def changed(name, place, value):
    arrays = moments()
    array = arrays[name].copy()
    array[place] = value
    return {**arrays, name: array}


LACKS = r"it lacks the array 'moments\.{}'\. Calibrate again, or choose another profile$"


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({**moments(), "gram": np.empty((0, 3, 3))}, "no sample"),
        ({**moments(), "gain": np.empty((0, 3)), "response": np.empty((0, 3))}, "no sample"),
        ({k: v for k, v in moments().items() if k != "t"}, LACKS.format("t")),
        ({k: v for k, v in moments().items() if k != "gram"}, LACKS.format("gram")),
        ({k: v for k, v in moments().items() if k != "gain"}, "together"),
        ({**moments(), "gram": np.ones((2, 3))}, "matrices of that size"),
        ({**moments(), "lead": np.ones((2, 2))}, "matrices of that size"),
        (changed("gram", (0, 1, 1), np.nan), "finite"),
        (changed("gram", (0, 1, 1), -1.0), "'gram' is not one of inner products"),
        (changed("gram", (0, 1, 2), 0.0), "'gram' is not one of inner products"),
        (changed("lead", (1, 1), 0.0), "'lead' is not one of inner products"),
        (changed("gap", (slice(None), slice(None)), 1e300), "'gap' is not one of inner products"),
        ({**moments(), "gap": 1 - 2 * np.eye(3)}, "'gap' is not one of inner products"),
        ({**moments(), "lead": np.eye(3) - 0.9 * (1 - np.eye(3))}, "'lead' is not one of inner"),
        (changed("gain", (1, 1), 1e300), "terminal gains"),
        (changed("gain", (1, 1), -1.0), "terminal gains"),
        (changed("response", (1, 1), -1e300), "responses"),
        (changed("t", 1, 0.2), "rising"),
    ],
)
def test_damaged_moments_are_refused(tmp_path, arrays, words):
    path = tmp_path / "p.safetensors"
    write(path, GOOD, {**WHOLE, **{f"moments.{k}": v for k, v in moments().items()}})
    assert Profile.load(path).moments.gram.shape == (2, 3, 3)
    write(path, GOOD, {**WHOLE, **{f"moments.{k}": v for k, v in arrays.items()}})
    with pytest.raises(ProfileError, match=f"cannot be used: .*{words}"):
        Profile.load(path)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "bfloat16", "int64", "bool"])
def test_arrays_of_another_kind_are_refused(tmp_path, dtype):
    path = tmp_path / "p.safetensors"
    arrays = {
        "t": torch.from_numpy(T),
        "mean.alpha_x": torch.ones(3),
        "mean.alpha_t": torch.ones(3),
    }
    arrays["mean.alpha_t"] = arrays["mean.alpha_t"].to(getattr(torch, dtype))
    save_torch(arrays, path, {"sencache_profile": json.dumps(GOOD)})
    with pytest.raises(ProfileError, match=r"'mean\.alpha_t' holds .* values, not float64"):
        Profile.load(path)


SENSIBLE = st.one_of(
    st.integers(-3, 99), st.floats(), st.text(max_size=5), st.booleans(), st.none()
)


JSON = st.recursive(
    SENSIBLE,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


NUMBERS = st.floats(width=64) | st.floats(0, 5)


@st.composite
def damaged_files(draw):
    """Header and arrays of a profile with anything in some places, of any size."""
    header = {**GOOD, "samples": 2, "sampler": "euler", "sigmas": [1.0, 0.5], "guidance": 4.0}
    for key in draw(st.lists(st.sampled_from(sorted(header)), max_size=1)):
        header[key] = draw(JSON)
    arrays = {"t": T, "mean.alpha_x": 2 / T, "mean.alpha_t": 3 / T}
    if draw(st.booleans()):
        arrays |= {f"moments.{k}": v for k, v in moments(draw(st.integers(0, 9))).items()}
    for key in draw(st.lists(st.sampled_from(sorted(arrays)), max_size=2, unique=True)):
        kind = draw(st.sampled_from(["gone", "scaled", "entries", "anything"]))
        array = arrays.pop(key).copy() if key in arrays else T.copy()
        if kind == "scaled":
            with np.errstate(over="ignore"):
                arrays[key] = array * draw(
                    st.sampled_from([-1, 0, 1e-300, 1e-6, 3, 1e3, 1e5, 1e11, 1e300])
                )
        elif kind == "entries":
            for _ in range(draw(st.integers(1, 3))):
                array.flat[draw(st.integers(0, array.size - 1))] = draw(NUMBERS)
            arrays[key] = array
        elif kind == "anything":
            shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
            arrays[key] = draw(hnp.arrays(np.float64, shape, elements=NUMBERS))
    return header, arrays


def numbers(profile):
    """Every number that a profile holds."""
    header = profile.header
    yield from (header.sigmas, header.shape, header.guidance, header.samples, profile.t)
    yield from (*profile.mean.values(), *profile.spread.values())
    if profile.moments is not None:
        kept = vars(profile.moments).items()
        yield from (value for name, value in kept if value is not None and name[0] != "_")


@given(damaged_files(), st.sampled_from([Planned(), SenCache()]))
@settings(max_examples=200)
def test_a_file_is_refused_in_words_or_gives_finite_latents(tmp_path_factory, found, policy):
    path = tmp_path_factory.mktemp("damaged") / "p.safetensors"
    write(path, *found)
    try:
        profile = Profile.load(path)
    except ProfileError as error:
        assert str(path) in str(error) and len(str(error)) < len(str(path)) + 300
        return
    assert all(np.isfinite(values).all() for values in numbers(profile))
    family = FAMILIES[profile.header.family]
    schedule = Schedule(flow_sigmas(12, 3.0), "euler")
    profile = replace(profile, header=replace(profile.header, tap="output"))
    session = CacheConfig(policy, budget=0.5, profile=profile).start(family, schedule)
    noise = torch.randn(1, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    conditions = {"cond": 1.0, "uncond": 0.0}
    latent = sample(answer, noise, schedule, conditions, guidance=3.0, runner=session)
    assert latent.isfinite().all() and session.report.evaluations == 6
    assert all(math.isfinite(step.error) for step in session.report.steps if step.error is not None)


def answer(x, sigma, condition):
    return (x - torch.tanh(2 * x + condition)) / max(sigma, 0.05)


def test_a_file_without_times_is_refused(tmp_path):
    write(tmp_path / "p.safetensors", GOOD, {"mean.alpha_x": T})
    with pytest.raises(ProfileError, match="no times"):
        Profile.load(tmp_path / "p.safetensors")


def link(path, target):
    path.symlink_to(target)
    return path


def test_what_is_no_readable_file_is_refused(tmp_path):
    """A pipe would keep the reader waiting for ever."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    (tmp_path / "short").write_bytes(b"\xff\xff")
    (tmp_path / "header").write_bytes(b"\xff" * 8 + b"{}")
    (tmp_path / "deep").write_bytes((100_000).to_bytes(8, "little") + b"[" * 100_000)
    Profile(HEADER, T, MEAN).save(tmp_path / "huge")
    with open(tmp_path / "huge", "r+b") as file:
        file.truncate((1 << 32) + 1)
    loop = link(tmp_path / "loop", tmp_path / "loop")
    dangling = link(tmp_path / "dangling", tmp_path / "none")
    names = ("pipe", "empty", "short", "header", "deep", "huge", "n" * 300, "nu\0l", "")
    for path in (loop, dangling, "/dev/zero", *(tmp_path / name for name in names)):
        with pytest.raises(ProfileError, match="cannot read the profile"):
            Profile.load(path)


def test_a_link_is_read_and_written_through(tmp_path):
    (tmp_path / "far").mkdir()
    Profile(HEADER, T, MEAN).save(tmp_path / "far" / "p.safetensors")
    path = link(tmp_path / "link", tmp_path / "far" / "p.safetensors")
    Profile(replace(HEADER, samples=7), T, MEAN).save(path)
    assert path.is_symlink()
    assert Profile.load(tmp_path / "far" / "p.safetensors").header.samples == 7


@pytest.mark.parametrize("attempt", [Profile(HEADER, T, MEAN).save, check_writable])
def test_a_place_that_cannot_be_written_to_is_named(tmp_path, attempt):
    (tmp_path / "file").write_text("kept")
    os.mkfifo(tmp_path / "pipe")
    bad = ["none/p", "file/p", "", "pipe", "n" * 300, "nu\0l", "loop"]
    link(tmp_path / "loop", tmp_path / "loop")
    before = sorted(tmp_path.iterdir())
    for path in ("/dev/full", "/proc/none/p", *(tmp_path / name for name in bad)):
        with pytest.raises(ProfileError, match=r"cannot write the profile .* choose another"):
            attempt(path)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "file").read_text() == "kept"


def test_a_trial_leaves_nothing_behind_and_nothing_changed(tmp_path):
    path = tmp_path / "p.safetensors"
    check_writable(path)
    assert not list(tmp_path.iterdir())
    path.write_text("kept")
    check_writable(path)
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "kept"


def test_a_full_disk_keeps_the_old_file(tmp_path):
    """A limit on the size of files stands for the disk: the same error at the same call."""
    import resource
    import signal

    path = tmp_path / "p.safetensors"
    Profile(HEADER, T, MEAN).save(path)
    longer = np.linspace(0.1, 1, 4000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, limits[1]))
        with pytest.raises(ProfileError, match=r"cannot write the profile .*free some space"):
            Profile(HEADER, longer, {"alpha_x": longer, "alpha_t": longer}).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert list(tmp_path.iterdir()) == [path]
    assert Profile.load(path).header == HEADER


def test_a_profile_that_is_replaced_while_it_is_read_is_the_old_one_or_the_new(tmp_path):
    path = tmp_path / "p.safetensors"
    count = 2000
    versions = {n: np.full(count, float(n)) for n in (1, 2)}
    t, done = np.linspace(0, 1, count), threading.Event()

    def put(n):
        curves = {"alpha_x": versions[n], "alpha_t": versions[n]}
        Profile(replace(HEADER, samples=n), t, curves).save(path)

    def keep_replacing():
        for n in (2, 1) * 30:
            put(n)
        done.set()

    put(1)
    writer = threading.Thread(target=keep_replacing)
    writer.start()
    while not done.is_set():
        found = Profile.load(path)
        for curve in found.mean.values():
            assert (curve == found.header.samples).all()
    writer.join()
    assert list(tmp_path.iterdir()) == [path]


def test_missing_foreign_and_cut_files_are_refused(tmp_path):
    with pytest.raises(ProfileError, match="cannot read"):
        Profile.load(tmp_path / "none.safetensors")
    with pytest.raises(ProfileError, match="cannot read"):
        Profile.load(tmp_path)
    text = tmp_path / "text.safetensors"
    text.write_text("not a profile")
    with pytest.raises(ProfileError, match="cannot read"):
        Profile.load(text)
    foreign = tmp_path / "model.safetensors"
    save_file({"weight": T}, str(foreign))
    with pytest.raises(ProfileError, match="not a SenCache profile"):
        Profile.load(foreign)
    Profile(HEADER, T, MEAN).save(tmp_path / "whole.safetensors")
    data = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-16])
    with pytest.raises(ProfileError, match="cannot read"):
        Profile.load(tmp_path / "cut.safetensors")


def test_a_checkpoint_picked_by_mistake_is_not_read(tmp_path):
    """Not even one of bfloat16, which numpy does not know."""
    save_torch({"weight": torch.ones(3, dtype=torch.bfloat16)}, tmp_path / "m.safetensors")
    with pytest.raises(ProfileError, match="not a SenCache profile"):
        Profile.load(tmp_path / "m.safetensors")


@given(st.data())
@settings(max_examples=60)
def test_flipped_bytes_never_raise_anything_else(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("flip")
    path = folder / "p.safetensors"
    Profile(HEADER, T, MEAN).save(path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        Profile.load(path)
    except ProfileError as error:
        assert str(error)
