"""Frames, pictures of differences and videos, as read back from their files."""

import sys

import numpy as np
import pytest
import torch

from sencache_core.app import clips, metrics

Image = pytest.importorskip("PIL.Image")

LOW, NONE, HIGH = (np.array(clips.DIVERGING[k]) for k in (0, 2, 4))


def pair(frames=3, height=16, width=20):
    """A clip of two halves and the same with the upper rows brighter, the lower ones darker."""
    reference = torch.full((frames, 3, height, width), 0.5)
    reference[..., width // 2 :] = 0.25
    changed = reference.clone()
    changed[..., :4, :] += 0.1
    changed[..., -4:, :] -= 0.1
    return reference, changed


def test_frames_and_their_difference(tmp_path):
    reference, changed = pair()
    clips.write_frames(reference, changed, 0.1, tmp_path)
    names = {clips.frame_name(letter, k) for letter in "abd" for k in range(3)}
    assert {path.name for path in tmp_path.iterdir()} == names
    read = np.asarray(Image.open(tmp_path / "b_00002.jpg")).astype(int)
    assert np.abs(read - clips.pixels(changed[2])).max() <= 3
    drawn = np.asarray(Image.open(tmp_path / "d_00001.png").convert("RGB")).astype(int)
    assert drawn.shape == (16, 20, 3)
    for rows, colour in ((drawn[:4], HIGH), (drawn[4:12], NONE), (drawn[12:], LOW)):
        assert np.abs(rows - colour).max() <= 2


def test_equal_clips_have_a_white_difference(tmp_path):
    reference, _ = pair(1)
    clips.write_frames(reference, reference, 0.0, tmp_path)
    drawn = np.asarray(Image.open(tmp_path / "d_00000.png").convert("RGB"))
    assert (drawn == NONE).all()


def test_large_frames_are_made_smaller_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "LARGEST_SIDE", 10)
    clips.write_frames(*pair(1), 0.2, tmp_path)
    assert {Image.open(path).size for path in tmp_path.iterdir()} == {(10, 8)}
    middle = np.asarray(Image.open(tmp_path / "d_00000.png").convert("RGB")).astype(int)[0, 0]
    want = np.array(clips.DIVERGING[3])  # half of the scale
    assert np.abs(middle - want).max() <= 4


@pytest.mark.parametrize("height", [16, 17])
def test_a_video_has_the_reference_on_the_left(tmp_path, height):
    av = pytest.importorskip("av")
    reference, changed = pair(5, height)
    path = clips.write_side_by_side(reference, changed * 0, ("a", "b"), 12.5, tmp_path / "v")
    assert path.name == "v.mp4"
    with av.open(str(path)) as container:
        (stream,) = container.streams.video
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert float(stream.average_rate) == pytest.approx(12.5)
    assert len(frames) == 5 and frames[0].shape == (24 + height + height % 2, 40, 3)
    picture = frames[-1][24:].astype(int)
    assert abs(picture[:, 2:8].mean() - 127.5) < 6 and abs(picture[:, 12:18].mean() - 63.75) < 6
    assert picture[:, 24:].mean() < 8


def test_without_an_encoder_it_is_an_animated_picture(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    moving = torch.linspace(0, 1, 4).reshape(4, 1, 1, 1).expand(4, 3, 16, 20)
    path = clips.write_side_by_side(moving, moving, ("a", "b"), 10, tmp_path / "v")
    with Image.open(path) as image:
        assert path.name == "v.webp" and image.n_frames == 4 and image.size == (40, 40)


def test_a_scale_that_fits_reaches_the_strongest_colour(tmp_path):
    reference, changed = pair(1)
    clips.write_frames(reference, changed, metrics.difference_scale(reference, changed), tmp_path)
    drawn = np.asarray(Image.open(tmp_path / "d_00000.png").convert("RGB")).astype(int)
    assert np.abs(drawn[0, 0] - HIGH).max() <= 2
