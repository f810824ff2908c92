"""Write the tables that follow from the registries into README and help pages.

    python tools/tables.py

What stands between the two marks of a table is replaced. ``tests/test_docs.py`` fails where a page
is not up to date.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sencache_core import POLICIES  # noqa: E402

#: Pages with a table of policies, and how a row looks there.
PAGES = {
    "README.md": "| `{name}` | {decides} |",
    "web/docs/SenCachePolicySelect.md": "- **{name}** ({title}) - {decides}.",
}
_TABLE = re.compile(r"(<!-- policies -->\n).*?(<!-- end of policies -->)", re.DOTALL)


def written(page: str, text: str) -> str:
    """``text`` of ``page`` with its table as it should be."""
    names = {"planned": "planned` (default)"} if page == "README.md" else {}
    head = "| policy (when to skip) | decides by |\n|---|---|\n" if page == "README.md" else ""
    rows = "\n".join(
        PAGES[page]
        .format(name=name, title=policy.title, decides=policy.decides)
        .replace(f"`{name}`", f"`{names[name]}" if name in names else f"`{name}`")
        for name, policy in POLICIES.items()
    )
    return _TABLE.sub(lambda marks: f"{marks[1]}\n{head}{rows}\n\n{marks[2]}", text)


def main() -> None:
    for page in PAGES:
        path = ROOT / page
        path.write_text(written(page, path.read_text(encoding="utf-8")), encoding="utf-8")
        print("wrote", page)


if __name__ == "__main__":
    main()
