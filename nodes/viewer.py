"""SenCache Stats Viewer: what the runs did, in the node, as a picture and as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

from comfy_api.latest import io

from ..sencache_core import Message
from .host import CATEGORY, make, place
from .picture import draw_reports
from .reports import Entry, Reports, mask_of
from .sockets import STATS

PAYLOAD_VERSION = 1


class SenCacheStatsViewer(io.ComfyNode):
    """Passes the latent through; being after the sampler, it runs when the reports are in."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            io.Schema,
            node_id="SenCacheStatsViewer",
            display_name="SenCache Stats Viewer",
            category=CATEGORY,
            search_aliases=["sencache stats", "cache stats", "plot", "chart"],
            description=(
                "Shows how much faster the run was, the time saved, how near the clip is expected "
                "to be, and which steps were computed or skipped and why. Place it after the "
                "sampler: the latent passes through unchanged."
            ),
            is_output_node=True,
            inputs=[
                io.Latent.Input("latent", tooltip="The sampler's result; passed on unchanged."),
                STATS.Input(
                    "stats",
                    optional=True,
                    tooltip=(
                        "From SenCache Apply. Without it, as when Apply is bypassed, nothing is "
                        "cached; the latent passes through all the same."
                    ),
                ),
                STATS.Input(
                    "stats_2",
                    optional=True,
                    tooltip=(
                        "From a second SenCache Apply: the low-noise expert of Wan 2.2, or "
                        "another stage."
                    ),
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent"),
                io.Image.Output(id="plot", display_name="plot", tooltip="The chart as a picture."),
                io.String.Output(
                    id="json",
                    display_name="json",
                    tooltip="All figures as JSON. Connect to a text node to read or save them.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )

    @classmethod
    def execute(
        cls, latent: dict, stats: Reports | None = None, stats_2: Reports | None = None
    ) -> io.NodeOutput:
        upstream, others = _places(cls.hidden.dynprompt, cls.hidden.unique_id)
        if stats is None:
            second = stats_2 is not None
            stats = Reports(Message.of("viewer.no_apply_first" if second else "viewer.no_apply"))
        mailboxes = [box for box in (stats, stats_2) if box is not None]
        entries = [entry for box in mailboxes for entry in box.read(upstream, others)]
        titles = _titles(cls.hidden.dynprompt, {entry.place.node for entry in entries})
        data = payload(entries, [box.note for box in mailboxes if box.note], titles)
        text = json.dumps(data, indent=2, allow_nan=False)
        lines = (f"{run['label']}: {run['summary']}\n{run['mask']}" for run in data["runs"])
        summary = "\n".join([*lines, *(note["text"] for note in data["notes"])])
        picture = draw_reports(data)
        return io.NodeOutput(latent, picture, text, ui={"sencache": [data], "text": [summary]})


def payload(entries: list[Entry], notes: list[Message], titles: Mapping[str, str]) -> dict:
    """The web's contract: ``{"version", "prompt", "when", "runs", "notes"}``.

    ``prompt`` is the id of the queued prompt, ``when`` the time in seconds since 1970. A run is its
    report with ``node`` (the sampler), ``label`` (its title, numbered where several have the same),
    ``mask`` and the time ``when`` it ended.

    Args:
        entries: the runs.
        notes: what belongs to no run.
        titles: of nodes, by id.
    """
    now = place().prompt
    notes = list(notes)
    if any(entry.place.prompt and entry.place.prompt != now for entry in entries):
        notes.append(Message.of("viewer.earlier"))
    if not entries and not notes:
        notes.append(Message.of("viewer.no_run"))
    runs = []
    labels = [titles.get(entry.place.node) or "Run" for entry in entries]
    for number, entry in enumerate(entries):
        label, report = labels[number], entry.report
        if labels.count(label) > 1:
            label += f" {labels[: number + 1].count(label)}"
        own = {"label": label, "node": entry.place.node, "mask": mask_of(report)}
        own["when"] = entry.when
        runs.append({**own, **report.to_dict()})
    made = {"version": PAYLOAD_VERSION, "prompt": now, "when": time.time()}
    return {**made, "runs": runs, "notes": [note.to_dict() for note in notes]}


def _titles(prompt, nodes: Iterable[str]) -> dict[str, str]:
    """Titles that nodes have in the browser, by id, of those that tell."""
    found = {}
    for node in nodes:
        with suppress(Exception):  # nodes made in mid-run, prompts without a browser
            found[node] = str(prompt.get_node(node)["_meta"]["title"])
    return found


def _places(prompt, node: str | None) -> tuple[frozenset[str], frozenset[str]]:
    """Ids of the nodes that the latent input depends on, and of all others. Both are empty if the
    graph cannot be read."""
    seen: set[str] = set()
    try:
        link = prompt.get_node(node)["inputs"]["latent"]
        queue = [str(link[0])]
        while queue:
            current = queue.pop()
            if current in seen:
                continue
            seen.add(current)
            inputs = prompt.get_node(current)["inputs"].values()
            queue += [str(v[0]) for v in inputs if isinstance(v, list) and len(v) == 2]
    except Exception:  # ids of expanded subgraphs vary by release; all runs are shown then
        return frozenset(), frozenset()
    return frozenset(seen), frozenset(prompt.get_original_prompt()) - seen
