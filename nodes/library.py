"""Routes below ``/sencache/library``: profiles and learnt models, listed and put in order.

Clients send names, never paths, and a name counts only where the list has it. What changes
something takes a content type that a foreign page cannot send without asking first. Nodes run for
all users of a server, so that profiles and learnt models, like checkpoints, belong to all of them.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..sencache_core import Profile, ProfileError
from ..sencache_core.measure.learnt_store import LearntStore
from ..sencache_core.measure.library import LEARNT, PROFILE, learnt_rows, profile_rows, read
from . import folders
from .host import running_server

ROUTE = "/sencache/library"
#: Bytes of the largest file that is imported (ours): 64 samples of 50 steps make 3 MB.
LARGEST = 1 << 28
#: Letters of the longest label (ours).
LABEL = 80


class Refused(Exception):
    """A request that is not carried out.

    Attributes:
        key: of the sentence that says why.
        values: of that sentence.
    """

    def __init__(self, key: str, **values: Any) -> None:
        super().__init__(_SENTENCES[key].format(**values))
        self.key, self.values = key, values


_SENTENCES = {
    "gone": "There is nothing of the name {name} any more. Refresh the list.",
    "taken": "There is something of the name {name} already. Choose another name.",
    "known": "This model has been learnt here already. Delete what is there to import another.",
    "name": "Give a name with at least one letter or digit.",
    "elsewhere": "{name} lies outside the pack's own folder. Change it there.",
    "large": "The file is larger than {mb} MB: it is neither a profile nor a learnt model.",
    "request": "The request is malformed.",
    "user": "ComfyUI does not know this user.",
}


def _message(refused: Refused) -> dict:
    """As the web shows it in the user's language."""
    own = {"key": f"library.{refused.key}", "values": refused.values, "text": str(refused)}
    return {**own, "level": "problem"}


def rows() -> list[dict]:
    """All profiles and learnt models. ``own`` says whether a file may be changed."""
    own = _own_profiles()
    found = [
        {**row.to_dict(), "own": row.name in own}
        for row in profile_rows(folders.profile_files().items())
    ]
    learnt = learnt_rows(LearntStore(folders.learnt()))
    return [*found, *({**row.to_dict(), "own": True} for row in learnt)]


def _own_profiles() -> set[str]:
    folder = folders.user_profiles().resolve()
    files = folders.profile_files().items()
    return {name for name, path in files if path.parent.resolve() == folder}


def path_of(kind: object, name: object) -> Path:
    """Path of a listed file.

    Raises:
        Refused: there is none of that kind and name.
    """
    files = {PROFILE: folders.profile_files, LEARNT: _learnt_files}.get(str(kind))
    if files is None or not isinstance(name, str):
        raise Refused("request")
    if (path := files().get(name)) is None:
        raise Refused("gone", name=name)
    return path


def _learnt_files() -> dict[str, Path]:
    return {path.stem: path for path in folders.learnt().glob("*.safetensors")}


def _changeable(kind: object, name: object) -> Path:
    path = path_of(kind, name)
    if kind == PROFILE and name not in _own_profiles():
        raise Refused("elsewhere", name=name)
    return path


def rename(kind: object, name: object, to: object) -> str:
    """Give a profile another file name, or what was learnt a label; what it is called then.

    Nothing is overwritten: a name that is taken is refused.

    Raises:
        Refused: see :func:`path_of`; the name is taken, or is none.
        ProfileError: it cannot be written.
    """
    path = _changeable(kind, name)
    if not isinstance(to, str):
        raise Refused("request")
    if kind == LEARNT:
        label = " ".join(to.encode(errors="replace").decode().split())[:LABEL]
        LearntStore(folders.learnt()).label(path, label)
        return label
    if not any(letter.isalnum() for letter in to):
        raise Refused("name")
    stem = folders.safe_name(to)
    target = path.with_name(f"{stem}.safetensors")
    if target.name == path.name:
        return stem
    if os.path.lexists(target):
        raise Refused("taken", name=stem)
    try:
        path.rename(target)
    except OSError as error:
        raise ProfileError(
            f"{path.name} cannot be renamed ({error.strerror}): choose another name."
        ) from error
    return stem


def delete(kind: object, name: object) -> None:
    """Delete a file.

    Raises:
        Refused: see :func:`path_of`.
        ProfileError: it cannot be deleted.
    """
    path = _changeable(kind, name)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ProfileError(
            f"{path.name} cannot be deleted ({error.strerror}): close what uses it, and try again."
        ) from error


def add(name: str, data: bytes) -> tuple[str, str]:
    """Import a file's content, checked like any that is loaded; its kind, and its name here.

    A profile whose name is taken gets a number; a model that was learnt here stays as it is.

    Raises:
        ProfileError: neither, damaged, or of a newer version.
        Refused: the model was learnt here already.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "import.safetensors")
        path.write_bytes(data)
        try:
            found = read(path)
        except ProfileError as error:
            raise ProfileError(str(error).replace(str(path), name or "the file")) from error
    if isinstance(found, Profile):
        path = folders.new_profile_path(name)
        found.save(path)
        return PROFILE, path.stem
    try:
        return LEARNT, LearntStore(folders.learnt()).put(found).stem
    except FileExistsError:
        raise Refused("known") from None


def register() -> None:
    """Add the routes to ComfyUI's server, where there is one."""
    server = running_server()
    if server is None:
        return
    from aiohttp import web

    def answering(handler: Callable) -> Callable:
        """Answers with what ``handler`` gives, or with a message that says why not."""

        async def answer(request: web.Request) -> web.StreamResponse:
            try:
                found = await handler(request)
            except Refused as refused:
                message, status = _message(refused), _status(refused.key)
            except ProfileError as error:
                message, status = {"key": "", "values": {}, "text": str(error)}, 400
            else:
                return web.json_response(found) if isinstance(found, dict) else found
            return web.json_response({"message": message}, status=status)

        return answer

    def check(request: web.Request, kind: str) -> None:
        # aiohttp calls a body of no type octet-stream, and any page may send one without asking.
        if "Content-Type" not in request.headers or request.content_type != kind:
            raise Refused("request")
        try:
            server.user_manager.get_request_user_id(request)
        except KeyError:
            raise Refused("user") from None

    async def asked(request: web.Request) -> tuple:
        check(request, "application/json")
        try:
            data = await request.json()
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise Refused("request")
        return data.get("kind"), data.get("name"), data.get("to")

    # Files are read and written beside the server's loop.
    @server.routes.get(ROUTE)
    @answering
    async def listed(_: web.Request) -> dict:
        return {"rows": await asyncio.to_thread(rows), "folder": str(folders.user_profiles())}

    @server.routes.post(f"{ROUTE}/rename")
    @answering
    async def renamed(request: web.Request) -> dict:
        return {"name": await asyncio.to_thread(rename, *await asked(request))}

    @server.routes.post(f"{ROUTE}/delete")
    @answering
    async def deleted(request: web.Request) -> dict:
        kind, name, _ = await asked(request)
        await asyncio.to_thread(delete, kind, name)
        return {"name": name}

    @server.routes.get(f"{ROUTE}/file")
    @answering
    async def exported(request: web.Request) -> web.StreamResponse:
        path = path_of(request.query.get("kind"), request.query.get("name"))
        shown = f"attachment; filename*=UTF-8''{quote(path.name)}"
        headers = {"Content-Disposition": shown, "Content-Type": "application/octet-stream"}
        return web.FileResponse(path, headers=headers)

    @server.routes.post(f"{ROUTE}/import")
    @answering
    async def imported(request: web.Request) -> dict:
        check(request, "application/octet-stream")
        data = bytearray()
        async for part in request.content.iter_chunked(1 << 16):
            data += part
            if len(data) > LARGEST:
                raise Refused("large", mb=LARGEST >> 20)
        kind, name = await asyncio.to_thread(add, request.query.get("name", ""), bytes(data))
        return {"kind": kind, "name": name}


def _status(key: str) -> int:
    return {"gone": 404, "taken": 409, "known": 409, "large": 413, "user": 403}.get(key, 400)
