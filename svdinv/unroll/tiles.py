"""Tiles of large images."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

Window = tuple[slice, slice]


class Tile(NamedTuple):
    """Windows of rows and columns of a tile.

    `seen` is the tile with its margin in the image; `inside` is the tile within `seen`,
    and `kept` the tile in the image.
    """

    seen: Window
    inside: Window
    kept: Window


def tiles(height: int, width: int, size: int, margin: int) -> Iterator[Tile]:
    """Yield the tiles of an image row by row, each with a margin within the image.

    The windows `kept`, of at most `size` x `size` pixels, cover every pixel once; the
    windows `seen` start at multiples of the common divisor of `size` and `margin`.
    """

    def cuts(length: int) -> Iterator[tuple[slice, slice, slice]]:
        for first in range(0, length, size):
            last = min(first + size, length)
            start, stop = max(0, first - margin), min(last + margin, length)
            inside = slice(first - start, last - start)
            yield slice(start, stop), inside, slice(first, last)

    for rows, columns in product(cuts(height), cuts(width)):
        yield Tile(*zip(rows, columns, strict=True))


def central(length: int, most: int) -> slice:
    """Return the slice of at most `most` places in the middle of an axis."""
    start = max(0, (length - most) // 2)
    return slice(start, start + most)
