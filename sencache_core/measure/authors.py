"""The tables of sensitivities that the paper's authors publish, as profiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..model.families import Family
from .profile import Profile, ProfileHeader
from .profile_file import ProfileError

#: Latent entries of the authors' calibration runs: the squares of the factors in their code
#: (1447.978, 1099.818 and 1015.969; sencache.py of each model in vita-epfl/SenCache).
AUTHORS_NUMEL = {
    "wan": 16 * 21 * 60 * 104,
    "cogvideox": 14 * 16 * 60 * 90,
    "ltx": 128 * 21 * 16 * 24,
}


def import_npz(path: str | Path, family: Family, timestep_to_t, numel: int) -> Profile:
    """Read a table as the paper's authors publish it.

    Their files hold L2 norms over one calibration shape against timesteps 0..1000, so
    ``alpha_x`` carries over while ``alpha_t`` is divided by ``sqrt(numel)`` and by the length of a
    timestep in the family's coordinate.

    Args:
        path: ``.npz`` with keys ``timesteps``, ``J_x_norm``, ``J_t_norm`` (each ``[T]``).
        family: row the table belongs to.
        timestep_to_t: maps a timestep to the family's coordinate.
        numel: entries of the calibration latent, see ``AUTHORS_NUMEL``.

    Raises:
        ProfileError: missing file, missing keys, or arrays that are no such table.
    """
    names = ("timesteps", "J_x_norm", "J_t_norm")
    try:
        with np.load(path, allow_pickle=False) as file:
            found = [np.asarray(file[name]).reshape(-1) for name in names]
    except KeyError as error:
        raise ProfileError(
            f"{path} has no {error}; expected the keys timesteps, J_x_norm and J_t_norm"
        ) from error
    except Exception as error:  # numpy, zipfile, zlib, struct and ast each raise their own
        raise ProfileError(f"cannot read {path}: {error}") from error
    if len({len(array) for array in found}) != 1:
        raise ProfileError(f"{path} holds arrays of unequal length")
    if not all(a.dtype.kind in "fiu" and np.isfinite(a).all() and (a >= 0).all() for a in found):
        raise ProfileError(f"{path} holds values that are not finite numbers of at least 0")
    timesteps, j_x, j_t = (array.astype(np.float64) for array in found)
    if (timesteps > 1000).any():
        raise ProfileError(f"{path} holds timesteps outside 0..1000")
    t = np.array([timestep_to_t(value) for value in timesteps])
    per_timestep = np.array([(timestep_to_t(v + 0.5) - timestep_to_t(v - 0.5)) for v in timesteps])
    keep = np.unique(t, return_index=True)[1]
    mean = {"alpha_x": j_x[keep], "alpha_t": (j_t / np.sqrt(numel) / np.abs(per_timestep))[keep]}
    header = ProfileHeader(
        family=family.name,
        sigmas=tuple(family.sigma(v) for v in t[keep]),
        samples=0,
        source=Path(path).name,
    )
    try:
        return Profile(header, t[keep], mean)
    except ProfileError as error:
        raise ProfileError(f"{path} cannot be used: {error}") from error
