"""Two calibrations as one: equal to one of all their samples."""

from dataclasses import replace

import numpy as np
import pytest
from profiles import HEADER

from sencache_core import ProfileError
from sencache_core.forecast.layers import LayerCurve, LayerCurves
from sencache_core.measure.joining import differing, joined
from sencache_core.measure.profile import Recording, combine

TIMES = (1.0, 0.5, 0.2)


def recording(seed, probed=True, layers=True):
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((3, 40)) + 2
    curves = {name: rng.uniform(1, 3, 3) for name in ("alpha_x", "alpha_t", "speed")}
    travels = [(t, *rng.uniform(0.5, 2, 1), t, *rng.uniform(-1, 1, 1)) for t in (0.9, 0.4)]
    kinds = {"self": LayerCurve(*(rng.random((2, 1, 3)) for _ in "ci"), *rng.random((2, 2, 3)))}
    gram = y @ y.T / 40
    return Recording(
        TIMES, curves, TIMES, gram, gram * 0.9, gram * 0.1, travels if probed else (),
        LayerCurves(np.array(TIMES[::-1]), kinds) if layers else None,
    )  # fmt: skip


def profile(recordings, seeds=()):
    return combine(recordings, replace(HEADER, samples=len(recordings), seeds=tuple(seeds)))


def arrays(found):
    moments = {k: v for k, v in vars(found.moments).items() if isinstance(v, np.ndarray)}
    layers = vars(found.layers.kinds["self"]) if found.layers else {}
    return {"t": found.t, **found.mean, **moments, **layers} | {
        f"spread {k}": v for k, v in found.spread.items()
    }


@pytest.mark.parametrize("probed", [(True, True, True), (False, True, True)])
def test_as_if_all_samples_had_been_measured_at_once(probed):
    samples = [recording(seed, on) for seed, on in enumerate(probed)]
    both = joined(profile(samples[:1], [7]), profile(samples[1:], [8, 9]))
    whole = profile(samples)
    assert both.header.samples == 3 and both.header.seeds == (7, 8, 9)
    assert both.moments.gain.shape == (3, 3)
    for name, values in arrays(whole).items():
        np.testing.assert_allclose(arrays(both)[name], values, rtol=1e-9, err_msg=name)


def test_what_one_of_them_lacks_is_left_out():
    both = joined(profile([recording(0)]), profile([recording(1, layers=False)]))
    assert both.layers is None
    neither = joined(profile([recording(0, probed=False)]), profile([recording(1, probed=False)]))
    assert neither.moments.gain is None and len(neither.moments.gram) == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"fingerprint": "cd34"}, "fingerprint"),
        ({"sampler": "dpmpp_2m"}, "sampler"),
        ({"guidance": 4.0}, "cfg"),
        ({"sigmas": (1.0, 0.4, 0.0)}, "noise levels"),
        ({"sigmas": (1.0, 0.0)}, "noise levels"),
        ({"shape": (1, 16, 5, 8, 9)}, "shape"),
        ({"tap": "stack"}, "tap"),
    ],
)
def test_other_settings_do_not_belong_together(change, named):
    one, other = profile([recording(0)]), profile([recording(1)])
    assert differing(one.header, one.header) == []
    changed = replace(other, header=replace(other.header, **change))
    with pytest.raises(ProfileError, match=f"differ in {named}"):
        joined(one, changed)
