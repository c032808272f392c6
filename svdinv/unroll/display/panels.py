"""Pictures and animations that compare reconstructions of one image or series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from svdinv._missing import needing
from svdinv.unroll.display.pictures import new_figure, save_animation
from svdinv.unroll.formats.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ZOOM = 4  # ratio of the shorter side of an image to the magnified window
_HEART = 0.4  # ratio of the window of a series to its shorter side
# Inches.
_WIDTH, _GAP, _MARGIN, _HEAD, _BOTTOM = 2.9, 0.1, 0.18, 1.15, 0.18
_BAR, _BAR_WIDTH = 0.55, 0.13
_SIDE, _PROFILE = 0.34, 1.1  # captions of series, and their profiles
_DPI = 110
_MOST_SHOWN = 2048  # pixels a side
_INK, _MUTED, _MARK = "#1a1a1a", "#6b6b6b", "#ffd23f"
_WHITE = 0.998  # quantile of a series that is white, below a few very bright pixels
# Sizes in an animation in pixels, and shades of grey.
_COLUMN, _SPACE, _LINE, _BLACK, _TEXT, _SUBTEXT = 240, 8, 20, 12, 240, 150


@dataclass(frozen=True)
class Entry:
    """One column of a panel: a heading, an image, and a line under the heading.

    The image is a picture (H, W, 3) in [0, 1], or a series (T, H, W), complex or
    magnitudes.
    """

    name: str
    image: NDArray[Any]
    label: str


def save_panel(
    path: str | Path, truth: Entry | None, entries: Sequence[Entry], *, title: str
) -> None:
    """Write a PNG with pictures, a magnified window, and error maps.

    The window is where the truth has most contrast. The errors are averaged over the
    channels and share one scale, which ignores the first entry, the zero-filled image.
    Without a truth, the panel has no error maps, and the last entry determines the
    window. Raises ImportError without Matplotlib.
    """
    columns = [truth, *entries] if truth else entries
    image = columns[0 if truth else -1].image
    height, width = image.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    side = min(height, width, max(16, min(height, width) // _ZOOM))
    top, left = _textured_window(image.mean(axis=-1), side)
    tall = _WIDTH * height / width
    sheet = _Sheet(len(columns), [tall, _WIDTH, *([tall] if truth else [])], title)
    for column, entry in enumerate(columns):
        sheet.head(column, entry)
        whole = sheet.axes[0, column]
        clipped = np.clip(entry.image, 0, 1)  # samples may have noise
        whole.imshow(_reduced(clipped), interpolation="antialiased", extent=extent)
        sheet.mark(column, left, top, side)
        window = clipped[top : top + side, left : left + side]
        sheet.framed(1, column).imshow(window, interpolation="nearest")
    if truth:
        reference = _reduced(truth.image)
        errors = [
            np.abs(_reduced(entry.image) - reference).mean(axis=-1) for entry in entries
        ]
        colours = (reference != reference[..., :1]).any()
        text = "mean absolute error\nover the channels" if colours else "absolute error"
        sheet.errors(2, errors, text)
    sheet.save(path)


def _reduced(image: NDArray[Any]) -> NDArray[Any]:
    """Subsample images that are much larger than their place in a panel."""
    step = max(image.shape[:2]) // _MOST_SHOWN + 1
    return image[::step, ::step]


def save_series_panel(
    path: str | Path, truth: Entry | None, entries: Sequence[Entry], *, title: str
) -> None:
    """Write a PNG with a frame of each series, a window, a profile, and error maps.

    The window is where the series varies most over time, and the frame is the one that
    differs most from the mean there. The profile is the central row of the window in
    all frames, the first at the top. A single frame has no profile, and its window is
    where it varies most. Magnitudes share one scale, and so do errors. Parameters and
    errors are those of `save_panel`.
    """
    columns = [truth, *entries] if truth else entries
    magnitudes = [np.abs(entry.image) for entry in columns]
    reference = magnitudes[0 if truth else -1]
    frames, height, width = reference.shape
    index, top, left, side = _moving_window(reference)
    window = np.s_[top : top + side, left : left + side]
    tall = _WIDTH * height / width
    moving = frames > 1
    rows = [tall, _WIDTH, *([_PROFILE] * moving), *([tall] if truth else [])]
    sheet = _Sheet(len(columns), rows, title, side=_SIDE)
    grey: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": _white(reference)}
    for column, (entry, series) in enumerate(zip(columns, magnitudes, strict=True)):
        sheet.head(column, entry)
        frame = series[index]
        whole = sheet.axes[0, column]
        whole.imshow(frame, interpolation="antialiased", **grey)
        sheet.mark(column, left, top, side)
        zoomed = sheet.framed(1, column)
        zoomed.imshow(frame[window], interpolation="nearest", **grey)
        if not moving:
            continue
        middle = [side // 2] * 2
        zoomed.plot([0, side - 1], middle, color=_MARK, lw=0.8, ls=(0, (4, 4)))
        row = series[:, top + side // 2, window[1]]
        sheet.axes[2, column].imshow(
            row, aspect="auto", interpolation="nearest", **grey
        )
    if moving:
        sheet.caption(0, f"frame {index + 1} of {frames}")
        sheet.caption(2, "time ↓")
    sheet.caption(1, "magnified")
    if truth:
        errors = [np.abs(e.image - truth.image)[index] for e in entries]
        meaning = "magnitude of the error" + "\nin this frame" * moving
        sheet.errors(len(rows) - 1, errors, meaning)
    sheet.save(path)


def save_series_animation(
    path: str | Path,
    truth: Entry | None,
    entries: Sequence[Entry],
    *,
    seconds: float = 0.1,
) -> None:
    """Write an endlessly repeating GIF with the magnitudes of series side by side.

    `seconds` is the duration of a frame. Raises ImportError without Pillow, and OSError
    if the file cannot be written.
    """
    with needing("PIL", "train"):
        from PIL import Image as pillow
        from PIL import ImageDraw, ImageFont

    columns = [truth, *entries] if truth else entries
    magnitudes = [np.abs(entry.image) for entry in columns]
    white = _white(magnitudes[0 if truth else -1])
    count, height, width = magnitudes[0].shape
    size = (_COLUMN, max(1, round(_COLUMN * height / width)))
    head = 2 * _LINE + _SPACE
    whole = (_SPACE + len(columns) * (_COLUMN + _SPACE), head + size[1] + _SPACE)
    background = pillow.new("L", whole, _BLACK)
    draw = ImageDraw.Draw(background)
    places = [_SPACE + i * (_COLUMN + _SPACE) for i in range(len(columns))]
    for x, entry in zip(places, columns, strict=True):
        name, label = (ImageFont.load_default(points) for points in (15, 13))
        draw.text((x, _SPACE), entry.name, fill=_TEXT, font=name)
        draw.text((x, _SPACE + _LINE), entry.label, fill=_SUBTEXT, font=label)
    frames = []
    for t in range(count):
        frame = background.copy()
        for x, series in zip(places, magnitudes, strict=True):
            pixels = np.uint8(np.rint(255 * np.clip(series[t] / white, 0, 1)))
            image = pillow.fromarray(pixels).resize(size, pillow.Resampling.BICUBIC)
            frame.paste(image, (x, head))
        frames.append(np.asarray(frame) / 255)
    save_animation(path, frames, seconds=seconds)


class _Sheet:
    """A figure with a grid of pictures of equal width, in rows of given heights."""

    def __init__(
        self, columns: int, heights: Sequence[float], title: str, side: float = 0.0
    ) -> None:
        count, total, left = len(heights), sum(heights), _MARGIN + side
        width = left + columns * (_WIDTH + _GAP) + _BAR
        height = _BOTTOM + total + (count - 1) * _GAP + _HEAD
        self.figure = new_figure((width, height))
        self.axes = self.figure.subplots(
            count, columns, squeeze=False, height_ratios=heights,
            gridspec_kw={
                "left": left / width, "right": 1 - (_GAP + _BAR) / width,
                "bottom": _BOTTOM / height, "top": 1 - _HEAD / height,
                "wspace": _GAP / _WIDTH, "hspace": _GAP * count / total,
            },
        )  # fmt: skip
        for axes in self.axes.flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        self._write(0, 0.78, title, 15, _INK, "bold")

    def framed(self, row: int, column: int) -> Axes:
        """Return axes with a frame around them."""
        axes: Axes = self.axes[row, column]
        axes.spines[:].set(visible=True, color=_MARK, linewidth=1.6)
        return axes

    def mark(self, column: int, left: int, top: int, side: int) -> None:
        """Draw the outline of a window of the first picture of a column."""
        from matplotlib.patches import Rectangle

        corner = (left - 0.5, top - 0.5)
        outline = Rectangle(corner, side, side, fill=False, edgecolor=_MARK, lw=1.4)
        self.axes[0, column].add_patch(outline)

    def head(self, column: int, entry: Entry) -> None:
        self._write(column, 0.33, entry.name, 12, _INK, "bold")
        self._write(column, 0.11, entry.label, 10.5, _MUTED, "normal")

    def caption(self, row: int, text: str) -> None:
        """Write text along the left of a row."""
        self.axes[row, 0].set_ylabel(
            text, fontsize=10.5, color=_MUTED, labelpad=72 * _GAP
        )

    def errors(self, row: int, errors: Sequence[NDArray[Any]], meaning: str) -> None:
        """Draw error maps, from the second column on, and their colour scale."""
        # Zero-filled pixels would dominate the scale.
        scale = float(np.quantile(np.stack(errors[1:] or errors), 0.995)) or 1.0
        first, *others = self.axes[row]
        first.text(
            0.97, 0.5, meaning, ha="right", va="center", fontsize=10.5, color=_MUTED
        )
        for axes, error in zip(others, errors, strict=True):
            drawn = axes.imshow(error, vmin=0, vmax=scale, cmap="magma")
        place = (1 + _GAP / _WIDTH, 0, _BAR_WIDTH / _WIDTH, 1)
        bar = self.figure.colorbar(drawn, cax=axes.inset_axes(place))
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, colors=_MUTED, length=2)

    def save(self, path: str | Path) -> None:
        with replacing(path) as stream:
            self.figure.savefig(stream, format="png", dpi=_DPI)

    def _write(
        self, column: int, rise: float, text: str, size: float, color: str, weight: str
    ) -> None:
        """Write text above a column, `rise` inches over its first picture."""
        self.axes[0, column].annotate(
            text, (0, 1), (0, 72 * rise), xycoords="axes fraction",
            textcoords="offset points", fontsize=size, color=color, fontweight=weight,
            parse_math=False,  # file names may contain dollar signs
        )  # fmt: skip


def _moving_window(series: NDArray[np.floating]) -> tuple[int, int, int, int]:
    """Return the frame, top, left and side of the window with most temporal change.

    For a single frame, it is the window with most spatial change.
    """
    side = min(series.shape[1:])
    side = min(side, max(16, round(_HEART * side)))
    if len(series) == 1:
        return 0, *_textured_window(series[0], side), side
    top, left = _largest(_box_mean(series.astype(np.float64).var(axis=0), side))
    window = series[:, top : top + side, left : left + side]
    change = ((window - window.mean(axis=0)) ** 2).sum(axis=(1, 2))
    return int(change.argmax()), top, left, side


def _textured_window(image: NDArray[Any], side: int) -> tuple[int, int]:
    """Return the top and left of the window of an image with the largest variance."""
    image = image.astype(np.float64)
    mean, square = (_box_mean(values, side) for values in (image, image**2))
    return _largest(square - mean**2)


def _largest(values: NDArray[np.float64]) -> tuple[int, int]:
    """Return the row and the column of the largest value."""
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    return int(row), int(column)


def _box_mean(values: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    total = np.pad(values, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    rows = total[side:] - total[:-side]
    return (rows[:, side:] - rows[:, :-side]) / side**2


def _white(magnitudes: NDArray[np.floating]) -> float:
    return float(np.quantile(magnitudes, _WHITE)) or 1.0
