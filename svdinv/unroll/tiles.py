"""Tiles of an image that is too large to work on at once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

Window = tuple[slice, slice]


class Tile(NamedTuple):
    """A part of an image: rows and columns.

    Those to work on, the tile and a margin around it, are `seen`; the tile itself is
    `inside` of what is made of these, and is `kept` in the image.
    """

    seen: Window
    inside: Window
    kept: Window


def tiles(height: int, width: int, size: int, margin: int) -> Iterator[Tile]:
    """Cut an image into tiles by rows, each with a margin as far as the image reaches.

    What they keep, at most `size` pixels a side, covers the image, every pixel once;
    they see from multiples of the greatest common divisor of `size` and `margin` on.
    """

    def cuts(length: int) -> Iterator[tuple[slice, slice, slice]]:
        for first in range(0, length, size):
            last = min(first + size, length)
            start, stop = max(0, first - margin), min(last + margin, length)
            inside = slice(first - start, last - start)
            yield slice(start, stop), inside, slice(first, last)

    for rows, columns in product(cuts(height), cuts(width)):
        yield Tile(*zip(rows, columns, strict=True))
