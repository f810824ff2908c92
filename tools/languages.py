"""What is left to translate, and what is wrong with what is there.

    python tools/languages.py [fr ja ...]       # what is left, a line for each text
    python tools/languages.py --json [fr ...]   # the same for programs: file, key, what, english
    python tools/languages.py --done fr         # all that is there in French fits today's English

English comes first: ``locales/en/*.json`` (nodes, settings, commands), ``web/words/en.json`` (what
the pack's own scripts say) and ``web/docs/<Node>.md`` (help pages). Each has a counterpart in every
language, where ComfyUI and the pack look for it: ``locales/fr/*.json``, ``web/words/fr.json`` and
``web/docs/<Node>/fr.md``. Which English a translation was made from stands, hashed, in
``tools/translated/fr.json``: where the English has changed since, it is stale.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

#: The languages beside English, by ComfyUI's codes, and the plural forms that each needs (CLDR).
#: French and Spanish have "many" for millions too, which nothing here counts to.
LANGUAGES: Mapping[str, tuple[str, ...]] = {
    "zh": ("other",),
    "zh-TW": ("other",),
    "ja": ("other",),
    "ko": ("other",),
    "fr": ("one", "other"),
    "es": ("one", "other"),
    "ru": ("one", "few", "many", "other"),
}
#: Where "one" is said of 1 alone, so that the number need not be in it.
ONE_IS_ONE = {"en", "es"}
#: Texts that are the same in every language: names.
NAMES = {"SenCache", "PSNR", "SSIM", "JSON", "PNG", "SVG", "CSV"}
_UNITS = {
    *("{seconds} s", "{minutes} min {seconds} s", "{hours} h {minutes} min"),
    *("{s} s", "{m} min {s} s", "{h} h {m} min"),
    *("{value} s", "{value} min", "{value} h {rest} min", "PSNR {value} dB"),
}
_BORROWED = {"prompt", "Clips", "sigma", "Sigma {sigma}", "tap {tap}", "cfg {cfg}"}
_BOTH = _UNITS | _BORROWED | {"checkpoint {id}"}
#: Texts that happen to be the same in one language.
COGNATES: Mapping[str, set[str]] = {
    "fr": _BOTH | {"score", "Attention", "Budget", "budget {budget}", "Pause", "latent {shape}"},
    "es": _BOTH,
}

_PLACE = re.compile(r"\{(\w+)\}")
#: What must be left as it is in a locale: settings, names of values, numbers.
_EXACT = re.compile(r"\b\w+(?= =)|\b[a-z]+_\w+|-?\d+(?:\.\d+)?")
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)]+)\)")
_HEAD = re.compile(r"^(#+) ", re.MULTILINE)


class Fault(NamedTuple):
    """One text that is not as it should be.

    Attributes:
        file: of the language, relative to the repository.
        key: of the text in it; of a page ``"page"``.
        what: ``"missing"``, ``"stale"``, ``"unknown"``, or what is wrong with it.
        english: what is to be said.
    """

    file: str
    key: str
    what: str
    english: str


def texts(path: Path) -> dict[str, str]:
    """Texts of a file by key, such as ``SenCacheApply.inputs.tap.tooltip``; empty: no such file."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    return {"page": text} if path.suffix == ".md" else dict(_flat(json.loads(text), ""))


def _flat(words: Mapping, place: str) -> Iterator[tuple[str, str]]:
    for key, value in words.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", value


def files(root: Path) -> dict[str, Path]:
    """English files, by the name that they have in another language, which is ``{}`` in it."""
    found = {f"locales/{{}}/{p.name}": p for p in sorted((root / "locales/en").glob("*.json"))}
    found["web/words/{}.json"] = root / "web/words/en.json"
    pages = sorted((root / "web/docs").glob("*.md"))
    return found | {f"web/docs/{p.stem}/{{}}.md": p for p in pages}


def due(english: Mapping[str, str], forms: tuple[str, ...]) -> dict[str, str]:
    """What a language is to say, by its own keys: English, a plural once for each form."""
    out = {}
    for key, text in english.items():
        stem = _stem(key, english)
        if stem is None:
            out[key] = text
        elif key.endswith("_other"):
            out |= {f"{stem}_{f}": english[f"{stem}_one"] if f == "one" else text for f in forms}
    return out


def _stem(key: str, english: Mapping[str, str]) -> str | None:
    """What the forms of a plural have in common; ``None``: the key is of none."""
    stem, _, form = key.rpartition("_")
    both = {f"{stem}_one", f"{stem}_other"} <= set(english)
    return stem if both and form in ("one", "few", "many", "other") else None


def faults(language: str, root: Path = ROOT) -> list[Fault]:
    """What is left to do in a language, in the order of its files."""
    made, found = _record(language, root), []
    titles = {
        text: texts(root / f"locales/{language}/nodeDefs.json").get(key, text)
        for key, text in texts(root / "locales/en/nodeDefs.json").items()
        if key.endswith(".display_name")
    }
    for name, path in files(root).items():
        file = name.format(language)
        first, own = texts(path), texts(root / file)
        wanted = due(first, LANGUAGES[language])
        for key, english in wanted.items():
            if key not in own:
                found.append(Fault(file, key, "missing", english))
            elif wrong := _wrong(
                own[key], english, key, file, language, titles, _stem(key, first) is not None
            ):
                found.append(Fault(file, key, wrong, english))
            elif made.get(f"{name}:{key}") != _hash(english):
                found.append(Fault(file, key, "stale", english))
        found += [Fault(file, key, "unknown", "") for key in own if key not in wanted]
    known = {name.format(language) for name in files(root)}
    here = [
        *(root / f"locales/{language}").glob("*"),
        *(root / "web/docs").glob(f"*/{language}.md"),
    ]
    strays = sorted(path.relative_to(root).as_posix() for path in here)
    return found + [Fault(file, "", "unknown", "") for file in strays if file not in known]


def _wrong(
    text: str,
    english: str,
    key: str,
    file: str,
    language: str,
    titles: Mapping[str, str],
    counted: bool,
) -> str:
    """What is wrong with a text; empty: nothing is. ``counted``: it is one form of a plural."""
    if not text.strip():
        return "empty" if english.strip() else ""
    same = text == english and re.search("[a-z]", _PLACE.sub("", text))
    if same and english not in NAMES | COGNATES.get(language, set()):
        return "left in English"
    lacks = [own for title, own in titles.items() if title in english and own not in text]
    if lacks and not key.endswith(".display_name"):
        return f"names no {', '.join(lacks)}"
    if file.endswith(".md"):
        return _wrong_page(text, english)
    if file.startswith("locales/"):
        said = re.sub(r"(?<=\d),(?=\d)", ".", text)
        lacks = [part for part in _EXACT.findall(english) if part not in said]
        if lacks and not key.endswith(".display_name"):
            return f"lacks {', '.join(lacks)}"
        # They mean something to the frontend.
        return "holds one of {}@|" if set("{}@|") & set(text) else ""
    named, wanted = set(_PLACE.findall(text)), set(_PLACE.findall(english))
    if counted and key.endswith("_one") and language in ONE_IS_ONE:
        named, wanted = named | {"count"}, wanted | {"count"}
    elif counted:
        wanted |= {"count"}
    if named != wanted:
        return f"names {', '.join(sorted(named)) or 'nothing'}, not {', '.join(sorted(wanted))}"
    return ""


def _wrong_page(text: str, english: str) -> str:
    if _HEAD.findall(text) != _HEAD.findall(english):
        return "has other headings"
    for pattern in (_CODE, _LINK):
        if lacks := set(pattern.findall(english)) - set(pattern.findall(text)):
            return f"lacks {', '.join(sorted(lacks))}"
    return ""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _record(language: str, root: Path) -> dict[str, str]:
    path = root / f"tools/translated/{language}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def done(language: str, root: Path = ROOT) -> None:
    """Write down that what is there was made from the English of today."""
    made = {}
    for name, path in files(root).items():
        own = texts(root / name.format(language))
        wanted = due(texts(path), LANGUAGES[language])
        made |= {f"{name}:{key}": _hash(text) for key, text in wanted.items() if key in own}
    path = root / f"tools/translated/{language}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(made, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("languages", nargs="*", metavar="language", help=", ".join(LANGUAGES))
    parser.add_argument("--json", action="store_true", help="print a list of objects")
    parser.add_argument("--done", action="store_true", help="note that what is there is up to date")
    given = parser.parse_args()
    if unknown := set(given.languages) - set(LANGUAGES):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    chosen = given.languages or list(LANGUAGES)
    if given.done:
        for language in chosen:
            done(language)
    found = {language: faults(language) for language in chosen}
    if given.json:
        rows = [fault._asdict() for each in found.values() for fault in each]
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return int(bool(rows))
    for language, each in found.items():
        for file, key, what, english in each:
            print(f"{file}  {key}  [{what}]  {' '.join(english.split())[:100]}")
        print(f"{language}: {len(each) or 'nothing'} left to do")
    return int(any(found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
