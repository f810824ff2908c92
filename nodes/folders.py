"""Where files of the pack live. Profiles: below ComfyUI's user folder."""

from __future__ import annotations

import os
import re
import unicodedata
from contextlib import suppress
from pathlib import Path

from ..sencache_core import ProfileError
from ..sencache_core.measure.profile_file import check_writable
from ..sencache_core.measure.stored import named_folder
from .settings import setting

PROFILES = "sencache_profiles"
#: Longest file name without number and extension: most file systems take 255 bytes, some 143.
NAME_BYTES = 120
#: Names of devices on Windows, with any extension.
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{d}{n}" for d in ("COM", "LPT") for n in range(10))}
_OWN = "profiles"
_CORE = Path(__file__).resolve().parent.parent / "sencache_core"


def register() -> None:
    """Make profiles pickable and the bundled tiny models visible to ComfyUI's own loader."""
    import folder_paths

    folder_paths.add_model_folder_path(PROFILES, str(user_profiles()))
    paths = folder_paths.folder_names_and_paths[PROFILES][0]
    folder_paths.folder_names_and_paths[PROFILES] = (paths, {".safetensors"})
    folder_paths.add_model_folder_path("diffusion_models", str(_CORE / "tiny" / "weights"))


def user_profiles() -> Path:
    """Folder that profiles are saved in: ``profiles`` below the pack's own in ComfyUI's user
    folder, or what the user's setting calls it."""
    import folder_paths

    name = setting("Profiles", _OWN)
    if name != safe_name(name) or name in (
        "learnt",
        "stored",
    ):  # a name, not a path, and not in use
        name = _OWN
    return Path(folder_paths.get_user_directory()) / "default" / "sencache" / name


def learnt() -> Path:
    """Folder of what ordinary runs have told of their models."""
    return user_profiles().with_name("learnt")


def stored() -> Path:
    """Folder of what SenCache Store keeps: ``SENCACHE_STORED``, else beside the profiles."""
    return named_folder() or user_profiles().with_name("stored")


def profile_names() -> list[str]:
    """Names of all profiles there are."""
    import folder_paths

    return folder_paths.get_filename_list(PROFILES)


def profile_path(name: str) -> Path:
    """Full path of a picked profile.

    Raises:
        ProfileError: it is gone.
    """
    import folder_paths

    path = folder_paths.get_full_path(PROFILES, name)
    if path is None:
        raise ProfileError(
            f"There is no profile {name!r} in {user_profiles()}: make one with SenCache Calibrate, "
            "or press R to refresh the list and pick another."
        )
    return Path(path)


def own_profile_path(name: str) -> Path:
    """Path of the profile of that name, with or without extension, in the user's own folder.

    Raises:
        ProfileError: there is none.
    """
    stem = name.strip().removesuffix(".safetensors")
    for path in user_profiles().glob("*.safetensors"):
        if path.stem == stem:
            return path
    raise ProfileError(
        f"There is no profile {stem!r} in {user_profiles()}: press R to refresh the list and pick "
        "another."
    )


def profile_files() -> dict[str, Path]:
    """All profiles there are: path by name, without extension."""
    import folder_paths

    found = ((name, folder_paths.get_full_path(PROFILES, name)) for name in profile_names())
    return {name.removesuffix(".safetensors"): Path(path) for name, path in found if path}


def new_profile_path(name: str) -> Path:
    """A path in the user's folder that no file has yet: ``name``, else ``name_2``, ``name_3``...

    Characters that some file system refuses are replaced, and names that are too long are cut.
    Writing there has been tried.

    Raises:
        ProfileError: nothing can be written there.
    """
    stem, folder = safe_name(name), user_profiles()
    with suppress(OSError):  # the trial says what is wrong
        folder.mkdir(parents=True, exist_ok=True)
    path, number = folder / f"{stem}.safetensors", 2
    while os.path.lexists(path):
        path, number = folder / f"{stem}_{number}.safetensors", number + 1
    check_writable(path)
    return path


def safe_name(name: str) -> str:
    """A file name without extension that every common file system takes."""
    name = unicodedata.normalize("NFC", name).removesuffix(".safetensors")
    stem = re.sub(r"[^\w .+-]+", "_", name)[:NAME_BYTES].strip(" .")
    while len(os.fsencode(stem)) > NAME_BYTES:
        stem = stem[:-1].strip(" .")
    if not stem.strip(" ._"):
        return "profile"
    if stem.split(".")[0].strip().upper() in _RESERVED:
        stem = f"profile_{stem}"
    return stem
