"""Small bridges to ComfyUI that differ between its releases or may be missing outside a server."""

from __future__ import annotations

import importlib
import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

CATEGORY = "SenCache"
#: What people search for, in every language: ComfyUI does not translate aliases.
ALIASES = [
    *("teacache", "easycache", "magcache", "fbcache", "cache"),
    *("speed up", "faster", "accelerate", "skip steps"),
    *("缓存", "加速", "快取", "キャッシュ", "高速化", "캐시", "가속"),
    *("accélérer", "plus rapide", "acelerar", "más rápido", "ускорить", "кэш"),
]


def make(factory: Callable, *args: Any, **options: Any) -> Any:
    """``factory(*args, **options)`` without the options that this ComfyUI does not know yet."""
    known = inspect.signature(factory).parameters
    return factory(*args, **{k: v for k, v in options.items() if k in known})


class Place(NamedTuple):
    """Where in a queued graph code runs.

    Attributes:
        prompt: id of the queued prompt, empty if unknown.
        node: id of the node being executed, empty if unknown.
    """

    prompt: str = ""
    node: str = ""


def place() -> Place:
    """Prompt and node being executed in this thread."""
    try:
        from comfy_execution.utils import get_executing_context
    except ImportError:
        return Place()
    context = get_executing_context()
    return Place(context.prompt_id, str(context.node_id)) if context else Place()


def node_classes() -> Mapping[str, type]:
    """All nodes that this ComfyUI has loaded, by id."""
    return importlib.import_module("nodes").NODE_CLASS_MAPPINGS  # its own, not this pack's


def show_text(text: str, node: str | None) -> None:
    """Show ``text`` in a node of the browser that queued this prompt, without a script of ours."""
    server = running_server()
    if server is not None and node:
        server.send_progress_text(text, node, _client(server))


def send_event(name: str, data: dict) -> None:
    """Send a custom event to the browser that queued this prompt."""
    server = running_server()
    if server is not None:
        server.send_sync(name, data, _client(server))


def nothing_to_give(node: type, why: str) -> Any:
    """The result of a node that lacks an input: ``why`` is shown in it, nodes that need its outputs
    are left out, and the rest of the graph runs on."""
    from comfy_api.latest import io
    from comfy_execution.graph_utils import ExecutionBlocker

    show_text(why, node.hidden.unique_id)
    outputs = node.define_schema().outputs
    return io.NodeOutput(*[ExecutionBlocker(None) for _ in outputs], ui={"text": (why,)})


def _client(server: Any) -> str | None:
    """Others have another graph open, in which the same ids belong to other nodes. ``None``, which
    means everybody, where the prompt came without a browser."""
    return getattr(server, "client_id", None)


def running_server() -> Any:
    """ComfyUI's server; ``None`` where there is none, as in tests."""
    try:
        from server import PromptServer
    except ImportError:
        return None
    return getattr(PromptServer, "instance", None)


class Throttle:
    """Lets a call through at most once every ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._last = float("-inf")

    def ready(self) -> bool:
        now = time.monotonic()
        if now - self._last < self.seconds:
            return False
        self._last = now
        return True
