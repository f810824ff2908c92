"""Load and save profiles."""

from __future__ import annotations

from comfy_api.latest import io

from ..sencache_core import Profile, ProfileError
from . import folders
from .host import CATEGORY, make, nothing_to_give
from .sockets import PROFILE

_NONE = "none found: run SenCache Calibrate"
_NOTHING = (
    "Nothing was saved: connect the profile of SenCache Calibrate or Load Profile, which may be "
    "bypassed or muted."
)


class SenCacheProfileLoad(io.ComfyNode):
    """Picks a saved profile."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            io.Schema,
            node_id="SenCacheProfileLoad",
            display_name="SenCache Load Profile",
            category=CATEGORY,
            search_aliases=["sencache profile", "calibration"],
            description="Loads a measured profile for SenCache Apply.",
            inputs=[
                io.Combo.Input(
                    "name",
                    options=folders.profile_names() or [_NONE],
                    tooltip=(
                        "Profiles saved by SenCache Calibrate or Save Profile. Press R in the "
                        "graph to refresh the list. A profile of another model family is refused "
                        "when sampling starts."
                    ),
                )
            ],
            outputs=[PROFILE.Output(id="profile", display_name="profile")],
        )

    @classmethod
    def fingerprint_inputs(cls, name: str):
        try:
            found = folders.profile_path(name).stat()
        except (OSError, ProfileError):
            return ""
        return f"{found.st_mtime_ns} {found.st_size} {found.st_ino}"

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        return io.NodeOutput(Profile.load(folders.profile_path(name)))


class SenCacheProfileSave(io.ComfyNode):
    """Writes a profile where Load Profile finds it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            io.Schema,
            node_id="SenCacheProfileSave",
            display_name="SenCache Save Profile",
            category=CATEGORY,
            search_aliases=["sencache profile", "calibration"],
            description="Saves a profile under a name of your choice in ComfyUI's user folder.",
            is_output_node=True,
            inputs=[
                PROFILE.Input(
                    "profile",
                    optional=True,
                    tooltip="From SenCache Calibrate or Load Profile.",
                ),
                io.String.Input(
                    "name",
                    default="my_profile",
                    optional=True,
                    tooltip=(
                        "File name without extension. If it is taken, a number is added; nothing "
                        "is overwritten."
                    ),
                ),
            ],
            outputs=[io.String.Output(id="path", display_name="path")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, profile: Profile | None = None, name: str = "my_profile") -> io.NodeOutput:
        if profile is None:
            return nothing_to_give(cls, _NOTHING)
        path = folders.new_profile_path(name)
        profile.save(path)
        return io.NodeOutput(str(path), ui={"text": (f"Saved as {path.name}",)})
