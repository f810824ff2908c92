"""The mailbox between a sampler, which runs late, and the nodes that show what it did."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass

from ..sencache_core import Message, RunReport
from .host import Place, place

#: Runs kept per sampler node. A node samples more than once per prompt only inside loops.
MOST_RUNS = 16


@dataclass(frozen=True)
class Entry:
    """One run, where it ran, and when it ended (seconds since 1970)."""

    report: RunReport
    place: Place
    when: float


def mask_of(report: RunReport) -> str:
    """What a run did, one letter an evaluation: ``C`` computed, ``h`` in part, ``.`` reused,
    ``-`` not asked."""
    return "".join(
        {"reused": ".", "partial": "h", "idle": "-"}.get(s.decision, "C") for s in report.steps
    )


class Reports:
    """Reports of every sampler that used one patched model; what ``SENCACHE_STATS`` carries.

    Sampling happens long after the node that made the model was executed, perhaps in a later prompt
    (ComfyUI keeps the model). So reports are posted here, by sampler node, and a node's older ones
    go when it runs again in another prompt.

    Attributes:
        note: why no run will ever arrive, ``None`` if some may.
    """

    def __init__(self, note: Message | None = None) -> None:
        self.note = note
        self._entries: list[Entry] = []
        self._lock = threading.Lock()

    def post(self, report: RunReport) -> None:
        """Called from the sampler's thread at the end of a run."""
        here = place()
        with self._lock:
            kept = [
                e
                for e in self._entries
                if e.place.node != here.node or e.place.prompt == here.prompt
            ]
            self._entries = [*kept, Entry(report, here, time.time())][-MOST_RUNS:]

    def read(self, nodes: Collection[str] = (), others: Collection[str] = ()) -> list[Entry]:
        """Latest runs, oldest first: those of ``nodes``; where none of them ran, those of this
        prompt that are not known to be of ``others``."""
        prompt = place().prompt
        with self._lock:
            own = [e for e in self._entries if e.place.node in nodes]
            rest = [e for e in self._entries if e.place.prompt == prompt]
            return own or [e for e in rest if e.place.node not in others]
