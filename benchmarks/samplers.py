"""Rows of ``sencache bench --sampler NAME``, sampler by sampler.

``python -m benchmarks.samplers rows.json [more.json ...]``
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from .measures import tail
from .store import Key, Row, read
from .summary import EXACT, SAME, is_uncached, mean, places

#: What has to be said of these tables.
SCOPE = (
    "PSNR of decoded clips in dB, mean / tenth percentile; `at`: the cost, where it is not within "
    "0.02 of the budget. Samplers that draw noise as they go follow no ODE, so that there is no "
    "exact solution to compare with: their cells are empty. Their clips are compared with the "
    "uncached clip of the same seed; with fewer steps it draws other noise. The models are tiny "
    "and trained on synthetic clips: figures compare methods on them and say nothing about real "
    "ones."
)


def table(rows: Sequence[Row]) -> str:
    """Two tables a model, regime and budget, in Markdown: samplers down, methods across."""
    found: dict[tuple, dict[str, dict[str, Row]]] = {}
    for place, methods in places(rows).items():
        regime, _, sampler = place.regime.partition(" ")
        found.setdefault((place.family, regime, place.budget), {})[sampler] = methods
    parts = [SCOPE]
    for (family, regime, budget), samplers in found.items():
        names = dict.fromkeys(
            "uncached" if is_uncached(row) else name
            for methods in samplers.values()
            for name, row in sorted(methods.items(), key=lambda item: not is_uncached(item[1]))
        )
        parts.append(f"\n## {family}, {regime}, budget {budget:g}")
        for key, title in ((EXACT, "To the exact solution"), (SAME, "To the uncached clip")):
            shown = [name for name in names if key == EXACT or name != "uncached"]
            parts += [
                f"\n{title}:\n",
                f"| | {' | '.join(shown)} |",
                "|---" * (len(shown) + 1) + "|",
            ]
            for sampler, methods in samplers.items():
                by_name = {"uncached" if is_uncached(r) else n: r for n, r in methods.items()}
                cells = [_cell(by_name.get(name), key, budget) for name in shown]
                parts.append(f"| {sampler} | {' | '.join(cells)} |")
    return "\n".join(parts)


def _cell(row: Row | None, key: str, budget: float) -> str:
    if row is None or row["error"]:
        return "cannot run" if row else ""
    values = [clip[key] for clip in row["clips"]]
    if None in values:
        return ""
    cost = mean(row, "cost")
    at = "" if abs(cost - budget) <= 0.02 or is_uncached(row) else f" at {cost:.2f}"
    return f"{mean(row, key):.1f} / {tail(values):.1f}{at}"


if __name__ == "__main__":
    keyed: dict[Key, Row] = {}
    for file in sys.argv[1:]:  # of two rows of one name the later one counts
        keyed |= read(Path(file))
    print(table(list(keyed.values())))
