"""A headless ComfyUI with this pack, and the pack loaded in process as ComfyUI loads it."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sencache_core.app.comfy_demo import serve

sys.path.append(str(Path(__file__).parent))  # one file of tests takes graphs of another

ROOT = Path(__file__).resolve().parents[2]
RUN_SECONDS = 300


class Server:
    """A running ComfyUI.

    Attributes:
        url: its address.
        folder: its base directory.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder

    def get(self, route: str) -> Any:
        with urllib.request.urlopen(self.url + route, timeout=30) as answer:
            return json.load(answer)

    def post(self, route: str, data: dict) -> Any:
        body = json.dumps(data).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + route, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error
        return json.loads(text) if text else None

    def queue(self, prompt: dict) -> str:
        return self.post("/prompt", {"prompt": prompt})["prompt_id"]

    def wait(self, prompt_id: str, seconds: float = RUN_SECONDS) -> dict:
        """The history entry of a prompt, once it has ended in whatever way."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry and entry.get("status"):
                return entry
            time.sleep(0.1)
        raise AssertionError(f"prompt {prompt_id} did not end; log:\n{self.log()}")

    def run(self, prompt: dict) -> dict:
        """The outputs by node of a prompt that must succeed."""
        entry = self.wait(self.queue(prompt))
        assert entry["status"]["status_str"] == "success", entry["status"]["messages"]
        return entry["outputs"]

    def log(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")[-6000:]


@pytest.fixture(scope="session")
def server(comfyui: Path, tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("comfyui")
    with serve(comfyui, folder, folder / "log.txt") as (url, _):
        yield Server(url, folder)


class Pack:
    """The pack in this process.

    Attributes:
        module: its root package.
        nodes: its node classes by id.
        host_nodes: ComfyUI's own ``nodes`` module.
    """

    def __init__(self, module: ModuleType, nodes: dict[str, type], host_nodes: ModuleType) -> None:
        self.module, self.nodes, self.host_nodes = module, nodes, host_nodes

    def part(self, name: str) -> ModuleType:
        return importlib.import_module(f"{self.module.__name__}.{name}")

    def run(self, name: str, /, **inputs: Any) -> tuple:
        """Outputs of a node that is executed as node 1 of a graph, in this process."""
        hidden = SimpleNamespace(unique_id="1", dynprompt=None, prompt=None, extra_pnginfo=None)
        return type(name, (self.nodes[name],), {"hidden": hidden}).execute(**inputs).args


@pytest.fixture(scope="session")
def pack(comfyui: Path, tmp_path_factory) -> Pack:
    link = tmp_path_factory.mktemp("custom_nodes") / "sencache"
    link.symlink_to(ROOT, target_is_directory=True)
    import nodes as host_nodes

    before = set(host_nodes.NODE_CLASS_MAPPINGS)
    assert asyncio.run(host_nodes.load_custom_node(str(link)))
    own = {k: v for k, v in host_nodes.NODE_CLASS_MAPPINGS.items() if k not in before}
    return Pack(sys.modules[str(link).replace(".", "_x_")], own, host_nodes)
