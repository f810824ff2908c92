"""Profiles: what they say of a run, what they are averaged and imported from."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from profiles import HEADER, MEAN, T, moments

from sencache_core import (
    FAMILIES,
    Profile,
    ProfileError,
    ProfileHeader,
    Schedule,
    flow_sigmas,
)
from sencache_core.measure.authors import AUTHORS_NUMEL, import_npz
from sencache_core.measure.profile import Recording, combine

finite = st.floats(-1e6, 1e6, allow_subnormal=False)
positive = st.floats(0, 1e6, allow_subnormal=False)


@st.composite
def profiles(draw):
    t = np.array(sorted(draw(st.sets(st.integers(0, 1000), min_size=1, max_size=8)))) / 1000

    def curve():
        return draw(hnp.arrays(np.float64, len(t), elements=positive))

    mean = {"alpha_x": curve(), "alpha_t": curve(), "ratio": curve()}
    spread = {name: curve() for name in mean}
    header = ProfileHeader(
        family=draw(st.sampled_from(sorted(FAMILIES))),
        fingerprint=draw(st.text(max_size=8)),
        sampler=draw(st.text(max_size=8)),
        sigmas=tuple(draw(st.lists(positive, max_size=5))),
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
        (T, {**MEAN, "alpha_x": -MEAN["alpha_x"]}, "'alpha_x' is not 3 finite values of at least"),
        (T, {**MEAN, "alpha_t": np.full(3, 1e300)}, "'alpha_t' is not 3 finite"),
        (np.array([0.1, 0.1 + 1e-12, 0.3]), MEAN, "rising"),
        (T, {**MEAN, "alpha_t": np.ones(3, dtype=bool)}, "'alpha_t' is not 3 finite"),
    ],
)
def test_unfit_curves_are_refused(t, mean, words):
    with pytest.raises(ProfileError, match=words):
        Profile(HEADER, t, mean)


def test_unknown_family_is_refused():
    with pytest.raises(ProfileError, match="does not know"):
        Profile(ProfileHeader("mochi"), T, MEAN)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fingerprint": "cd34"}, "another checkpoint"),
        ({"sampler": "uni_pc"}, "measured with euler, this is uni_pc"),
        ({"sampler": "euler_ancestral"}, "measured with euler, this is euler_ancestral"),
        ({"sigmas": (1.0, 0.1, 0.0)}, "noise levels"),
        ({"guidance": 1.0}, "guidance 5, this is 1"),
    ],
)
def test_mismatches_are_noted(changes, words):
    profile = Profile(HEADER, T, MEAN)
    assert profile.mismatches(HEADER) == []
    (note,) = profile.mismatches(replace(HEADER, **changes))
    assert words in str(note)


@pytest.mark.parametrize(
    ("one", "other"),
    [("unipc", "uni_pc"), ("unipc_bh2", "uni_pc_bh2"), ("dpmpp_sde_gpu", "dpmpp_sde")],
)
def test_two_names_of_one_sampler_are_no_mismatch(one, other):
    profile = Profile(replace(HEADER, sampler=one), T, MEAN)
    assert profile.mismatches(replace(HEADER, sampler=other)) == []
    assert Schedule((1.0, 0.5, 0.0), one) == Schedule((1.0, 0.5, 0.0), other)


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
    for number, bad in enumerate((three * np.nan, -three, three * np.inf, three * 1j, three > 2)):
        for name in ("timesteps", "J_x_norm", "J_t_norm"):
            table = {"timesteps": three, "J_x_norm": three, "J_t_norm": three, name: bad}
            with pytest.raises(ProfileError, match="not finite numbers of at least 0"):
                load(npz(tmp_path / f"{name}{number}.npz", **table))
    with pytest.raises(ProfileError, match="timesteps outside"):
        load(npz(tmp_path / "far.npz", timesteps=three * 1e9, J_x_norm=three, J_t_norm=three))
    with pytest.raises(ProfileError, match="'alpha_x' is not 3 finite"):
        load(npz(tmp_path / "x.npz", timesteps=three, J_x_norm=three * 1e99, J_t_norm=three))
    with pytest.raises(ProfileError, match="rising"):
        load(npz(tmp_path / "none.npz", timesteps=[], J_x_norm=[], J_t_norm=[]))
    (tmp_path / "empty.npz").touch()
    for path in ("empty.npz", "", "n" * 300):
        with pytest.raises(ProfileError, match="cannot read"):
            load(tmp_path / path)
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


@given(st.data())
@settings(max_examples=60)
def test_flipped_bytes_of_a_table_never_raise_anything_else(tmp_path_factory, data):
    path = npz(tmp_path_factory.mktemp("npz") / "t.npz", timesteps=T, J_x_norm=T, J_t_norm=T)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        found = import_npz(path, FAMILIES["wan"], lambda step: step / 1000, 100)
    except ProfileError as error:
        assert str(path) in str(error)
    else:
        assert all(np.isfinite(curve).all() for curve in found.mean.values())


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


@pytest.mark.parametrize(("gain", "response"), [(1e300, 1e300), (0.0, -1e300)])
def test_wild_probes_lose_no_measurement(tmp_path, gain, response):
    """A probe on a latent that hardly moved divides by next to nothing."""
    arrays = moments(samples=1)
    found = replace(
        recording(),
        visited=tuple(arrays["t"][::-1]),
        gram=arrays["gram"][0][::-1, ::-1],
        lead=arrays["lead"][::-1, ::-1],
        travels=((0.6, gain, 0.6, response),),
    )
    combine([found], HEADER).save(tmp_path / "p.safetensors")
    kept = Profile.load(tmp_path / "p.safetensors").moments
    assert 0 < kept.gain.min() and kept.gain.max() <= 1e6 and abs(kept.response).max() <= 1e6
