"""Curves on logarithmic axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from svdinv.unroll.display.pictures import new_figure
from svdinv.unroll.formats.atomic import replacing

__all__ = ["save_curves"]


def save_curves(
    path: Path,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    title: str,
) -> None:
    """Write a PNG with curves of points, both axes logarithmic.

    Dashed where the name ends in "random". Raises ImportError without Matplotlib.
    """
    figure = new_figure((6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for name, points in curves.items():
        style = "--" if name.endswith("random") else "-"
        axes.plot(*zip(*points, strict=True), style, marker="o", ms=3.5, label=name)
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y, title=title)
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(fontsize="small", frameon=False)
    with replacing(path) as stream:
        figure.savefig(stream, format="png", dpi=120)
