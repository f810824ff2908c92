"""Every language says what English says; the tool that tells translators what is left."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_SPEC = importlib.util.spec_from_file_location("languages", ROOT / "tools" / "languages.py")
languages = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(languages)

NODES = {"One": {"display_name": "One Node", "inputs": {"n": {"tooltip": "At most 0.5 for a_b."}}}}
EINS = {"One": {"display_name": "Un nœud", "inputs": {"n": {"tooltip": "0,5 de a_b au plus."}}}}
WORDS = {
    "hello": "Hello {name}, see One Node.",
    "steps_one": "{count} step",
    "steps_other": "{count} steps",
    "name": "SenCache",
}
MOTS = {
    "hello": "Bonjour {name}, voir Un nœud.",
    "steps_one": "{count} pas",
    "steps_other": "{count} pas tous",
    "name": "SenCache",
}
PAGE = "# One Node\n\nSet `n`, see [this](that.md).\n"
SEITE = "# Un nœud\n\nRéglez `n`, voir [ceci](that.md).\n"


@pytest.fixture
def tree(tmp_path) -> Path:
    """A small repository with a French that has nothing wrong."""
    for path, content in (
        ("locales/en/nodeDefs.json", NODES),
        ("locales/fr/nodeDefs.json", EINS),
        ("web/words/en.json", WORDS),
        ("web/words/fr.json", MOTS),
        ("web/docs/One.md", PAGE),
        ("web/docs/One/fr.md", SEITE),
    ):
        write(tmp_path / path, content)
    (tmp_path / "tools").mkdir()
    languages.done("fr", tmp_path)
    assert languages.faults("fr", tmp_path) == []
    return tmp_path


def write(path: Path, content: dict | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")


def left(tree: Path, language: str = "fr") -> list[tuple[str, str]]:
    return [(fault.key, fault.what) for fault in languages.faults(language, tree)]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ({"hello": None}, "missing"),
        ({"hello": " "}, "empty"),
        ({"hello": WORDS["hello"]}, "left in English"),
        ({"hello": "Bonjour {nom}, voir Un nœud."}, "names nom, not name"),
        ({"hello": "Bonjour {name}, voir One Node."}, "names no Un nœud"),
        ({"steps_one": "un pas"}, "names nothing, not count"),
        ({"steps_few": "{count} pas"}, "unknown"),
    ],
)
def test_what_is_wrong_with_words(tree, words, what):
    own = {key: text for key, text in (MOTS | words).items() if text is not None}
    write(tree / "web/words/fr.json", own)
    assert left(tree) == [(next(iter(words)), what)]


@pytest.mark.parametrize(
    ("tooltip", "what"),
    [
        ("0,7 de a_b au plus.", "lacks 0.5"),
        ("0,5 au plus|", "lacks a_b"),
        ("0,5 @a_b", "holds one"),
    ],
)
def test_what_is_wrong_with_a_locale(tree, tooltip, what):
    own = json.loads(json.dumps(EINS))
    own["One"]["inputs"]["n"]["tooltip"] = tooltip
    write(tree / "locales/fr/nodeDefs.json", own)
    ((key, found),) = left(tree)
    assert key == "One.inputs.n.tooltip" and found.startswith(what)


@pytest.mark.parametrize(
    ("page", "what"),
    [
        (SEITE.replace("# ", "## "), "has other headings"),
        (SEITE.replace("`n`", "n"), "lacks n"),
        (SEITE.replace("that.md", "ceci.md"), "lacks that.md"),
        (PAGE, "left in English"),
    ],
)
def test_what_is_wrong_with_a_page(tree, page, what):
    write(tree / "web/docs/One/fr.md", page)
    assert left(tree) == [("page", what)]


def test_where_the_english_has_changed_the_rest_is_stale(tree):
    write(tree / "web/words/en.json", WORDS | {"hello": "Hi {name}, see One Node."})
    write(tree / "web/docs/One.md", PAGE + "\nMore.\n")
    assert left(tree) == [("hello", "stale"), ("page", "stale")]
    languages.done("fr", tree)
    assert left(tree) == []


def test_each_language_has_its_own_plurals(tree):
    steps = [key for key, _ in left(tree, "ru") if key.startswith("steps")]
    assert steps == ["steps_one", "steps_few", "steps_many", "steps_other"]
    assert [key for key, _ in left(tree, "ja") if key.startswith("steps")] == ["steps_other"]
    write(tree / "web/words/es.json", {"steps_one": "un paso", "steps_other": "{count} pasos"})
    assert not [what for key, what in left(tree, "es") if key == "steps_one" and what != "stale"]


def test_files_that_english_has_not_are_found(tree):
    write(tree / "locales/fr/settings.json", {"A": {"name": "a"}})
    write(tree / "web/docs/Two/fr.md", "x")
    strays = [f.file for f in languages.faults("fr", tree) if f.what == "unknown"]
    assert strays == ["locales/fr/settings.json", "web/docs/Two/fr.md"]


def test_comfyui_is_given_the_languages_that_are_translated():
    folders = {path.name for path in (ROOT / "locales").iterdir()}
    assert folders == {"en", *languages.LANGUAGES}


@pytest.mark.parametrize("language", languages.LANGUAGES)
def test_every_language_says_all_that_english_says(language):
    """``python tools/languages.py`` lists what is left."""
    found = languages.faults(language)
    assert not found, f"{len(found)} left, the first: {found[0]}"
