"""Two clips as files that can be looked at: frames, their difference, both side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
from torch import Tensor

from .metrics import differences

#: Longest side of a frame that is written for a player (ours): nodes are smaller than that.
LARGEST_SIDE = 1280
#: From much darker to much brighter: RdBu of ColorBrewer 2.0, reversed, which colour-blind readers
#: can tell apart.
DIVERGING = ((5, 48, 97), (67, 147, 195), (247, 247, 247), (214, 96, 77), (103, 0, 31))
#: Index of "no difference" in a picture of differences, and the largest.
_ZERO, _LAST = 127, 254
_INK, _BAR = (255, 255, 255), (29, 36, 51)


def pixels(frames: Tensor) -> np.ndarray:
    """Frames ``[..., 3, H, W]`` in 0..1 as ``[..., H, W, 3]`` uint8."""
    return (frames.clamp(0, 1) * 255).round().byte().movedim(-3, -1).cpu().numpy()


def frame_name(letter: str, number: int) -> str:
    """File name of a frame: ``a`` reference, ``b`` clip, ``d`` their difference."""
    return f"{letter}_{number:05d}.{'png' if letter == 'd' else 'jpg'}"


def write_frames(reference: Tensor, clip: Tensor, scale: float, folder: str | Path) -> None:
    """Write what a player shows: the frames of both clips as JPEG, their difference as PNG.

    Args:
        reference: ``[F, 3, H, W]`` in 0..1.
        clip: the same shape.
        scale: difference that takes the strongest colour, see ``metrics.difference_scale``.
        folder: existing folder; see :func:`frame_name` for the names.
    """
    folder = Path(folder)

    def save(number: int) -> None:
        for letter, frames in (("a", reference), ("b", clip)):
            image = _fitting(_image(pixels(frames[number])))
            image.save(folder / frame_name(letter, number), quality=95, subsampling=0)
        (one,) = differences(reference[number : number + 1], clip[number : number + 1])
        _signed_picture(one, scale).save(folder / frame_name("d", number), compress_level=1)

    with ThreadPoolExecutor() as pool:  # Pillow's encoders run beside each other
        list(pool.map(save, range(len(reference))))


def _signed_picture(difference: Tensor, scale: float):
    """A difference ``[H, W]`` as a Pillow image in diverging colours, white for 0."""
    share = (difference / scale if scale else difference * 0).clamp(-1, 1)
    image = _fitting(_image((share * _ZERO).round().add(_ZERO).byte().cpu().numpy()))
    image.putpalette(_palette())  # last: pictures with a palette are not smoothed when made smaller
    return image


def write_side_by_side(
    reference: Tensor, clip: Tensor, names: Sequence[str], fps: float, stem: str | Path
) -> Path:
    """Both clips in one video, each below its name: the reference on the left.

    H.264 where PyAV can write it, which ComfyUI installs; else an animated WebP.

    Args:
        reference: ``[F, 3, H, W]`` in 0..1.
        clip: the same shape.
        names: of both.
        fps: frames per second.
        stem: path of the file, without extension.

    Returns:
        The file's path.
    """
    frames = _pairs(reference, clip, names)
    try:
        import av

        encoder = av.CodecContext.create("libx264", "w").name
    except (ImportError, ValueError):  # av raises a ValueError where it lacks a codec
        return _write_webp(frames, fps, Path(f"{stem}.webp"))
    path = Path(f"{stem}.mp4")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=Fraction(fps).limit_denominator(1000))
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "14", "preset": "veryfast"}
        for number, frame in enumerate(frames):
            if not number:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def _write_webp(frames: Iterator[np.ndarray], fps: float, path: Path) -> Path:
    first, *others = map(_image, frames)
    shown = {"append_images": others, "duration": round(1000 / fps), "loop": 0}
    first.save(path, save_all=True, quality=90, **shown)
    return path


def _pairs(reference: Tensor, clip: Tensor, names: Sequence[str]) -> Iterator[np.ndarray]:
    """Frames ``[h, w, 3]`` uint8 of a video, of even height and width as H.264 wants them."""
    height, width = reference.shape[-2:]
    bar = _bar(names, width, max(24, height // 16 // 2 * 2))
    for a, b in zip(reference, clip, strict=True):
        both = np.concatenate([pixels(a), pixels(b)], axis=1)
        yield np.concatenate([bar, np.pad(both, ((0, height % 2), (0, 0), (0, 0)), mode="edge")])


def _bar(names: Sequence[str], width: int, height: int) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (2 * width, height), _BAR)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(round(0.6 * height))
    for number, name in enumerate(names):
        place = ((number + 0.5) * width, height / 2)
        draw.text(place, name, fill=_INK, font=font, anchor="mm")
    return np.asarray(image)


def _palette() -> bytes:
    stops = np.linspace(0, _LAST, len(DIVERGING))
    channels = [np.interp(range(_LAST + 1), stops, column) for column in zip(*DIVERGING)]
    return np.stack(channels, axis=1).round().astype(np.uint8).tobytes()


def _image(values: np.ndarray):
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(values))


def _fitting(image):
    if max(image.size) > LARGEST_SIDE:
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return image
