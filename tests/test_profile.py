"""Profile files: what goes in comes out, and anything else is refused in plain words."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from sencache_core import FAMILIES, Profile, ProfileError, ProfileHeader
from sencache_core.measure.profile import (
    AUTHORS_NUMEL,
    FORMAT_VERSION,
    Recording,
    combine,
    import_npz,
)

HEADER = ProfileHeader(
    "wan",
    fingerprint="ab12",
    sampler="euler",
    scheduler="simple",
    sigmas=(1.0, 0.5, 0.0),
    guidance=5.0,
    shape=(1, 16, 5, 8, 8),
    dtype="float32",
    samples=2,
    source="a test",
)
T = np.array([0.2, 0.5, 1.0])
MEAN = {"alpha_x": np.array([4.0, 2.0, 1.0]), "alpha_t": np.array([6.0, 3.0, 1.5])}

finite = st.floats(-1e6, 1e6, allow_subnormal=False)


@st.composite
def profiles(draw):
    t = np.array(sorted(draw(st.sets(st.floats(0, 1), min_size=1, max_size=8))))

    def curve():
        return draw(hnp.arrays(np.float64, len(t), elements=finite))

    mean = {"alpha_x": curve(), "alpha_t": curve(), "ratio": curve()}
    spread = {name: curve() for name in mean}
    header = ProfileHeader(
        family=draw(st.sampled_from(sorted(FAMILIES))),
        fingerprint=draw(st.text(max_size=8)),
        sampler=draw(st.text(max_size=8)),
        sigmas=tuple(draw(st.lists(finite, max_size=5))),
        guidance=draw(finite),
        shape=tuple(draw(st.lists(st.integers(1, 99), max_size=5))),
        samples=draw(st.integers(0, 99)),
        source=draw(st.text()),
    )
    return Profile(header, t, mean, spread)


@given(profiles())
@settings(max_examples=60)
def test_save_and_load_round_trip(tmp_path_factory, profile):
    path = tmp_path_factory.mktemp("p") / "profile.safetensors"
    profile.save(path)
    loaded = Profile.load(path)
    assert loaded.header == profile.header
    assert np.array_equal(loaded.t, profile.t)
    for one, other in ((loaded.mean, profile.mean), (loaded.spread, profile.spread)):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_curves_that_this_version_does_not_know_are_passed_over(tmp_path):
    profile = Profile(HEADER, T, MEAN, {"alpha_x": np.ones(3)})
    profile.save(tmp_path / "profile.safetensors")
    arrays = load_file(tmp_path / "profile.safetensors")
    with safe_open(tmp_path / "profile.safetensors", framework="numpy") as file:
        header = file.metadata()
    more = {"mean.error_hold": np.ones((3, 4)), "spread.error_hold": np.ones((3, 4))}
    save_file({**arrays, **more}, tmp_path / "more.safetensors", metadata=header)
    loaded = Profile.load(tmp_path / "more.safetensors")
    assert loaded.mean.keys() == MEAN.keys()
    assert loaded.spread.keys() == {"alpha_x"}


def test_values_are_interpolated_and_held_outside():
    profile = Profile(HEADER, T, MEAN)
    assert profile.at(0.35) == (pytest.approx(3.0), pytest.approx(4.5))
    assert profile.at(0.0) == (4.0, 6.0)
    assert profile.at(2.0) == (1.0, 1.5)


def test_speed_is_measured_or_the_prior():
    measured = Profile(HEADER, T, {**MEAN, "speed": np.array([1.0, 2.0, 3.0])})
    assert measured.speed(0.5) == 2.0
    assert Profile(HEADER, T, MEAN).speed(0.5) == FAMILIES["wan"].prior(0.5)[2]


@pytest.mark.parametrize(
    ("t", "mean", "words"),
    [
        (T[::-1], MEAN, "rising"),
        (np.array([0.1, np.nan, 0.3]), MEAN, "rising"),
        (T.reshape(1, 3), MEAN, "rising"),
        (np.array([]), {k: np.array([]) for k in MEAN}, "rising"),
        (T, {"alpha_x": MEAN["alpha_x"]}, "lacks the curve 'alpha_t'"),
        (T, {**MEAN, "alpha_t": MEAN["alpha_t"][:2]}, "'alpha_t' is not 3 finite"),
        (T, {**MEAN, "alpha_t": np.array([1, np.inf, 1])}, "'alpha_t' is not 3 finite"),
        (T, {**MEAN, "alpha_t": np.float64(3)}, "'alpha_t' is not 3 finite"),
        (T, {**MEAN, "alpha_t": np.ones((3, 2))}, "'alpha_t' is not 3 finite"),
    ],
)
def test_unfit_curves_are_refused(t, mean, words):
    with pytest.raises(ProfileError, match=words):
        Profile(HEADER, t, mean)


def test_unknown_family_is_refused():
    with pytest.raises(ProfileError, match="does not know"):
        Profile(ProfileHeader("mochi"), T, MEAN)


def write(path, header, arrays=None):
    if not isinstance(header, str):
        header = json.dumps(header)
    save_file(
        arrays or {"t": T, "mean.alpha_x": T, "mean.alpha_t": T},
        str(path),
        {"sencache_profile": header},
    )


GOOD = {"format": FORMAT_VERSION, "family": "wan", "sigmas": [], "shape": []}


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("{", "damaged profile header"),
        ("[]", "damaged profile header"),
        ('"wan"', "damaged profile header"),
        ({**GOOD, "format": FORMAT_VERSION + 1}, "update SenCache"),
        ({**GOOD, "format": "x"}, "damaged profile header"),
        ({**GOOD, "family": ["wan"]}, "damaged profile header"),
        ({**GOOD, "colour": "red"}, "damaged profile header"),
        ({**GOOD, "sigmas": None}, "damaged profile header"),
        ({k: v for k, v in GOOD.items() if k != "family"}, "damaged profile header"),
    ],
)
def test_damaged_headers_are_refused(tmp_path, header, words):
    write(tmp_path / "p.safetensors", header)
    with pytest.raises(ProfileError, match=words):
        Profile.load(tmp_path / "p.safetensors")


def test_a_file_without_times_is_refused(tmp_path):
    write(tmp_path / "p.safetensors", GOOD, {"mean.alpha_x": T})
    with pytest.raises(ProfileError, match="damaged"):
        Profile.load(tmp_path / "p.safetensors")


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


def test_a_checkpoint_picked_by_mistake_is_not_read(tmp_path, monkeypatch):
    """Not even one of bfloat16, which numpy does not know."""
    import torch
    from safetensors.torch import save_file as save_torch

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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fingerprint": "cd34"}, "another checkpoint"),
        ({"sampler": "uni_pc"}, "measured with euler, this is uni_pc"),
        ({"sigmas": (1.0, 0.1, 0.0)}, "noise levels"),
        ({"guidance": 1.0}, "guidance 5, this is 1"),
    ],
)
def test_mismatches_are_noted(changes, words):
    from dataclasses import replace

    profile = Profile(HEADER, T, MEAN)
    assert profile.mismatches(HEADER) == []
    (note,) = profile.mismatches(replace(HEADER, **changes))
    assert words in note


def test_unknown_facts_are_no_mismatch():
    assert Profile(HEADER, T, MEAN).mismatches(ProfileHeader("wan")) == []


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (ProfileHeader("ltx"), "measured on wan, but the model is ltx"),
        (ProfileHeader("wan", tap="stack"), "output tap, but the run caches the stack"),
    ],
)
def test_another_family_or_tap_is_refused(other, words):
    with pytest.raises(ProfileError, match=words):
        Profile(HEADER, T, MEAN).mismatches(other)


def recording(seed=0, t=(1.0, 0.6, 0.3)):
    rng = np.random.default_rng(seed)
    return Recording(t, {name: rng.uniform(1, 2, len(t)) for name in ("alpha_x", "alpha_t")})


def test_combine_averages_and_measures_the_spread():
    one, two = recording(0), recording(1)
    profile = combine([one, two], HEADER)
    assert profile.t.tolist() == [0.3, 0.6, 1.0]
    pair = np.stack([one.curves["alpha_x"], two.curves["alpha_x"]])
    assert np.allclose(profile.mean["alpha_x"][::-1], pair.mean(0))
    assert np.allclose(profile.spread["alpha_x"][::-1], pair.std(0))


def test_combine_refuses_nothing_and_unequal_schedules():
    with pytest.raises(ProfileError, match="nothing was recorded"):
        combine([], HEADER)
    with pytest.raises(ProfileError, match="nothing was recorded"):
        combine([Recording((), {})], HEADER)
    with pytest.raises(ProfileError, match="different schedules"):
        combine([recording(), recording(t=(1.0, 0.5, 0.3))], HEADER)
    with pytest.raises(ProfileError, match="different schedules"):
        combine([recording(), recording(t=(1.0, 0.3))], HEADER)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_the_authors_table_comes_in_rms_units(tmp_path):
    """Their smallest alpha_t for Wan, 1.9452 per timestep over 2,096,640 entries, is RMS 1.343."""
    path = npz(
        tmp_path / "sensitivity_wan21.npz",
        timesteps=np.array([999, 500, 92]),
        J_x_norm=np.array([1.0287, 2.0, 31.934], dtype=np.float32),
        J_t_norm=np.array([1.9452, 3.0, 30.9178], dtype=np.float32),
    )
    numel = AUTHORS_NUMEL["wan"]
    assert numel == 2_096_640
    profile = import_npz(path, FAMILIES["wan"], lambda step: step / 1000, numel)
    assert profile.t.tolist() == [0.092, 0.5, 0.999]
    assert np.allclose(profile.mean["alpha_x"], [31.934, 2.0, 1.0287])
    expected = np.array([30.9178, 3.0, 1.9452]) * 1000 / math.sqrt(numel)
    assert np.allclose(profile.mean["alpha_t"], expected)
    assert profile.mean["alpha_t"][-1] == pytest.approx(1.343, abs=5e-4)
    assert str(tmp_path) not in profile.header.source


def test_an_imported_table_fits_the_run_it_was_made_for(tmp_path):
    from sencache_core import flow_sigmas

    sigmas = flow_sigmas(50, 5.0)
    steps = np.array([int(1000 * s) for s in sigmas[:-1]])
    path = npz(tmp_path / "t.npz", timesteps=steps, J_x_norm=steps + 1.0, J_t_norm=steps + 1.0)
    profile = import_npz(path, FAMILIES["wan"], lambda step: step / 1000, 100)
    assert profile.mismatches(ProfileHeader("wan", sigmas=sigmas)) == []


def test_the_authors_factors():
    """Squares of the constants in their code."""
    factors = {"wan": 1447.97790038, "cogvideox": 1099.8181667894016, "ltx": 1015.9685034488028}
    for family, factor in factors.items():
        assert math.sqrt(AUTHORS_NUMEL[family]) == pytest.approx(factor, rel=1e-6)


def test_unfit_npz_files_are_refused(tmp_path):
    def load(path):
        return import_npz(path, FAMILIES["wan"], lambda step: step / 1000, 100)

    three = np.arange(1.0, 4.0)
    with pytest.raises(ProfileError, match="cannot read"):
        load(tmp_path / "none.npz")
    with pytest.raises(ProfileError, match="timesteps, J_x_norm and J_t_norm"):
        load(npz(tmp_path / "keys.npz", timesteps=three, raw_data=three))
    with pytest.raises(ProfileError, match="unequal length"):
        load(npz(tmp_path / "len.npz", timesteps=three, J_x_norm=three, J_t_norm=three[:2]))
    with pytest.raises(ProfileError, match="finite"):
        load(npz(tmp_path / "nan.npz", timesteps=three, J_x_norm=three * np.nan, J_t_norm=three))
    np.save(tmp_path / "array.npy", three)
    with pytest.raises(ProfileError, match="cannot read"):
        load(tmp_path / "array.npy")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ProfileError, match="cannot read"):
        load(tmp_path / "text.npz")
    whole = npz(tmp_path / "w.npz", timesteps=three, J_x_norm=three, J_t_norm=three).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ProfileError, match="cannot read"):
        load(tmp_path / "cut.npz")


def test_pickles_are_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was opened",))

    path = npz(tmp_path / "p.npz", timesteps=np.array([Trap()]), J_x_norm=T, J_t_norm=T)
    with pytest.raises(ProfileError, match="cannot read"):
        import_npz(path, FAMILIES["wan"], lambda step: step / 1000, 100)


def test_a_sample_that_is_not_finite_is_named():
    bad = recording(1)
    bad.curves["alpha_x"][1] = np.nan
    with pytest.raises(ProfileError, match="sample 2 of 3 gave values that are not finite"):
        combine([recording(), bad, recording(2)], HEADER)
