"""Runs the unit tests of web/lib with Node."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sencache_core.app import look
from sencache_core.types import Reason

HERE = Path(__file__).resolve().parent


@pytest.mark.skipif(not shutil.which("node"), reason="Node.js is not installed")
def test_javascript():
    tests = sorted(str(path) for path in HERE.glob("*.test.mjs"))
    done = subprocess.run(["node", "--test", *tests], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_libraries_have_no_side_effects_on_comfyui():
    """The frontend loads every script below web/: only the files directly in it may touch ComfyUI."""
    web = HERE.parents[1] / "web"
    for path in (web / "lib").glob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert "scripts/" not in text and "registerExtension" not in text, path.name


def test_every_word_that_is_asked_for_is_there():
    web = HERE.parents[1] / "web"
    words = json.loads((web / "words" / "en.json").read_text(encoding="utf-8"))
    asked = set()
    for path in web.rglob("*.js"):
        asked |= set(re.findall(r"\"((?:viewer|quality)\.\w+)\"", path.read_text(encoding="utf-8")))
    assert len(asked) > 50
    assert [key for key in asked if not {key, f"{key}_other"} & words.keys()] == []


def test_reasons_and_decisions_have_words():
    words = json.loads((HERE.parents[1] / "web/words/en.json").read_text(encoding="utf-8"))
    keys = {f"viewer.reason.{re.sub('[^a-z]+', '_', one.value, flags=re.I)}" for one in Reason}
    assert keys == {key for key in words if key.startswith("viewer.reason.")}
    assert {key: words[f"viewer.decision.{key}"] for key in look.WORDS} == look.WORDS


def test_pictures_have_the_colours_of_the_strip_in_the_light_theme():
    source = (HERE.parents[1] / "web/lib/strip.js").read_text(encoding="utf-8")
    mixed = re.findall(r"--sc-(\w+): color-mix\(in srgb, #(\w{6}) (\d+)%, var\(--sc-ink", source)
    assert len(mixed) == 4
    ink = bytes.fromhex(look.INK[1:])
    for name, colour, percent in mixed:
        share = int(percent) / 100
        parts = zip(bytes.fromhex(colour), ink, strict=True)
        assert look.COLOURS[name] == "#" + "".join(
            f"{round(a * share + b * (1 - share)):02x}" for a, b in parts
        )
