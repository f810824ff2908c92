"""Where files of the pack live. Profiles: below ComfyUI's user folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..sencache_core import Profile

PROFILES = "sencache_profiles"
_CORE = Path(__file__).resolve().parent.parent / "sencache_core"


def register() -> None:
    """Make profiles pickable and the bundled tiny models visible to ComfyUI's own loader."""
    import folder_paths

    folder_paths.add_model_folder_path(PROFILES, str(user_profiles()))
    paths = folder_paths.folder_names_and_paths[PROFILES][0]
    folder_paths.folder_names_and_paths[PROFILES] = (paths, {".safetensors"})
    folder_paths.add_model_folder_path("diffusion_models", str(_CORE / "tiny" / "weights"))


def user_profiles() -> Path:
    """Folder that profiles are saved in."""
    import folder_paths

    return Path(folder_paths.get_user_directory()) / "default" / "sencache" / "profiles"


def profile_names() -> list[str]:
    """Names of all profiles there are."""
    import folder_paths

    return folder_paths.get_filename_list(PROFILES)


def profile_path(name: str) -> Path:
    """Full path of a picked profile.

    Raises:
        FileNotFoundError: it is gone.
    """
    import folder_paths

    return Path(folder_paths.get_full_path_or_raise(PROFILES, name))


def new_profile_path(name: str) -> Path:
    """A path in the user's folder that no file has yet: ``name``, else ``name_2``, ``name_3``..."""
    stem = re.sub(r"[^\w .+-]+", "_", name.removesuffix(".safetensors")).strip(" .") or "profile"
    folder = user_profiles()
    folder.mkdir(parents=True, exist_ok=True)
    path, number = folder / f"{stem}.safetensors", 2
    while path.exists():
        path, number = folder / f"{stem}_{number}.safetensors", number + 1
    return path


def write_profile(profile: Profile, path: Path) -> None:
    """Save so that an interrupted write leaves no damaged file."""
    part = path.with_suffix(".part")
    profile.save(part)
    os.replace(part, path)
