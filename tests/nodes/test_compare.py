"""The Compare node in this process: what it shows, what it writes, and what it says instead."""

import json

import pytest
import torch

pytestmark = pytest.mark.comfyui


def clip(frames=3, height=16, width=24, value=0.5):
    return torch.full((frames, height, width, 3), value)


@pytest.fixture
def compare(pack, monkeypatch, tmp_path):
    """Runs the node; its outputs, and what it shows."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path))

    def run(**inputs):
        found = pack.nodes["SenCacheCompare"].execute(**inputs)
        (shown,) = found.ui["sencache_compare"]
        json.dumps(found.ui, allow_nan=False)
        return found.args, shown

    return run


def test_all_that_the_player_needs_is_written(pack, compare, tmp_path):
    image = clip(value=0.6)
    image[1] = 0.5
    outputs, shown = compare(reference=clip(), image=image, fps=24.0, image_name=" half ")
    assert shown["problem"] is None and shown["names"] == ["uncached", "half"]
    assert (shown["frames"], shown["width"], shown["height"], shown["fps"]) == (3, 24, 16, 24.0)
    assert shown["scale"] == pytest.approx(0.1) and shown["psnr"][0] == pytest.approx(20, abs=0.01)
    assert (len(shown["psnr"]), len(shown["ssim"])) == (3, 3) and shown["psnr"][1] == 100
    names = pack.part("sencache_core.app.clips").frame_name
    files = {path.name for path in (tmp_path / shown["folder"]).iterdir()}
    assert files == {names(letter, k) for letter in "abd" for k in range(3)} | {shown["video"]}
    psnr, worst, _, table, difference, video = outputs
    assert psnr > worst == pytest.approx(20, abs=0.01) and table.count("\n") == 5
    assert difference.shape == (3, 16, 24, 3) and difference[0].mean() == pytest.approx(0.4)
    assert video.get_dimensions() == (48, 16 + 24)
    again = compare(reference=clip(), image=image)[1]
    assert again["folder"] != shown["folder"]  # the earlier one may still be shown


@pytest.mark.parametrize(
    ("inputs", "key", "words"),
    [
        ({"reference": clip()}, "missing", "connect a clip to image."),
        ({}, "missing", "connect a clip to reference and to image."),
        ({"reference": clip(0), "image": clip(0)}, "missing", "connect a clip"),
        (
            {"reference": clip(), "image": clip(5)},
            "length",
            "differ in length: uncached has 3 frames and cached 5",
        ),
        (
            {"reference": clip(), "image": clip(5, 8)},
            "size",
            "differ in size: uncached is 24 x 16 pixels and cached 24 x 8",
        ),
        ({"reference": clip(3, 8), "image": clip(3, 8)}, "small", "at least 11|11 pixels"),
        (
            {"reference": clip(), "image": clip(value=float("nan"))},
            "broken",
            "Frame 1 has values that are no numbers",
        ),
    ],
)
def test_what_cannot_be_compared_is_told_in_a_sentence(compare, tmp_path, inputs, key, words):
    from comfy_execution.graph_utils import ExecutionBlocker

    outputs, shown = compare(**inputs)
    assert all(isinstance(output, ExecutionBlocker) for output in outputs) and len(outputs) == 6
    assert shown["problem"]["key"] == f"compare.{key}"
    assert any(part in shown["problem"]["text"] for part in words.split("|"))
    assert list(tmp_path.iterdir()) == []


def test_every_problem_has_its_words(pack):
    import re
    from pathlib import Path

    words = Path(pack.module.__file__).parent / "web" / "words" / "en.json"
    known = json.loads(words.read_text(encoding="utf-8"))
    for module, prefix in (("compare", "compare"), ("library", "library")):
        for key, text in pack.part(f"nodes.{module}")._SENTENCES.items():
            assert known[f"message.{prefix}.{key}"] == re.sub(r"\s+", " ", text)
