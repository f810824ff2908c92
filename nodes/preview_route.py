"""Where the page asks for previews: one local route that only reads."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from .host import running_server
from .preview import VERSION, preview

ROUTE = "/sencache/preview"

#: Stamps of previews that have been prepared, and the most of them.
_PREPARED: OrderedDict[str, None] = OrderedDict()
MOST_PREPARED = 512
#: Most seconds of a processor that are spent on it at a time (ours): 50 steps take about two.
MOST_SECONDS = 5.0
#: Who waits for an answer.
_WAITING: list[str] = []

#: One thread: what is asked later waits, and is asked with what is known by then.
_POOL = ThreadPoolExecutor(1, "sencache-preview")


def register() -> None:
    """Answer at :data:`ROUTE`: POST ``{"prompt", "node"}``, see :func:`preview`. It only reads."""
    server = running_server()
    if server is None:
        return
    from aiohttp import web

    @server.routes.post(ROUTE)
    async def answer(request):
        try:
            if request.content_type != "application/json":  # what a foreign page asks first for
                raise KeyError
            data = await request.json()
            prompt, node = data["prompt"], str(data["node"])
            if not isinstance(prompt, dict) or node not in prompt:
                raise KeyError(node)
        except (KeyError, TypeError, json.JSONDecodeError):
            return web.json_response({"error": "prompt and node are needed"}, status=400)
        loop, start = asyncio.get_running_loop(), time.perf_counter()
        _WAITING.append(node)
        try:
            made = await loop.run_in_executor(_POOL, _safely, prompt, node)
        finally:
            _WAITING.pop()
        if made["stamp"] not in _PREPARED:
            running = server.prompt_queue.currently_running
            _POOL.submit(_prepare, prompt, node, lambda: bool(_WAITING or running))
        spent = f"preview;dur={1000 * (time.perf_counter() - start):.1f}"
        return web.json_response(made, headers={"Server-Timing": spent})


def _prepare(prompt: Mapping[str, Any], node: str, busy: Callable[[], bool]) -> None:
    """Plan for the budgets beside the one that was asked for, while nobody asks and nothing runs:
    what a planner has found it keeps, so that a slider is answered at once.
    """
    inputs, start = prompt[node]["inputs"], time.thread_time()
    if not isinstance(now := inputs.get("budget"), int | float):
        return
    for budget in sorted((k / 100 for k in range(20, 100)), key=lambda one: abs(one - now)):
        if busy() or time.thread_time() - start > MOST_SECONDS:
            return
        asked = {**prompt[node], "inputs": {**inputs, "budget": budget}}
        _PREPARED[_safely({**prompt, node: asked}, node)["stamp"]] = None
    while len(_PREPARED) > MOST_PREPARED:
        _PREPARED.popitem(last=False)


def _safely(prompt: Mapping[str, Any], node: str) -> dict:
    try:
        with torch.no_grad():
            return preview(prompt, node)
    except Exception as error:  # the boundary to nodes of others and to the page
        logging.getLogger("sencache").warning("SenCache: no preview", exc_info=True)
        why = {"key": "fails", "values": {"node": "SenCache Apply", "error": str(error)}}
        return {"version": VERSION, "state": "unknown", "unknown": why, "runs": [], "stamp": ""}
