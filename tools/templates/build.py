"""Builds the example workflows in ComfyUI's own frontend, so that they load there as saved.

    python -m tools.templates.build http://127.0.0.1:8188

needs a running ComfyUI 0.33 with this pack, Playwright and Chromium. The graphs are the tables in
``catalogue.py``; positions follow from the sizes that the frontend computes. They have no id: the
frontend gives each one that is opened its own.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from . import tiny
from .catalogue import WORKFLOWS
from .parts import Columns, Node, folder

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "example_workflows"
API_PROMPT = ROOT / "sencache_core" / "app" / "comfy_prompts" / "sencache_tiny_wan_api.json"

#: True once the server's nodes and the frontend's own are there.
READY = """() => ["SenCacheStatsViewer", "MarkdownNote"].every(
  (type) => window.LiteGraph?.registered_node_types?.[type]) && window.comfyAPI?.app?.app?.graph"""

#: Builds one graph from its columns and returns it in both formats.
BUILD = (Path(__file__).parent / "layout.js").read_text(encoding="utf-8")


def table(columns: Columns) -> list[dict[str, Any]]:
    """The columns as the page takes them."""
    return [
        {
            "width": column.width,
            "top": column.top,
            "groups": [
                {
                    "title": group.title,
                    "color": group.color,
                    "rows": [[_cell(cell) for cell in row] for row in group.rows],
                }
                for group in column.groups
            ],
        }
        for column in columns
    ]


def _cell(cell: Node | tuple[Node, ...]) -> list[dict[str, Any]]:
    return [_node(node) for node in ((cell,) if isinstance(cell, Node) else cell)]


def _node(node: Node) -> dict[str, Any]:
    files = [{"name": Path(u).name, "url": u, "directory": folder(u)} for u in node.models]
    links = [(name, *came.split(" | ")) for name, came in node.links.items()]
    return {**node._asdict(), "widgets": dict(node.widgets), "links": links, "models": files}


def build(page: Page, columns: Columns) -> tuple[dict, dict]:
    """A graph as the frontend saves it, without its id, and as it queues it."""
    graph, prompt = page.evaluate(BUILD, table(columns))
    del graph["id"]
    return graph, prompt


def main(address: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.goto(address)
        page.wait_for_function(READY, timeout=120_000)
        for old in FOLDER.glob("*.json"):
            old.unlink()
        for title, columns in WORKFLOWS.items():
            write(FOLDER / f"{title}.json", build(page, columns())[0])
        write(API_PROMPT, build(page, tiny.start(api=True))[1])
        browser.close()


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8188")
