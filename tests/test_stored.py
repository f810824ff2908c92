"""Model outputs on disk: given back bit for bit, bounded, and safe from other processes."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from filelock import FileLock

from sencache_core.app.cli import main
from sencache_core.measure import stored
from sencache_core.measure.stored import CallFacts, CallKey, CallStore, StoreError, pooled
from sencache_core.model.digest import Opaque, digest, of_patches, of_weights

FACTS = CallFacts("0123456789ab", "wan", 0, 20, "euler", 4.0, (2, 16, 3, 8, 8))


def key(seed: int = 0, **parts: str) -> CallKey:
    names = ("model", "machine", "latent", "level", "inputs", "prompt")
    return CallKey(**{name: digest(name, seed) for name in names} | parts)


def output(seed: int = 0, size: int = 1000) -> torch.Tensor:
    return torch.randn(2, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def store(tmp_path):
    return CallStore(tmp_path / "new")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_given_back_bit_for_bit(store, dtype):
    given = output().to(dtype)
    given[0, 0], given[0, 1] = float("nan"), -0.0
    assert store.get(key()) is None
    assert store.put(key(), given, FACTS)
    found = store.get(key())
    assert found.dtype == dtype and found.shape == given.shape
    assert torch.equal(found.view(torch.uint8), given.view(torch.uint8))
    assert not store.put(key(), given, FACTS)  # it is there


@pytest.mark.parametrize("part", list(vars(key())))
def test_any_other_part_is_another_call(store, part):
    store.put(key(), output(), FACTS)
    other = replace(key(), **{part: digest("another")})
    assert store.get(other) is None
    assert store.why_not(other) == (part,)


def test_the_least_recently_used_make_room(store):
    store.put(key(0), output(0), FACTS)
    small = replace(store, most_bytes=3 * store.nbytes() + 100)
    (small.folder / "mine.safetensors").write_bytes(bytes(100_000))
    for seed in (1, 2):
        small.put(key(seed), output(seed), FACTS)
    for seed in range(3):
        os.utime(small.path(key(seed)), (1000 + seed, 1000 + seed))
    assert small.get(key(0)) is not None  # used, and so no longer the oldest
    small.put(key(3), output(3), FACTS)
    assert [small.path(key(seed)).exists() for seed in range(4)] == [True, False, True, True]
    assert small.nbytes() <= small.most_bytes
    assert (small.folder / "mine.safetensors").stat().st_size == 100_000


def test_what_is_larger_than_the_store_is_not_kept(store):
    small = replace(store, most_bytes=5_000)
    small.put(key(1), output(1, 100), FACTS)
    assert not small.put(key(0), output(), FACTS)
    assert small.get(key(0)) is None and small.get(key(1)) is not None


def damage(path, how: str) -> None:
    data = path.read_bytes()
    half = len(data) // 2
    changed = {
        "cut": data[:half],
        "empty": b"",
        "bit": data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :],
        "other": b"no tensors",
    }
    path.write_bytes(changed[how])


@pytest.mark.parametrize("how", ["cut", "empty", "bit", "other"])
def test_a_damaged_file_is_as_none_and_is_replaced(store, how):
    store.put(key(), output(), FACTS)
    damage(store.path(key()), how)
    assert store.get(key()) is None
    assert not store.path(key()).exists()
    assert store.put(key(), output(), FACTS)
    assert torch.equal(store.get(key()), output())


def test_a_newer_format_is_left_alone(store, monkeypatch):
    monkeypatch.setattr(stored, "_FORMAT", 2)
    store.put(key(), output(), FACTS)
    monkeypatch.undo()
    assert store.get(key()) is None
    assert store.path(key()).exists()
    assert [found for _, found in store.listed()] == [None]


def test_unfinished_files_of_killed_processes_go(store):
    store.put(key(0), output(), FACTS)
    old, new = store.folder / ".a.part", store.folder / ".b.part"
    old.write_bytes(b"1")
    new.write_bytes(b"1")
    os.utime(old, (1000, 1000))
    store.put(key(1), output(), FACTS)
    assert not old.exists() and new.exists()


def test_a_locked_folder_is_said(store, monkeypatch):
    store.folder.mkdir()
    monkeypatch.setattr(stored, "PATIENCE", 0.01)
    with FileLock(store.folder / ".lock"), pytest.raises(StoreError, match="locked"):
        store.put(key(), output(), FACTS)


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        CallStore(tmp_path / "file" / "store").put(key(), output(), FACTS)


WRITER = """
import sys, torch
from sencache_core.measure.stored import CallStore
sys.path.append(sys.argv[2])
from test_stored import FACTS, key, output
store = CallStore(sys.argv[1], 60_000)
for turn in range(40):
    store.put(key(turn % 8), output(turn % 8), FACTS)
    found = store.get(key((turn + 3) % 8))
    assert found is None or torch.equal(found, output((turn + 3) % 8))
"""


def test_two_processes_share_a_store(store):
    folder = os.path.dirname(__file__)
    command = [sys.executable, "-c", WRITER, str(store.folder), folder]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    left = [path.name for path in store.folder.iterdir() if path.name != ".lock"]
    assert left and not [name for name in left if name.endswith(".part")]
    assert store.nbytes() <= 60_000
    assert all(found is not None for _, found in store.listed())


def test_the_nearest_prompt_above_the_limit(store):
    asked = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    near = torch.tensor([[1.0, 0.1], [0.0, 1.0]])
    far = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    for seed, text in enumerate((far, near)):
        store.put(key(prompt=digest(seed)), output(seed), FACTS, text)
    store.put(key(prompt=digest(2), latent=digest("other")), output(2), FACTS, asked)
    found, cosine = store.nearest(key(), asked, 0.9)
    assert torch.equal(found, output(1))
    assert cosine == pytest.approx(1 / 1.01**0.5, abs=1e-6)
    assert store.nearest(key(), asked, 0.999) == (None, cosine)
    assert store.nearest(key(), asked[:1], 0.0)[0] is None  # another number of branches
    damage(store.path(key(prompt=digest(1))), "bit")
    assert torch.equal(store.nearest(key(), asked, 0.5)[0], output(0))
    assert store.nearest(key(9), asked, 0.0) == (None, None)


def test_pooling_leaves_padding_out():
    text = torch.zeros(2, 4, 3)
    text[0, :2], text[1, :1] = 2.0, 5.0
    assert pooled(text).tolist() == [[2.0] * 3, [5.0] * 3]
    assert pooled(torch.zeros(1, 2, 3)).tolist() == [[0.0] * 3]


def test_digests_tell_values_apart():
    class Odd:
        pass

    x = torch.arange(6.0).reshape(2, 3)
    values = [x, x + 0, x.T, x.bfloat16(), x.flatten(), [x], {"a": x}, {"b": x}, 1, True, 1.0, "1"]
    found = [digest(value) for value in values]
    assert found[0] == found[1]
    assert len(set(found)) == len(found) - 1
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(0.0) != digest(-0.0) and digest([1], [2]) != digest([1, 2])
    for value in (len, Odd(), [Odd()], {"a": lambda: 0}):
        with pytest.raises(Opaque):
            digest(value)


def test_weights_are_told_apart_by_values_and_format():
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    kinds = (weight, weight * 1.001, weight.half(), weight.to(torch.float8_e4m3fn))
    assert len({of_weights([("a", kind)]) for kind in kinds}) == len(kinds)
    assert of_weights([("a", weight)]) == of_weights([("a", torch.nn.Parameter(weight.clone()))])
    assert of_weights([("a", weight)]) != of_weights([("b", weight)])
    with pytest.raises(Opaque):
        of_weights([("a", weight.to("meta"))])


def test_patches_are_told_apart_by_strength_and_values():
    class Adapter:
        name = "lora"

        def __init__(self, scale: float) -> None:
            self.weights = (torch.ones(4, 2) * scale, None)

    def patches(strength: float, scale: float) -> dict:
        return {"blocks.0": [(strength, Adapter(scale), 1.0, None, None)]}

    found = [of_patches(patches(*pair)) for pair in ((1, 1), (1, 1), (0.9, 1), (1, 2))]
    assert found[0] == found[1] and len(set(found)) == 3
    with pytest.raises(Opaque):
        of_patches({"a": [(1.0, object(), 1.0, None, None)]})


def test_command(store, capsys, monkeypatch):
    for step in range(3):
        store.put(key(step), output(), replace(FACTS, step=step))
    store.put(key(9), output(), replace(FACTS, run="ffff00000000"))
    damage(store.path(key(9)), "empty")
    folder = ["--folder", str(store.folder)]
    assert main(["stored", "list", *folder]) == 0
    said = capsys.readouterr().out
    assert "0123456789ab: wan, 3 model calls, 3 of 20 steps, euler, guidance 4" in said
    assert "damaged" in said
    assert main(["stored", "remove", "nothing", *folder]) == 2
    monkeypatch.setenv(stored.VARIABLE, str(store.folder))
    assert main(["stored", "remove", "0123"]) == 0
    assert "3 removed" in capsys.readouterr().out
    assert main(["stored", "remove", "all"]) == 0
    assert main(["stored", "list"]) == 0
    assert "nothing is stored" in capsys.readouterr().out
    monkeypatch.delenv(stored.VARIABLE)
    assert main(["stored", "list"]) == 2
    assert "--folder" in capsys.readouterr().err
