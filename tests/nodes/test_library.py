"""Profiles and learnt models listed, renamed, deleted, exported and imported, by the routes."""

import http.client
import json
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from profiles import HEADER, MEAN, T
from safetensors.torch import save_file

from sencache_core import Profile
from sencache_core.measure.learnt import LearntProfile
from sencache_core.run.witness import Observed

pytestmark = pytest.mark.comfyui

ROUTE = "/sencache/library"


def profile() -> Profile:
    return Profile(HEADER, T, MEAN)


def learnt(**header) -> LearntProfile:
    y = np.random.default_rng(0).standard_normal((3, 40)) + 2
    gram = y @ y.T / 40
    seen = Observed(np.array([0.2, 0.5, 1.0]), gram, gram, 3, 0.05)
    return LearntProfile(replace(HEADER, samples=0, source="", **header)).with_run(seen)


class Client:
    """Asks the routes of a running ComfyUI."""

    def __init__(self, server):
        self.server = server
        self.user = server.folder / "user" / "default" / "sencache"
        self.profiles, self.learnt = self.user / "profiles", self.user / "learnt"

    def ask(self, route, body=None, kind="application/json", headers=None):
        """Status and content; POST with a body."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        head = {"Content-Type": kind, **(headers or {})} if body is not None else {}
        request = urllib.request.Request(self.server.url + ROUTE + route, data, head)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def untyped(self, route, body):
        """Status of a POST that says nothing of what it holds, as a page may send a blob."""
        line = http.client.HTTPConnection(urllib.parse.urlsplit(self.server.url).netloc, timeout=30)
        try:
            line.request("POST", ROUTE + route, body)
            return line.getresponse().status
        finally:
            line.close()

    def post(self, route, **body):
        status, text = self.ask(route, body)
        return status, json.loads(text)

    def rows(self):
        status, text = self.ask("")
        assert status == 200
        return {(row["kind"], row["name"]): row for row in json.loads(text)["rows"]}

    def load(self, data, name="x"):
        query = urllib.parse.urlencode({"name": name})
        status, text = self.ask(f"/import?{query}", data, "application/octet-stream")
        return status, json.loads(text)

    def files(self):
        folders = (self.profiles, self.learnt)
        return {path.name for folder in folders for path in folder.glob("*.safetensors")}


@pytest.fixture
def library(server):
    """With one profile ``mine`` and one learnt model; leaves the folders as they were."""
    client = Client(server)
    before = client.files()
    for folder in (client.profiles, client.learnt):
        folder.mkdir(parents=True, exist_ok=True)
    profile().save(client.profiles / "mine.safetensors")
    learnt().save(client.learnt / f"{learnt().name}.safetensors")
    yield client
    for folder in (client.profiles, client.learnt):
        for path in folder.glob("*.safetensors"):
            if path.name not in before:
                path.unlink()


def sentence(answer):
    return answer[1]["message"]["text"]


def test_the_list_says_what_each_rests_on(library):
    rows = library.rows()
    row = rows["profile", "mine"]
    assert row["own"] and row["problem"] == ""
    assert (row["family"], row["samples"], row["steps"], row["sampler"]) == ("wan", 2, 2, "euler")
    assert (row["guidance"], row["shape"]) == (5.0, [1, 16, 5, 8, 8])
    found = os.stat(library.profiles / "mine.safetensors")
    assert (row["size"], row["when"]) == (found.st_size, found.st_mtime)
    row = rows["learnt", learnt().name]
    assert row["samples"] == 1 and row["error"] == pytest.approx(0.05)


def test_a_damaged_file_is_listed_with_what_is_wrong(library):
    (library.profiles / "torn.safetensors").write_bytes(b"\x10")
    assert "cannot read" in library.rows()["profile", "torn"]["problem"]
    assert library.post("/delete", kind="profile", name="torn")[0] == 200
    assert not (library.profiles / "torn.safetensors").exists()


def test_rename(library):
    status, answer = library.post("/rename", kind="profile", name="mine", to="моя /модель")
    assert status == 200 and answer["name"] == "моя _модель"
    assert ("profile", "моя _модель") in library.rows()
    listed = library.server.get("/object_info/SenCacheProfileLoad")
    assert "моя _модель.safetensors" in json.dumps(listed, ensure_ascii=False)
    other = profile()
    other.save(library.profiles / "other.safetensors")
    answer = library.post("/rename", kind="profile", name="моя _модель", to="other")
    assert answer[0] == 409 and "already" in sentence(answer)
    assert {"other.safetensors", "моя _модель.safetensors"} <= library.files()
    assert library.post("/rename", kind="profile", name="other", to="other")[0] == 200


def test_what_was_learnt_has_a_label_and_keeps_its_name_and_date(library):
    path = library.learnt / f"{learnt().name}.safetensors"
    os.utime(path, (1000, 1000))
    status, answer = library.post("/rename", kind="learnt", name=path.stem, to="  Wan,\n mine ")
    assert (status, answer["name"]) == (200, "Wan, mine")
    row = library.rows()["learnt", path.stem]
    assert (row["label"], row["when"]) == ("Wan, mine", 1000)
    told = LearntProfile.load(path)
    more = told.with_run(told.runs[0])
    assert more.name == path.stem and more.header.label == "Wan, mine"


@pytest.mark.parametrize(
    ("name", "to", "status"),
    [
        ("../mine", "x", 404),
        ("/etc/passwd", "x", 404),
        ("mine.safetensors", "x", 404),
        ("", "x", 404),
        ("gone", "x", 404),
        (None, "x", 400),
        (["mine"], "x", 400),
        ("mine", None, 400),
        ("mine", "", 400),
        ("mine", "../..", 400),
        ("mine", "...", 400),
    ],
)
def test_malformed_names_change_nothing(library, name, to, status):
    before = library.files()
    assert library.post("/rename", kind="profile", name=name, to=to)[0] == status
    if name != "mine":
        assert library.post("/delete", kind="profile", name=name)[0] == status
    assert library.files() == before


def test_names_that_lead_elsewhere_stay_in_the_folder(library):
    status, answer = library.post("/rename", kind="profile", name="mine", to="../../up")
    assert status == 200 and (library.profiles / f"{answer['name']}.safetensors").is_file()
    assert "/" not in answer["name"] and not list(library.user.parent.parent.glob("up*"))


def test_foreign_pages_cannot_change_anything(library):
    """A form sends these types without asking first."""
    before = library.files()
    body = {"kind": "profile", "name": "mine"}
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert library.ask("/delete", body, kind)[0] == 400
        assert library.ask("/import?name=x", b"x", kind)[0] == 400
    assert (
        library.untyped("/import?name=x", (library.profiles / "mine.safetensors").read_bytes())
        == 400
    )
    for text in (b"", b"[]", b"{"):
        assert library.ask("/delete", text)[0] == 400
    assert library.post("/delete", kind="checkpoint", name="mine")[0] == 400
    assert library.files() == before


def test_what_is_exported_can_be_imported(library):
    status, data = library.ask("/file?kind=profile&name=mine")
    assert status == 200 and data == (library.profiles / "mine.safetensors").read_bytes()
    assert library.load(data, "mine.safetensors") == (200, {"kind": "profile", "name": "mine_2"})
    again = Profile.load(library.profiles / "mine_2.safetensors")
    assert again.header == HEADER and (again.mean["alpha_x"] == MEAN["alpha_x"]).all()
    name = learnt().name
    data = library.ask(f"/file?kind=learnt&name={name}")[1]
    answer = library.load(data)
    assert answer[0] == 409 and "learnt here already" in sentence(answer)
    assert library.post("/delete", kind="learnt", name=name)[0] == 200
    assert ("learnt", name) not in library.rows()
    assert library.load(data) == (200, {"kind": "learnt", "name": name})
    assert library.ask("/file?kind=learnt&name=../stored/x")[0] == 404


def test_what_is_no_profile_is_not_imported(library, tmp_path):
    before = library.files()
    save_file({"weight": torch.ones(3)}, tmp_path / "model.safetensors")
    whole = (library.profiles / "mine.safetensors").read_bytes()
    evil = learnt(fingerprint="../../up")
    evil.save(tmp_path / "evil.safetensors")
    unknown = learnt(family="../wan")
    unknown.save(tmp_path / "unknown.safetensors")
    cases = {
        "nothing": b"",
        "text": b"hello, world",
        "cut": whole[: len(whole) // 2],
        "model": (tmp_path / "model.safetensors").read_bytes(),
        "evil": (tmp_path / "evil.safetensors").read_bytes(),
        "unknown": (tmp_path / "unknown.safetensors").read_bytes(),
    }
    for name, data in cases.items():
        status, answer = library.load(data, name)
        assert status == 400 and answer["message"]["text"], name
        assert "/tmp" not in answer["message"]["text"], name
    assert library.files() == before
    assert not list(library.user.parent.parent.glob("up*"))


def test_a_file_elsewhere_is_listed_but_not_touched(pack, monkeypatch, tmp_path):
    """As a folder of extra_model_paths.yaml."""
    import folder_paths

    module, folders = pack.part("nodes.library"), pack.part("nodes.folders")
    monkeypatch.setattr(folders, "user_profiles", lambda: tmp_path / "own")
    (tmp_path / "own").mkdir()
    (tmp_path / "more" / "deep").mkdir(parents=True)
    profile().save(tmp_path / "own" / "a.safetensors")
    shutil.copy(tmp_path / "own" / "a.safetensors", tmp_path / "more" / "deep" / "b.safetensors")
    kinds = dict(folder_paths.folder_names_and_paths)
    places = [str(tmp_path / "own"), str(tmp_path / "more")]
    kinds[folders.PROFILES] = (places, {".safetensors"})
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", kinds)
    named = str(Path("deep", "b"))
    assert {row["name"]: row["own"] for row in module.rows()} == {"a": True, named: False}
    for change in (
        lambda: module.delete("profile", named),
        lambda: module.rename("profile", named, "c"),
    ):
        with pytest.raises(module.Refused, match="outside the pack's own folder"):
            change()
    assert (tmp_path / "more" / "deep" / "b.safetensors").is_file()
