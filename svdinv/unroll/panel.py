"""A picture that compares reconstructions of one photograph."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

from svdinv.unroll.data import Image

__all__ = ["Entry", "save_panel"]

_ZOOM = 5  # the magnified window is this part of the shorter side
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

    The window lies where the truth has most detail; the errors, averaged over the
    channels, share one scale. The file is complete or not there at all: it is written
    under another name and then moved.

    Parameters
    ----------
    path : str or Path
        Where to write; an existing file is replaced.
    truth : Entry
        The photograph itself.
    entries : sequence of Entry
        What is compared to it, of the same shape.
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
    top, left = _most_detailed_window(truth.image, side)
    errors = [np.abs(entry.image - truth.image).mean(axis=-1) for entry in entries]
    # The samples miss whole pixels: they would drown the scale of all others.
    scale = float(np.quantile(np.stack(errors[1:] or errors), 0.995)) or 1.0

    cell = 2.9
    tall = cell * height / width
    figure = Figure(
        figsize=(cell * len(columns) + 0.6, 2 * tall + cell + 1.3), facecolor="white"
    )
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        3,
        len(columns) + 1,
        height_ratios=[tall, cell, tall],
        width_ratios=[1] * len(columns) + [0.05],
        left=0.012,
        right=0.955,
        bottom=0.015,
        top=1 - 1.05 / figure.get_figheight(),
        wspace=0.035,
        hspace=0.035,
    )
    figure.suptitle(
        title, x=0.012, ha="left", fontsize=15, fontweight="bold", color=_INK
    )
    for column, entry in enumerate(columns):
        whole = figure.add_subplot(grid[0, column])
        whole.imshow(entry.image, vmin=0, vmax=1, interpolation="antialiased")
        whole.set_title(entry.label, loc="left", fontsize=10.5, color=_MUTED, pad=5)
        whole.text(
            0,
            1,
            entry.name + "\n",
            transform=whole.transAxes,
            va="bottom",
            fontsize=12,
            fontweight="bold",
            color=_INK,
        )
        whole.add_patch(
            Rectangle((left, top), side, side, fill=False, edgecolor=_MARK, lw=1.4)
        )
        zoom = figure.add_subplot(grid[1, column])
        window = entry.image[top : top + side, left : left + side]
        zoom.imshow(window, vmin=0, vmax=1, interpolation="nearest")
        for axes in (whole, zoom):
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(axes is zoom)
                spine.set_color(_MARK)
                spine.set_linewidth(1.6)
    note = figure.add_subplot(grid[2, 0])
    note.axis("off")
    note.text(
        0.98,
        0.5,
        "mean absolute error\nover the channels",
        ha="right",
        va="center",
        fontsize=10.5,
        color=_MUTED,
        transform=note.transAxes,
    )
    for column, error in enumerate(errors, start=1):
        axes = figure.add_subplot(grid[2, column])
        drawn = axes.imshow(error, vmin=0, vmax=scale, cmap="magma")
        axes.axis("off")
    bar = figure.colorbar(drawn, cax=figure.add_subplot(grid[2, -1]))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=_MUTED, length=2)
    _replace(figure, Path(path))


def _most_detailed_window(image: Image, side: int) -> tuple[int, int]:
    """Find the square with the largest total variation, away from the border."""
    grey = image.mean(axis=-1)
    detail = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    total = np.pad(detail, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    sums = (
        total[side:, side:]
        - total[:-side, side:]
        - total[side:, :-side]
        + total[:-side, :-side]
    )
    top, left = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(top), int(left)


def _replace(figure: Figure, path: Path) -> None:
    handle, name = tempfile.mkstemp(suffix=".png", prefix=".", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            figure.savefig(stream, format="png", dpi=110)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
