"""A small profile, and moments of measured kind."""

import numpy as np

from sencache_core import ProfileHeader

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


def moments(seed=0, samples=2, count=3):
    """Arrays of measured kind: inner products of outputs, gains and responses."""
    rng = np.random.default_rng(seed)
    outputs = rng.standard_normal((samples, count, 40)) + 2
    gram = outputs @ outputs.swapaxes(1, 2) / 40
    return {
        "t": np.linspace(0.2, 1.0, count),
        "gram": gram,
        "gain": rng.uniform(0.3, 30, (samples, count)),
        "response": rng.uniform(-5, 5, (samples, count)),
        "lead": gram.mean(axis=0),
        "gap": gram.mean(axis=0) / 9,
    }
