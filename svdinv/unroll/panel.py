"""A picture that compares reconstructions of one photograph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

from svdinv.unroll.data import Image
from svdinv.unroll.files import replacing

__all__ = ["Entry", "save_panel"]

_ZOOM = 4  # the shorter side is this many times that of the magnified window
# Inches.
_WIDTH, _GAP, _MARGIN, _HEAD, _BOTTOM = 2.9, 0.1, 0.18, 1.15, 0.18
_BAR, _BAR_WIDTH = 0.55, 0.13
_INK, _MUTED, _MARK = "#1a1a1a", "#6b6b6b", "#ffd23f"


@dataclass(frozen=True)
class Entry:
    """One column of the panel.

    Attributes
    ----------
    name : str
        Heading.
    image : ndarray of float32, shape (H, W, 3)
        Picture in [0, 1].
    label : str
        Line under the heading, such as the PSNR.
    """

    name: str
    image: Image
    label: str


def save_panel(
    path: str | Path, truth: Entry, entries: Sequence[Entry], *, title: str
) -> None:
    """Write a PNG: pictures, a magnified window, and maps of the error.

    The window lies where the truth has most contrast; the errors, averaged over the
    channels, share one scale. The file is complete or not there at all: it is written
    under another name and then moved.

    Parameters
    ----------
    path : str or Path
        Where to write; an existing file is replaced.
    truth : Entry
        The photograph itself.
    entries : sequence of Entry
        What is compared to it, of the same shape. The first, the samples, does not
        count for the scale of the errors.
    title : str
        Title of the panel.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    # The object interface of matplotlib: no window, no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    columns = [truth, *entries]
    height, width = truth.image.shape[:2]
    side = max(16, min(height, width) // _ZOOM)
    top, left = _contrasty_window(truth.image, side)
    errors = [np.abs(entry.image - truth.image).mean(axis=-1) for entry in entries]
    # The samples miss whole pixels: they would drown the scale of all others.
    scale = float(np.quantile(np.stack(errors[1:] or errors), 0.995)) or 1.0

    tall = _WIDTH * height / width
    rows = [_BOTTOM + tall + _GAP + _WIDTH + _GAP, _BOTTOM + tall + _GAP, _BOTTOM]
    full_width = _MARGIN + len(columns) * (_WIDTH + _GAP) + _BAR
    full_height = rows[0] + tall + _HEAD
    figure = Figure(figsize=(full_width, full_height), facecolor="white")
    FigureCanvasAgg(figure)

    def axes(row: int, column: float, wide: float = _WIDTH) -> Axes:
        """Place axes by inches, so that rows and columns meet exactly."""
        x = _MARGIN + column * (_WIDTH + _GAP)
        size = (wide / full_width, (_WIDTH if row == 1 else tall) / full_height)
        placed = figure.add_axes((x / full_width, rows[row] / full_height, *size))
        placed.set_xticks([])
        placed.set_yticks([])
        for spine in placed.spines.values():
            spine.set_visible(row == 1)
            spine.set_color(_MARK)
            spine.set_linewidth(1.6)
        return placed

    def write(
        column: int, rise: float, text: str, size: float, color: str, weight: str
    ) -> None:
        """Write above a column, `rise` inches over its first picture."""
        x = _MARGIN + column * (_WIDTH + _GAP)
        y = rows[0] + tall + rise
        figure.text(
            x / full_width,
            y / full_height,
            text,
            fontsize=size,
            color=color,
            fontweight=weight,
        )

    write(0, 0.78, title, 15, _INK, "bold")
    for column, entry in enumerate(columns):
        write(column, 0.33, entry.name, 12, _INK, "bold")
        write(column, 0.11, entry.label, 10.5, _MUTED, "normal")
        whole = axes(0, column)
        whole.imshow(entry.image, interpolation="antialiased")
        whole.add_patch(
            Rectangle((left, top), side, side, fill=False, edgecolor=_MARK, lw=1.4)
        )
        window = entry.image[top : top + side, left : left + side]
        axes(1, column).imshow(window, interpolation="nearest")
    axes(2, 0).text(
        0.97,
        0.5,
        "mean absolute error\nover the channels",
        ha="right",
        va="center",
        fontsize=10.5,
        color=_MUTED,
    )
    for column, error in enumerate(errors, start=1):
        drawn = axes(2, column).imshow(error, vmin=0, vmax=scale, cmap="magma")
    bar = figure.colorbar(drawn, cax=axes(2, len(columns), _BAR_WIDTH))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=_MUTED, length=2)
    with replacing(path) as stream:
        figure.savefig(stream, format="png", dpi=110)


def _contrasty_window(image: Image, side: int) -> tuple[int, int]:
    """Find the square with the largest variance: top and left."""
    grey = image.mean(axis=-1, dtype=np.float64)
    mean, square = (_box_mean(values, side) for values in (grey, grey**2))
    top, left = np.unravel_index(int((square - mean**2).argmax()), mean.shape)
    return int(top), int(left)


def _box_mean(values: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    total = np.pad(values, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    rows = total[side:] - total[:-side]
    return (rows[:, side:] - rows[:, :-side]) / side**2
