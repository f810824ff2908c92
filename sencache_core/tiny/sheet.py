"""Contact sheets of clips, to look at samples."""

from __future__ import annotations

from pathlib import Path

import torch

_LABEL = 12


def contact_sheet(
    videos: torch.Tensor, labels: list[str], path: str | Path, every: int = 2
) -> None:
    """Write a PNG with one clip per row.

    Args:
        videos: ``[B, F, 3, H, W]`` in 0..1.
        labels: one line of text per clip.
        path: the file to write.
        every: show every n-th frame.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise ImportError(
            "contact sheets need Pillow: in the source tree, pip install -e '.[demo]'"
        ) from error

    videos = videos[:, ::every]
    rows, columns, _, height, width = videos.shape
    sheet = Image.new("RGB", (columns * width, rows * (height + _LABEL)))
    draw = ImageDraw.Draw(sheet)
    for row, (label, video) in enumerate(zip(labels, videos, strict=True)):
        top = row * (height + _LABEL)
        draw.text((2, top), label, fill="white")
        for column, frame in enumerate(video):
            array = (frame.permute(1, 2, 0) * 255).round().byte().cpu().numpy()
            sheet.paste(Image.fromarray(array), (column * width, top + _LABEL))
    sheet.save(path)
