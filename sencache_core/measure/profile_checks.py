"""What a profile's numbers may be, so that no run on them ends in values that are not finite."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real

import numpy as np

from ..forecast.layers import LayerCurves
from ..forecast.moments import Moments
from .profile_file import ProfileError

#: Largest times, noise levels, curves and inner products accepted (ours). Measured ones lie far
#: below; sums and squares of these stay finite.
LARGEST_VALUE = 1e12
#: Largest number accepted in a header (ours): zero terminal SNR is a sigma of 1.6e16.
_LARGEST_FACT = 1e30
#: Largest terminal gain, and largest response either way (ours): they are multiplied along a run.
LARGEST_GAIN, LARGEST_RESPONSE = 1e6, 1e6
#: Times closer than this are one (ours): slopes between them would mean nothing.
CLOSEST_TIMES = 1e-9
#: Share of its diagonal by which rounding may leave a matrix of inner products asymmetric or
#: indefinite (ours; sums in float64 leave 1e-14).
_ROUNDING = 1e-6

_TEXTS = ("family", "fingerprint", "sampler", "scheduler", "dtype", "tap", "source", "label")


def check_header(header: Mapping[str, object]) -> None:
    """Raise ProfileError unless every entry of a ``ProfileHeader`` has its type and range."""
    for name in _TEXTS:
        if not isinstance(value := header[name], str) or not _encodes(value):
            raise ProfileError(f"{name!r} in its header must be a text, not {_short(value)}")
    whole = "whole numbers"
    lists = (("sigmas", Real, "numbers"), ("shape", Integral, whole), ("seeds", Integral, whole))
    for name, kind, what in lists:
        values = header[name]
        if not isinstance(values, tuple) or not all(_fits(v, kind) for v in values):
            raise ProfileError(
                f"{name!r} in its header must be a list of {what} of at least 0, not "
                f"{_short(values)}"
            )
    for name, kind, what in (("guidance", Real, "number"), ("samples", Integral, "whole number")):
        lowest = 0 if kind is Integral else -_LARGEST_FACT
        if not _fits(value := header[name], kind, lowest):
            raise ProfileError(f"{name!r} in its header must be a {what}, not {_short(value)}")


def check_times(t: object, what: str) -> None:
    """Raise ProfileError unless ``t`` is one list of rising times that lie apart."""
    if np.ndim(t) != 1 or not len(t) or not _within(t) or (np.diff(t) < CLOSEST_TIMES).any():
        raise ProfileError(f"the times of {what} must be one strictly rising list of finite values")


def check_curve(name: str, curve: object, length: int) -> None:
    """Raise ProfileError unless ``curve`` is ``[length]``, finite and not negative."""
    if np.shape(curve) != (length,) or not _within(curve, 0.0):
        raise ProfileError(
            f"the curve {name!r} is not {length} finite values of at least 0, as measured ones are"
        )


def check_moments(moments: Moments) -> None:
    """Raise ProfileError unless moments are those of real outputs: see ``Moments`` for shapes.

    Inner products make symmetric matrices without negative eigenvalues.
    """
    check_times(moments.t, "the moments")
    gram, curves = moments.gram, (moments.gain, moments.response)
    if not len(gram) or any(c is not None and not len(c) for c in curves):
        raise ProfileError("its moments hold no sample")
    matrices = {"gram": gram, "lead": moments.lead, "gap": moments.gap}
    for name, matrix in matrices.items():
        if matrix is not None and not _is_gram(matrix):
            raise ProfileError(f"the matrix {name!r} is not one of inner products of outputs")
    if moments.gain is None:
        return
    if not _within(moments.gain, 0.0, LARGEST_GAIN):
        raise ProfileError(f"its terminal gains do not lie between 0 and {LARGEST_GAIN:g}")
    if not _within(moments.response, -LARGEST_RESPONSE, LARGEST_RESPONSE):
        raise ProfileError(
            f"its responses do not lie between {-LARGEST_RESPONSE:g} and {LARGEST_RESPONSE:g}"
        )


def check_layers(layers: LayerCurves) -> None:
    """Raise ProfileError unless the curves are those of layers: see ``LayerCurve`` for shapes."""
    check_times(layers.t, "the layers")
    if not layers.kinds:
        raise ProfileError("its layers are of no known kind")
    for kind, curve in layers.kinds.items():
        shape = np.shape(curve.change)
        if len(shape) != 3 or 0 in shape or shape[2] != len(layers.t):
            raise ProfileError(f"the curves of {kind!r} layers do not fit their times")
        flat = shape[0], shape[2]
        shapes = {"change": shape, "inner": shape, "square": flat, "mean": flat}
        for name, wanted in shapes.items():
            values, low = getattr(curve, name), -LARGEST_VALUE
            if np.shape(values) != wanted or not _within(
                values, 0.0 if name in ("change", "square") else low
            ):
                raise ProfileError(
                    f"the curve {name!r} of {kind!r} layers is not {wanted} finite values, as "
                    "measured ones are"
                )


def _is_gram(matrices: np.ndarray) -> bool:
    """Whether ``[..., T, T]`` are matrices of inner products, but for rounding."""
    squares = np.diagonal(matrices, axis1=-2, axis2=-1)
    if not _within(matrices) or (squares < 0).any():
        return False
    sizes = np.sqrt(squares)
    limit = sizes[..., :, None] * sizes[..., None, :]
    if (np.abs(matrices) > limit * (1 + _ROUNDING)).any():
        return False
    alike = np.divide(matrices, limit, out=np.zeros_like(matrices), where=limit > 0)
    if (np.abs(alike - np.swapaxes(alike, -1, -2)) > _ROUNDING).any():
        return False
    try:  # a Cholesky factor exists where no eigenvalue is negative
        np.linalg.cholesky(alike + _ROUNDING * np.eye(alike.shape[-1]))
    except np.linalg.LinAlgError:
        return False
    return True


def _within(values: object, low: float = -LARGEST_VALUE, high: float = LARGEST_VALUE) -> bool:
    array = np.asarray(values)
    return array.dtype.kind in "fiu" and bool(((array >= low) & (array <= high)).all())


def _fits(value: object, kind: type, lowest: float = 0) -> bool:
    # A Boolean is an integer in Python, but no count.
    if not isinstance(value, kind) or isinstance(value, bool):
        return False
    return bool(lowest <= value <= _LARGEST_FACT)


def _encodes(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
