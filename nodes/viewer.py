"""SenCache Stats Viewer: what the runs did, in the node, as a picture and as JSON."""

from __future__ import annotations

import json
import time

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
                "Shows which evaluations were computed, forced or reused, the scores against "
                "their limit, the measured error and the time. Place it after the sampler: the "
                "latent passes through unchanged."
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
        entries = [(i, e) for i, box in enumerate(mailboxes) for e in box.read(upstream, others)]
        data = payload(entries, [box.note for box in mailboxes if box.note])
        text = json.dumps(data, indent=2, allow_nan=False)
        lines = (f"{run['label']}: {run['summary']}\n{run['mask']}" for run in data["runs"])
        summary = "\n".join([*lines, *(note["text"] for note in data["notes"])])
        picture = draw_reports(data)
        return io.NodeOutput(latent, picture, text, ui={"sencache": [data], "text": [summary]})


def payload(entries: list[tuple[int, Entry]], notes: list[Message]) -> dict:
    """The web's contract: ``{"version", "prompt", "when", "runs", "notes"}``.

    ``prompt`` is the id of the queued prompt, ``when`` the time in seconds since 1970. A run is its
    report with ``label``, ``node`` (the sampler), ``mask`` and the time ``when`` it ended.

    Args:
        entries: runs with the number of the stats input they came by.
        notes: what belongs to no run.
    """
    now = place().prompt
    notes = list(notes)
    if any(entry.place.prompt and entry.place.prompt != now for _, entry in entries):
        notes.append(Message.of("viewer.earlier"))
    if not entries and not notes:
        notes.append(Message.of("viewer.no_run"))
    runs = []
    for number, (index, entry) in enumerate(entries, 1):
        label = f"Run {number}" if len(entries) > 1 else "Run"
        if any(i for i, _ in entries):
            label += f" (stats_{index + 1})" if index else " (stats)"
        report = entry.report
        own = {"label": label, "node": entry.place.node, "mask": mask_of(report)}
        own["when"] = entry.when
        runs.append({**own, **report.to_dict()})
    made = {"version": PAYLOAD_VERSION, "prompt": now, "when": time.time()}
    return {**made, "runs": runs, "notes": [note.to_dict() for note in notes]}


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
