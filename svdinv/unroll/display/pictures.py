"""Pictures and animations, written to files."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdinv._missing import needing
from svdinv.unroll.formats.atomic import replacing, replacing_all

_GAP = 2  # pixels between the frames of a sheet


def save_picture(path: str | Path, image: NDArray[Any]) -> None:
    """Write (H, W) or (H, W, 3), clipped to [0, 1], as a PNG with 8 bits a channel."""
    (picture,) = _pictures([image])
    with replacing(path) as stream:
        picture.save(stream, format="PNG")


def save_animation(
    path: str | Path, frames: Iterable[NDArray[Any]], *, seconds: float
) -> None:
    """Write an endlessly repeating GIF, or an MP4 if the name ends in ``.mp4``.

    `frames` are one or more grey images (H, W), clipped to [0, 1]. `seconds` is the
    duration of a frame; for GIF it is rounded to 0.01 s and at least 0.02 s, because
    browsers slow down faster ones. Raises ImportError without Pillow, and for MP4
    OSError without the program ffmpeg.
    """
    first, *others = _pictures(frames)
    if Path(path).suffix.lower() == ".mp4":
        _save_mp4(Path(path), [first, *others], seconds)
        return
    with replacing(path) as stream:
        first.save(
            stream,
            format="GIF",
            save_all=True,
            append_images=others,
            duration=10 * max(2, round(100 * seconds)),  # milliseconds
            loop=0,
        )


def contact_sheet(frames: NDArray[Any]) -> NDArray[np.float32]:
    """Arrange grey frames (T, H, W) in rows of one picture, separated by grey lines."""
    count, height, width = frames.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    down, right = height + _GAP, width + _GAP
    sheet = np.full((rows * down - _GAP, columns * right - _GAP), 0.5, np.float32)
    for i, frame in enumerate(frames):
        top, left = i // columns * down, i % columns * right
        sheet[top : top + height, left : left + width] = frame
    return sheet


def save_frames(path: Path, frames: NDArray[Any], *, seconds: float) -> None:
    """Write grey frames as a GIF if the name ends in ``.gif``, else as one sheet."""
    if path.suffix.lower() == ".gif":
        save_animation(path, frames, seconds=seconds)
    else:
        save_picture(path, contact_sheet(frames))


def new_figure(size: tuple[float, float], **options: Any) -> Any:
    """Return a white Matplotlib figure, size in inches, without window or pyplot."""
    with needing("matplotlib", "train"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    figure = Figure(figsize=size, facecolor="white", **options)
    FigureCanvasAgg(figure)
    return figure


def _save_mp4(path: Path, pictures: list[Any], seconds: float) -> None:
    width, height = pictures[0].size
    words = f"""-loglevel error -f rawvideo -pixel_format gray
        -video_size {width}x{height} -framerate {1 / seconds:g} -i -
        -vf pad=ceil(iw/2)*2:ceil(ih/2)*2 -pix_fmt yuv420p -f mp4"""
    content = b"".join(picture.tobytes() for picture in pictures)
    with replacing_all([path]) as (draft,):
        # Without the protocol, ffmpeg would take the text before a colon for one.
        command = ["ffmpeg", *words.split(), f"file:{draft}"]
        done = subprocess.run(command, input=content, capture_output=True, check=False)
        if done.returncode:
            reason = done.stderr.decode("utf-8", "replace").strip() or "no reason given"
            raise OSError(f"ffmpeg cannot write {path}: {reason}")


def _pictures(images: Iterable[NDArray[Any]]) -> list[Any]:
    with needing("PIL", "train"):
        from PIL import Image as pillow
    return [
        pillow.fromarray(np.uint8(np.rint(255 * np.clip(image, 0, 1))))
        for image in images
    ]
