"""Write the tables that follow from the registries into README, help and the page of methods.

    sencache methods --json docs/methods.json   # runs every method; some minutes
    python tools/tables.py

What stands between the two marks of a table is replaced; docs/methods.md is written as a whole, its
figures as docs/methods.json has them. ``tests/test_docs.py`` fails where a page is not up to date.
The core's messages are written into the web's English words (``tests/test_words.py``).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sencache_core import POLICIES, REUSE_RULES, __version__  # noqa: E402
from sencache_core.forecast import reuse  # noqa: E402
from sencache_core.policies.groups import (  # noqa: E402
    ATTENTION,
    BLOCKS,
    GUIDANCE,
    STEP,
    grouped,
)
from sencache_core.words import ENGLISH  # noqa: E402

#: Pages with a table of policies.
PAGES = ("README.md", "web/docs/SenCachePolicySelect.md")
METHODS = "docs/methods.md"
WORDS = "web/words/en.json"
#: Messages of nodes, which no core knows of: their English stands in the nodes.
OF_NODES = ("message.compare.", "message.library.")
_TABLE = re.compile(r"(<!-- policies -->\n).*?(<!-- end of policies -->)", re.DOTALL)

#: By depth what a skipped step still runs, and what is kept for it.
DEPTHS = {
    STEP: ("nothing of the model", "one to three latents, or as many block stack residuals"),
    BLOCKS: ("some of the blocks", "what the others added, once for each run of them"),
    ATTENTION: (
        "all but attention (`pab`), attention and feed-forward layers, or half of the guidance "
        "pair without self-attention (`fastercache`)",
        "outputs of every block's layers: a great deal",
    ),
    GUIDANCE: ("the conditional branch, half of the work", "one to three latents"),
}


def written(page: str, text: str) -> str:
    """``text`` of ``page`` with its table as it should be."""
    rows = _by_depth() if page == "README.md" else _by_policy()
    return _TABLE.sub(lambda marks: f"{marks[1]}\n{rows}\n\n{marks[2]}", text)


def _by_depth() -> str:
    """A row for each depth; what each policy does is left to ``docs/methods.md``."""
    lines = [_line(["what is skipped", "still runs", "is kept", "policies"]), _line(["---"] * 4)]
    for group, names in grouped().items():
        named = ", ".join(f"`{n}`" + " (default)" * (n == next(iter(POLICIES))) for n in names)
        link = f"[{group}]({METHODS}#{group.replace(' ', '-')})"
        lines.append(_line([link, *DEPTHS[group], named]))
    link = f"[across requests]({METHODS}#across-requests)"
    disk = "every output of the model, on disk"
    nodes = "none: the nodes SenCache Store and SenCache Resume, with any policy"
    lines.append(
        _line([link, "nothing, where an earlier run had the very same input", disk, nodes])
    )
    return "\n".join([*lines, _line(["nothing", "all", "nothing", "`off`"])])


def _by_policy() -> str:
    """A line for each policy, ordered by depth."""

    def row(name: str) -> str:
        return f"- **{name}** ({POLICIES[name].title}) - {POLICIES[name].decides}."

    parts = {group.capitalize(): map(row, own) for group, own in grouped().items()}
    parts["No cache"] = [row("off")]
    return "\n\n".join(f"### {head}\n\n" + "\n".join(own) for head, own in parts.items())


def methods_page() -> str:
    """``docs/methods.md``: every method at a glance, and each by itself."""
    rows = json.loads((ROOT / "docs" / "methods.json").read_text(encoding="utf-8"))
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["method"], []).append(row)
    rules = [f"{name} (rule)" for name in REUSE_RULES]
    parts = {**grouped(), "reuse rules, on even steps": rules}
    families = list(dict.fromkeys(row["family"] for row in rows))
    head = ["method", "a skipped step costs", "it keeps", *families]
    text = [_HEAD]
    for group, names in parts.items():
        text += [f"\n## {group.capitalize()}\n", _line(head), _line(["---"] * len(head))]
        text += [_line(_overview(name, found.get(name, []), families)) for name in names]
        text += [_about(name, found.get(name, [])) for name in names]
    text += [_own_rules(), _ACROSS]
    return "\n".join(text) + "\n"


_HEAD = """# Methods

Written by `python tools/tables.py`; the figures come from
`sencache methods --json docs/methods.json`.

Each method is run for 12 steps at a budget of 0.5, in ComfyUI and diffusers, with its defaults and
the reuse rules of its authors. Columns of families: likeness to the uncached clip in dB (PSNR),
ComfyUI / diffusers; *no*: it does not run there, and why is said below. **Likeness to the uncached
clip is not quality, and the models are tiny** (those of Wan 2.2 and LTX-2 small and random): the
figures show that a method runs and what it spares, and say nothing about real models. Twelve steps
are few, which lines and curves through the last outputs suffer from most, on CogVideoX above all
(`linear`, `taylorseer`, `spectrum`...). [benchmarks/RESULTS.md](../benchmarks/RESULTS.md) compares
methods at equal cost, on 20 and 50 steps.

In ComfyUI choose a method with SenCache Policy Select, in Python by its name:
`CacheConfig(policy=POLICIES["teacache"]())`. What its authors published is there as a preset:
*paper preset* in Policy Select, `PRESETS` of `sencache_core.policies.presets`.

What a skipped step costs (share of a full one's block work, where all is reused that the method
may reuse) and what is kept are for Wan 2.1 1.3B at 832 x 480, 81 frames, two branches, residuals in
half precision."""

_ACROSS = """
## Across requests

SenCache Store keeps on disk what the model gave in earlier runs, and SenCache Resume hands it back
where the input is the very same, bit for bit, with every sampler and below any method of this page;
see their help pages ([Store](../web/docs/SenCacheStore.md),
[Resume](../web/docs/SenCacheResume.md))."""


def _own_rules() -> str:
    """Rules that cannot be chosen, because they belong to a policy."""
    rules = (getattr(reuse, name) for name in reuse.__all__ if name[0].isupper())
    own = {r.name: r for r in rules if isinstance(r, type) and "name" in vars(r)}
    lines = [f"- `{name}`: {r.gives}." for name, r in own.items() if name not in REUSE_RULES]
    return "\n### Rules that belong to a policy\n\n" + "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _overview(name: str, rows: Sequence[Mapping[str, Any]], families: Sequence[str]) -> list[str]:
    if not rows:
        return [f"`{name}`", *["not run yet"] * (len(families) + 2)]
    cells = []
    for family in families:
        by_host = sorted((r for r in rows if r["family"] == family), key=lambda r: r["host"])
        dB = (f"{r['psnr_mean']:.0f}" if r["runs"] else "no" for r in by_host)
        cells.append(" / ".join(dB) or "not run")
    return [f"`{name}`", f"{rows[0]['skipped_cost']:.0%}", _bytes(rows[0]["memory"]), *cells]


def _bytes(count: int) -> str:
    mebi = count / 2**20
    return f"{mebi:,.0f} MiB" if mebi < 1024 else f"{mebi / 1024:.1f} GiB"


def _about(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """One method: what it does, whose it is, what it costs where, where it does not run."""
    policy = POLICIES.get(name)
    title = policy.title if policy else f"Reuse rule {name.removesuffix(' (rule)')}"
    lines = [f"\n### {name}: {title}\n"]
    if policy:
        lines.append(f"Decides by: {policy.decides}.\n")
    source = policy or REUSE_RULES[name.removesuffix(" (rule)")]
    if not policy:
        lines.append(f"A skipped step is given: {source.gives}.\n")
    papers = dict.fromkeys(re.findall(r"(?<!\d)\d{4}\.\d{5}(?!\d)", source.__doc__ or ""))
    links = ", ".join(f"[arXiv {number}](https://arxiv.org/abs/{number})" for number in papers)
    lines.append(f"- Paper: {links or 'none; see its docstring'}")
    lines.append(f"- Since: {_since(name.removesuffix(' (rule)'))}")
    if not rows:
        return "\n".join([*lines, "- Not run yet."])
    saved: dict[str, list[str]] = {}
    for row in rows:
        if row["runs"]:
            saved.setdefault(f"{row['saved']:.0%}", []).append(f"{row['family']} {row['host']}")
    most = max(saved, key=lambda share: len(saved[share]), default="")
    told = [f"{share} ({', '.join(w)})" if share != most else share for share, w in saved.items()]
    lines += [f"- Spares at a budget of 0.5: {'; '.join(told) or 'nothing'}"]
    lines += [f"- Parity: {rows[0]['parity']}"]
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if not row["runs"]:
            reasons.setdefault(row["note"], []).append(f"{row['family']} in {row['host']}")
    return "\n".join([*lines, *(f"- Not {', '.join(w)}: {why}" for why, w in reasons.items())])


def _since(name: str) -> str:
    """The oldest version whose changes name it."""
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    named = [part for part in changes.split("\n## [")[1:] if f"`{name}`" in part]
    version = named[-1].partition("]")[0] if named else "Unreleased"
    return f"{__version__}, not released yet" if version == "Unreleased" else version


def words(known: Mapping[str, str]) -> dict[str, str]:
    """``known`` English words of the web, with the core's messages as they are now."""
    own = {
        key: text
        for key, text in known.items()
        if not key.startswith("message.") or key.startswith(OF_NODES)
    }
    return own | {f"message.{key}": text for key, text in ENGLISH.items()}


def main() -> None:
    for page in PAGES:
        path = ROOT / page
        path.write_text(written(page, path.read_text(encoding="utf-8")), encoding="utf-8")
        print("wrote", page)
    (ROOT / METHODS).write_text(methods_page(), encoding="utf-8")
    print("wrote", METHODS)
    path = ROOT / WORDS
    told = words(json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print("wrote", WORDS)


if __name__ == "__main__":
    main()
