"""The example workflow of the tiny Wan model in a real, headless ComfyUI server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: The prompt, in the form that ComfyUI's /prompt route takes.
PROMPT = Path(__file__).parent / "comfy_prompts" / "sencache_tiny_wan_api.json"
PACK = Path(__file__).resolve().parents[2]
START_SECONDS, RUN_SECONDS = 240.0, 600.0


class ComfyError(RuntimeError):
    """ComfyUI could not be started, or the workflow failed there. The message says why."""


def run_comfyui(
    comfyui: str | Path,
    out_dir: str | Path,
    budget: float = 0.5,
    steps: int | None = None,
    rule: str = "fitted",
) -> dict[str, Any]:
    """Run the example workflow: one clip with the cache and one without, from the same noise.

    Starts ``main.py`` with the interpreter named by ``COMFYUI_PYTHON``, else with this one, on a
    free local port and an empty base directory, and ends it in any case. Nothing is written into
    the ComfyUI folder. Writes ``history.json``, ``server.log`` and the saved pictures.

    Args:
        comfyui: folder of ComfyUI.
        out_dir: folder for the files; made if missing.
        budget: share of evaluations of the cached clip.
        steps: sampling steps; ``None`` keeps the workflow's.
        rule: key of ``REUSE_RULES``.

    Returns:
        ``summaries`` (one line a cached run), ``messages`` (what the reports say to the user),
        ``texts`` (what other nodes said, such as PSNR) and ``files``.

    Raises:
        ComfyError: no ComfyUI there, it did not start, or the workflow failed.
        FileNotFoundError: the pack's nodes are not beside this package (a plain pip install).
    """
    from .demo import messages_of

    comfyui, out = Path(comfyui).expanduser().resolve(), Path(out_dir)
    if not (comfyui / "main.py").is_file():
        raise ComfyError(f"{comfyui} is not a ComfyUI folder: it has no main.py")
    if not (PACK / "nodes").is_dir():
        raise FileNotFoundError(f"no ComfyUI nodes beside {PACK}; run this from a git checkout")
    prompt = json.loads(PROMPT.read_text(encoding="utf-8"))
    for node in prompt.values():
        if node["class_type"] == "SenCacheApply":
            node["inputs"].update(budget=budget, rule=rule)
        if node["class_type"] in ("KSampler", "SenCachePlan") and steps is not None:
            node["inputs"]["steps"] = steps
    out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="sencache-") as base,
        serve(comfyui, Path(base), out / "server.log") as (url, process),
    ):
        entry = queue(url, process, prompt, out / "history.json")
        files = []
        for path in sorted(Path(base).glob("output/**/*.*")) + sorted(Path(base).glob("temp/*.*")):
            files.append(str(shutil.copy2(path, out)))
    shown = entry["outputs"].values()
    reports = [run for ui in shown for run in runs_in(ui)]
    (out / "reports.json").write_text(json.dumps(reports, indent=1), encoding="utf-8")
    return {
        "summaries": [run["summary"] for run in reports],
        "messages": messages_of(reports),
        "texts": [
            line
            for ui in entry["outputs"].values()
            if not runs_in(ui)
            for line in ui.get("text", ())
        ],
        "files": files,
    }


def runs_in(ui: dict[str, Any]) -> list[dict[str, Any]]:
    """Run reports in what one node shows."""
    return [run for payload in ui.get("sencache", ()) for run in payload["runs"]]


@contextmanager
def serve(comfyui: Path, base: Path, log: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """A running ComfyUI that sees this pack only; ended with the ``with`` block.

    Args:
        comfyui: its folder, which is not written to.
        base: empty folder for models, inputs and outputs.
        log: file for what it prints.

    Yields:
        Its address and the process.

    Raises:
        ComfyError: it did not start.
    """
    for name in ("custom_nodes", "models", "input", "output", "user"):
        (base / name).mkdir()
    link = base / "custom_nodes" / "sencache"
    try:
        link.symlink_to(PACK, target_is_directory=True)
    except OSError:  # Windows lets few users make links
        parts = shutil.ignore_patterns(".*", "tests", "__pycache__", "docs")
        shutil.copytree(PACK, link, ignore=parts)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    python = os.environ.get("COMFYUI_PYTHON") or sys.executable
    command = [python, "main.py", "--cpu", "--base-directory", str(base), "--port", str(port)]
    command += ["--disable-api-nodes", "--dont-print-server"]
    with open(log, "wb") as file:
        # One thread suits the tiny model; several stall one another on a busy machine.
        env = {"OMP_NUM_THREADS": "1", **os.environ}
        process = subprocess.Popen(
            command, cwd=comfyui, env=env, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                _call(f"{url}/system_stats")
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                _check(process, deadline, f"ComfyUI did not start with {python}; see {log}")
                time.sleep(0.5)
        yield url, process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def queue(
    url: str, process: subprocess.Popen, prompt: dict[str, Any], history: Path | None = None
) -> dict[str, Any]:
    """Run a prompt to its end.

    Args:
        url, process: of :func:`serve`.
        prompt: in the form that ``/prompt`` takes.
        history: file for its history entry, also if it failed.

    Returns:
        The history entry.

    Raises:
        ComfyError: refused, or failed.
    """
    entry = _wait(url, process, _call(f"{url}/prompt", {"prompt": prompt})["prompt_id"])
    if history is not None:
        history.write_text(json.dumps(entry, indent=1), encoding="utf-8")
    if entry["status"]["status_str"] != "success":
        failures = [body for kind, body in entry["status"]["messages"] if "error" in kind]
        reason = failures[0].get("exception_message", "") if failures else ""
        raise ComfyError(f"the workflow failed: {reason.strip() or 'see its history'}")
    return entry


def _wait(url: str, process: subprocess.Popen, prompt_id: str) -> dict[str, Any]:
    """History entry of a prompt, once it has ended in whatever way."""
    deadline = time.monotonic() + RUN_SECONDS
    while True:
        entry = _call(f"{url}/history/{prompt_id}").get(prompt_id)
        if entry and entry.get("status"):
            return entry
        _check(process, deadline, "the workflow did not end; see server.log")
        time.sleep(0.3)


def _check(process: subprocess.Popen, deadline: float, message: str) -> None:
    if process.poll() is not None or time.monotonic() > deadline:
        raise ComfyError(message)


def _call(url: str, data: dict | None = None) -> Any:
    """GET, or POST with ``data``; JSON both ways."""
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise ComfyError(f"ComfyUI refused: {error.read().decode(errors='replace')}") from error
