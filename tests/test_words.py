"""What is said to users: every key has its English, every English its use, and the web the same."""

import ast
import json
import re
from pathlib import Path

import pytest

from sencache_core.types import Reason
from sencache_core.words import ENGLISH, LEVELS, Message, Speaker

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(p for room in ("sencache_core", "nodes") for p in (ROOT / room).rglob("*.py"))
SOURCE = "\n".join(path.read_text(encoding="utf-8") for path in FILES)
PARTS = json.loads((ROOT / "sencache_core" / "words.json").read_text(encoding="utf-8"))["part"]
STEMS = sorted({re.sub(r"_(one|other)$", "", key) for key in ENGLISH})


def names(text: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", text))


def lines(stem: str) -> list[str]:
    """A message's English: one text, or a singular and a plural."""
    forms = [f"{stem}_one", f"{stem}_other"]
    return [ENGLISH[stem]] if stem in ENGLISH else [ENGLISH[form] for form in forms]


def told() -> list[tuple[str, str, set[str], bool]]:
    """Where a message is said by its key: file, key, names of values, whether these are all."""
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            of = isinstance(node.func.value, ast.Name) and node.func.value.id == "Message"
            by_key = node.func.attr == "say" or (node.func.attr == "of" and of)
            if by_key and node.args and isinstance(node.args[0], ast.Constant):
                given = {keyword.arg for keyword in node.keywords}
                found.append((path.name, node.args[0].value, given - {None}, None not in given))
    return found


@pytest.mark.parametrize("stem", STEMS)
def test_every_message_is_said_somewhere(stem):
    prefix = stem.partition(".")[0]
    made = f'"{prefix}." +' in SOURCE or f'f"{prefix}.{{' in SOURCE  # of the name of a part
    assert f'"{stem}"' in SOURCE or (made and stem in PARTS)


@pytest.mark.parametrize("stem", STEMS)
def test_a_plural_names_what_its_singular_names(stem):
    texts = lines(stem)
    assert all(texts) and len({frozenset(names(text) - {"count"}) for text in texts}) == 1
    assert len(texts) == 1 or "count" in names(texts[-1])


def test_values_are_those_of_the_words():
    found = told()
    assert len(found) > 60
    for file, key, given, whole in found:
        assert key in STEMS, f"{file}: {key}"
        wanted = set.union(*map(names, lines(key)))
        assert given <= wanted | {"count"}, f"{file}: {key}"
        assert given >= wanted or not whole, f"{file}: {key}"


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_words(reason):
    assert str(Message("reason." + re.sub(r"\W+", "_", reason.value)))


def test_a_message_is_a_key_with_values():
    said = Message.of("nothing.forced", reasons=[Message.of("reason.warm_up"), "more"])
    assert str(said) == (
        "Nothing was skipped: every step had to be computed (warm-up, more). Widen start/end, "
        "shorten the warm-up or allow longer runs."
    )
    plain = said.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert (plain["key"], plain["text"], plain["level"]) == (said.key, str(said), "problem")
    assert plain["values"]["reasons"][0]["key"] == "reason.warm_up"
    assert "step," in str(Message.of("off.few_steps", count=1, least=10))
    assert "steps," in str(Message.of("off.few_steps", count=8, least=10))


def test_what_has_no_words_or_lacks_a_value_is_refused():
    with pytest.raises(ValueError, match=r"no line 'no\.such'"):
        Message.of("no.such")
    with pytest.raises(ValueError, match="lacks signal"):
        Message.of("unseen", policy="teacache")


def test_the_most_urgent_is_said_first_and_each_once():
    one = Speaker()
    one.messages = []
    for key in ("prior", "aim.same", "off.rising", "prior", "aim.same", "aim.true"):
        one.say(key)
    assert [m.key for m in one.messages] == ["off.rising", "aim.same", "prior", "aim.true"]
    assert [LEVELS.index(m.level) for m in one.messages] == [0, 1, 2, 2]
    assert one.texts[0].startswith("Caching is off")


def test_the_web_has_the_same_words():
    """``python tools/tables.py`` writes them."""
    words = json.loads((ROOT / "web" / "words" / "en.json").read_text(encoding="utf-8"))
    nodes = ("message.compare.", "message.library.")  # tests/nodes/test_compare.py has these
    told = {key: text for key, text in words.items() if key.startswith("message.")}
    own = {key: text for key, text in told.items() if not key.startswith(nodes)}
    assert own == {f"message.{key}": text for key, text in ENGLISH.items()}


def errors() -> list[str]:
    """What nodes and ComfyUI's host raise, ``_`` for what is filled in."""
    files = [p for p in FILES if p.parent.name == "nodes" or p.match("hosts/comfy*.py")]
    found = []
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)):
                continue
            if not getattr(node.exc.func, "id", "").endswith(("Error", "UnsupportedModel")):
                continue  # what is caught again, and told otherwise
            text = node.exc.args[0] if node.exc.args else None
            if isinstance(text, ast.Constant):
                found.append(text.value)
            elif isinstance(text, ast.JoinedStr):
                parts = (
                    part.value if isinstance(part, ast.Constant) else "_" for part in text.values
                )
                found.append("".join(parts))
    return found


def test_errors_are_one_sentence_with_the_way_out():
    """The way out stands after a colon or a semicolon, or the sentence is the way out itself."""
    found = errors()
    assert len(found) > 14
    for text in found:
        assert re.fullmatch(r"[A-Z_][^.]*(\w\.\w[^.]*)*\.", text), text
        assert re.search(r"[:;] ", text) or text.startswith("Set "), text
