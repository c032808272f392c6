"""Series and tensors as batches of matrices, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from operator import index
from typing import Any

from svdinv.core.namespace import Array, Namespace, is_complex, sizes


def fourier_slices(
    X: Array, axis: int, xp: Namespace
) -> tuple[Array, Callable[[Array], Array]]:
    """Fourier transform along an axis, a matrix for each frequency, and its inverse.

    X has shape (..., a, b, c), of which `axis`, from -3 to -1, is transformed. The
    result is complex, shape (..., frequencies, m, n); for real X, only the half of the
    frequencies that determines the rest.
    """
    ndim, length = len(X.shape), sizes(X, xp)[axis]
    batch = tuple(range(ndim - 3))
    first, second = (i for i in range(ndim - 3, ndim) if i != axis % ndim)
    last = xp.permute_dims(X, (*batch, first, second, axis % ndim))
    whole = is_complex(X, xp)
    spectrum = xp.fft.fft(last, axis=-1) if whole else xp.fft.rfft(last, axis=-1)
    slices = xp.permute_dims(spectrum, (*batch, ndim - 1, ndim - 3, ndim - 2))

    def back(slices: Array) -> Array:
        last = xp.permute_dims(slices, (*batch, ndim - 2, ndim - 1, ndim - 3))
        if whole:
            last = xp.fft.ifft(last, axis=-1)
        else:
            last = xp.fft.irfft(last, n=length, axis=-1)
        order = [*batch, first, second, axis % ndim]
        return xp.permute_dims(last, tuple(order.index(i) for i in range(ndim)))

    return slices, back


@dataclass(frozen=True)
class Tiling:
    """Images of H x W pixels cut into blocks, from a first row and column on.

    Images that are no multiple of the block are padded with zeros, and the tiling wraps
    around.
    """

    size: tuple[int, int]
    block: tuple[int, int]
    shift: tuple[int, int]

    def cut(self, x: Array, xp: Namespace) -> Array:
        """Casorati matrices of a series (..., T, H, W).

        Shape (..., rows, columns, pixels of a block, T).
        """
        for axis, (size, block, shift) in zip((-2, -1), self._axes(), strict=True):
            x = zero_padded(x, -size % block, axis, xp)
            x = xp.roll(x, -shift, axis=axis) if shift else x
        *batch, T, H, W = sizes(x, xp)
        (h, w), n = self.block, len(batch)
        # One axis at a time: JAX refuses more for arrays sharded over explicit axes.
        x = xp.reshape(x, (*batch, T, H // h, h, W))
        x = xp.reshape(x, (*batch, T, H // h, h, W // w, w))
        x = xp.permute_dims(x, (*range(n), n + 1, n + 3, n + 2, n + 4, n))
        return xp.reshape(x, (*batch, H // h, W // w, h * w, T))

    def join(self, tiles: Array, xp: Namespace) -> Array:
        """Undo `cut`."""
        *batch, rows, columns, _, T = sizes(tiles, xp)
        (h, w), n = self.block, len(batch)
        x = xp.reshape(tiles, (*batch, rows, columns, h, w, T))
        x = xp.permute_dims(x, (*range(n), n + 4, n, n + 2, n + 1, n + 3))
        x = xp.reshape(x, (*batch, T, rows * h, columns, w))
        x = xp.reshape(x, (*batch, T, rows * h, columns * w))
        for axis, (_, _, shift) in zip((-2, -1), self._axes(), strict=True):
            x = xp.roll(x, shift, axis=axis) if shift else x
        return x[..., : self.size[0], : self.size[1]]

    def _axes(self) -> Iterator[tuple[int, int, int]]:
        return zip(self.size, self.block, self.shift, strict=True)


def along(x: Array, axis: int, part: slice) -> Array:
    """Slice `x` along an axis counted from the end."""
    return x[(..., part, *[slice(None)] * (-axis - 1))]


def zero_padded(x: Array, count: Any, axis: int, xp: Namespace) -> Array:
    """Append `count` zeros (may be traced) along an axis counted from the end."""
    if isinstance(count, int) and count == 0:
        return x
    shape = list(sizes(x, xp))
    shape[axis] = count
    zero = xp.zeros_like(along(x, axis, slice(None, 1)))
    return xp.concat([x, xp.broadcast_to(zero, tuple(shape))], axis=axis)


def tilings(size: tuple[int, int], block: Any, stride: Any, shift: Any) -> list[Tiling]:
    """Check sizes; return the tilings that together hold all blocks a stride apart."""
    blocks = pair("block", block)
    strides = blocks if stride is None else pair("stride", stride)
    shifts = pair("shift", shift)
    for name, given in (("block", blocks), ("stride", strides)):
        if min(given) < 1:
            raise ValueError(f"{name} must be positive, got {given}")
    if any(b % s for b, s in zip(blocks, strides, strict=True)):
        raise ValueError(f"stride must divide block {blocks}, got {strides}")
    steps = (
        range(first, first + b, s)
        for first, b, s in zip(shifts, blocks, strides, strict=True)
    )
    return [Tiling(size, blocks, (row, column)) for row, column in product(*steps)]


def pair(name: str, value: Any) -> tuple[int, int]:
    """Return two integers as they are, and one integer twice."""
    two = value if isinstance(value, (tuple, list)) else (value, value)
    try:
        first, second = map(index, two)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be an integer or two of them, got {value!r}"
        ) from error
    return first, second
