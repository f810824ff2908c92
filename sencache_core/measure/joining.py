"""A calibration that goes on where an earlier one ended: two profiles as one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..forecast.layers import LayerCurve, LayerCurves
from ..forecast.moments import Moments
from ..sampler.schedule import sampler_key
from .profile import Profile, ProfileHeader
from .profile_file import ProfileError


def differing(one: ProfileHeader, other: ProfileHeader) -> list[str]:
    """What sets two calibrations apart, so that their samples do not belong together."""
    found = [
        name
        for name in ("family", "fingerprint", "scheduler", "tap", "shape")
        if getattr(one, name) != getattr(other, name)
    ]
    if sampler_key(one.sampler) != sampler_key(other.sampler):
        found.append("sampler")
    if abs(one.guidance - other.guidance) > 1e-6:
        found.append("cfg")
    same = len(one.sigmas) == len(other.sigmas) and np.allclose(one.sigmas, other.sigmas, rtol=1e-5)
    return found if same else [*found, "noise levels"]


def joined(first: Profile, second: Profile) -> Profile:
    """The profile of the samples of both, as ``combine`` would have made it of all together.

    Means and standard deviations of the curves are pooled; the moments hold each sample by itself.
    A sample that was not probed is given the gains of the others measured with it, or where there
    are none, of the other profile's.

    Raises:
        ProfileError: they were measured in different ways.
    """
    if found := differing(first.header, second.header):
        raise ProfileError(f"these profiles differ in {', '.join(found)}")
    if len(first.t) != len(second.t) or not np.allclose(first.t, second.t, atol=1e-6):
        raise ProfileError("these profiles were measured at different times")
    counts = first.header.samples, second.header.samples
    total = sum(counts)

    def mean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (counts[0] * a + counts[1] * b) / total

    names = [name for name in first.mean if name in second.mean]
    means = {name: mean(first.mean[name], second.mean[name]) for name in names}
    spread = {}
    for name in names:
        if name in first.spread and name in second.spread:
            within = mean(first.spread[name] ** 2, second.spread[name] ** 2)
            apart = first.mean[name] - second.mean[name]
            spread[name] = np.sqrt(within + counts[0] * counts[1] * (apart / total) ** 2)
    header = replace(second.header, samples=total, seeds=first.header.seeds + second.header.seeds)
    moments = _moments(first.moments, second.moments, mean)
    return Profile(header, first.t, means, spread, moments, _layers(first, second, mean))


def _moments(first: Moments | None, second: Moments | None, mean) -> Moments | None:
    if first is None or second is None or len(first.t) != len(second.t):
        return None
    both = [part for part in (first, second) if part.gain is not None]
    gain = response = None
    if both:
        # A sample that was not probed is like the others, as in ``combine``.
        gains = np.concatenate([part.gain for part in both])
        usual = np.exp(np.log(np.maximum(gains, 1e-6)).mean(axis=0))
        answer = np.concatenate([part.response for part in both]).mean(axis=0)
        parts = [
            (part.gain, part.response)
            if part.gain is not None
            else (np.tile(usual, (len(part.gram), 1)), np.tile(answer, (len(part.gram), 1)))
            for part in (first, second)
        ]
        gain, response = (np.concatenate(rows) for rows in zip(*parts, strict=True))
    lead, gap = (
        None
        if getattr(first, name) is None or getattr(second, name) is None
        else mean(getattr(first, name), getattr(second, name))
        for name in ("lead", "gap")
    )
    gram = np.concatenate([first.gram, second.gram])
    return Moments(second.t, gram, gain, response, lead, gap, second.guidance)


def _layers(first: Profile, second: Profile, mean) -> LayerCurves | None:
    a, b = first.layers, second.layers
    if a is None or b is None or len(a.t) != len(b.t) or a.kinds.keys() != b.kinds.keys():
        return None
    kinds = {}
    for kind, curve in a.kinds.items():
        other = vars(b.kinds[kind])
        kinds[kind] = LayerCurve(**{name: mean(x, other[name]) for name, x in vars(curve).items()})
    return LayerCurves(a.t, kinds)
