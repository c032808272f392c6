"""Tiles of an image that is too large to work on at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Tile", "middle", "tiles"]

Window = tuple[slice, slice]


class Tile(NamedTuple):
    """A part of an image.

    Attributes
    ----------
    seen : (slice, slice)
        Rows and columns to work on: the tile and a margin around it.
    inside : (slice, slice)
        The tile itself, in what is made of these.
    kept : (slice, slice)
        The tile itself, in the image.
    """

    seen: Window
    inside: Window
    kept: Window


def tiles(height: int, width: int, size: int, margin: int) -> Iterator[Tile]:
    """Cut an image into tiles, each with a margin as far as the image reaches.

    Parameters
    ----------
    height, width : int
        Of the image, in pixels.
    size : int
        Most pixels a side of what is kept of a tile.
    margin : int
        Pixels seen around it.

    Yields
    ------
    Tile
        By rows. What they keep covers the image, every pixel once; they see from
        multiples of the greatest common divisor of `size` and `margin` on.
    """
    for seen_rows, inside_rows, rows in _cuts(height, size, margin):
        for seen_columns, inside_columns, columns in _cuts(width, size, margin):
            yield Tile(
                (seen_rows, seen_columns),
                (inside_rows, inside_columns),
                (rows, columns),
            )


def middle(length: int, most: int) -> slice:
    """Give the middle part of an axis, whose own middle is that of the axis.

    Parameters
    ----------
    length : int
        Of the axis.
    most : int
        Of the part, if the axis is so long.

    Returns
    -------
    slice
        The part: index ``length // 2`` becomes half of its length.
    """
    size = min(length, most)
    first = length // 2 - size // 2
    return slice(first, first + size)


def _cuts(length: int, size: int, margin: int) -> Iterator[tuple[slice, slice, slice]]:
    for first in range(0, length, size):
        last = min(first + size, length)
        start, stop = max(0, first - margin), min(last + margin, length)
        yield (
            slice(start, stop),
            slice(first - start, last - start),
            slice(first, last),
        )
