"""Transforms of images and series: Fourier transforms and differences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from svdinv.unroll.arrays import (
    Array,
    Namespace,
    along,
    as_complex,
    check_floating,
    namespace,
    on_device,
)
from svdinv.unroll.operators.linear import Operator


class Fourier(Operator):
    """Centred orthonormal Fourier transform of the last two axes.

    ``fftshift(fft2(ifftshift(x), norm="ortho"))``: the zero frequency lies at
    (H // 2, W // 2), and the inverse is the adjoint. Results are complex.
    """

    tight = True
    unitary = True
    keeps_size = True

    def forward(self, x: Array) -> Array:
        return _centred(x, "fftn")

    def adjoint(self, y: Array) -> Array:
        return _centred(y, "ifftn")


class TemporalFourier(Operator):
    """Orthonormal Fourier transform of a series along time, zero frequency first.

    It makes periodic and slow changes sparse, as in k-t FOCUSS and in the
    low-rank plus sparse model (Otazo, Candès & Sodickson, MRM 2015).

    Parameters
    ----------
    axis : int
        Negative axis of the transform; by default that of time in (..., T, H, W).

    Raises
    ------
    ValueError
        If `axis` is not negative.
    """

    tight = True
    unitary = True
    keeps_size = True

    def __init__(self, axis: int = -3) -> None:
        if axis >= 0:
            raise ValueError(f"axis must be negative, got {axis}")
        self.axis = axis

    def forward(self, x: Array) -> Array:
        """Map a series to its complex temporal spectrum."""
        return self._transform(x, "fft")

    def adjoint(self, y: Array) -> Array:
        return self._transform(y, "ifft")

    def extra_repr(self) -> str:
        return f"axis={self.axis}"

    def _transform(self, x: Array, name: str) -> Array:
        _check_axes(x, [self.axis])
        xp = namespace(x)
        x = as_complex(x, xp)
        if 0 in x.shape:  # not every Fourier transform accepts empty arrays
            return x
        return getattr(xp.fft, name)(x, axis=self.axis, norm="ortho")


class Gradient(Operator):
    """Forward differences along some axes, stacked along a new first axis.

    Parameters
    ----------
    axes : sequence of int
        Negative axes of the differences; by default those of an image.
    boundary : {"neumann", "periodic"}
        Difference at the end of an axis: 0, or to the first element.

    Raises
    ------
    ValueError
        If `axes` is empty, repeats an axis or has a nonnegative one, or
        `boundary` is not one of the accepted values.
    """

    def __init__(
        self,
        axes: Sequence[int] = (-2, -1),
        boundary: Literal["neumann", "periodic"] = "neumann",
    ) -> None:
        self.axes, self.boundary = tuple(axes), boundary
        if not self.axes or len(set(self.axes)) < len(self.axes) or max(self.axes) > -1:
            raise ValueError(f"axes must be different negative numbers, got {axes}")
        if boundary not in ("neumann", "periodic"):
            raise ValueError(
                f"boundary must be 'neumann' or 'periodic', got {boundary!r}"
            )

    @property
    def norm_bound(self) -> float:
        """Upper bound of the norm, 2 sqrt(number of axes)."""
        return 2 * math.sqrt(len(self.axes))

    def forward(self, x: Array) -> Array:
        """Map an image (...) to its differences (axes, ...)."""
        _check_axes(x, self.axes)
        check_floating("x", x)
        xp = namespace(x)
        return xp.stack([self._difference(x, a, xp) for a in self.axes], axis=0)

    def adjoint(self, y: Array) -> Array:
        """Map differences to an image, their negative divergence."""
        if y.shape[0] != len(self.axes):
            raise ValueError(
                f"differences must be ({len(self.axes)}, ...), got {tuple(y.shape)}"
            )
        check_floating("y", y)
        xp = namespace(y)
        parts = [self._transposed(y[i, ...], a, xp) for i, a in enumerate(self.axes)]
        return sum(parts[1:], parts[0])

    def extra_repr(self) -> str:
        return f"axes={self.axes}, boundary={self.boundary!r}"

    def _difference(self, x: Array, axis: int, xp: Namespace) -> Array:
        if self.boundary == "periodic":
            return xp.roll(x, -1, axis=axis) - x
        edge = along(x, axis, slice(None, 1))
        steps = along(x, axis, slice(1, None)) - along(x, axis, slice(None, -1))
        return xp.concat([steps, xp.zeros_like(edge)], axis=axis)

    def _transposed(self, z: Array, axis: int, xp: Namespace) -> Array:
        if self.boundary == "periodic":
            return xp.roll(z, 1, axis=axis) - z
        zero = xp.zeros_like(along(z, axis, slice(None, 1)))
        steps = along(z, axis, slice(None, -1))
        shifted = xp.concat([zero, steps], axis=axis)
        return shifted - xp.concat([steps, zero], axis=axis)


class Turned(Operator):
    """Rotate or reflect images: one of the eight symmetries of a square.

    `transposed` exchanges rows and columns, then `axes` are flipped.
    """

    tight = True
    unitary = True

    def __init__(self, transposed: bool, axes: tuple[int, ...]) -> None:
        self.transposed, self.axes = transposed, axes

    def forward(self, x: Array) -> Array:
        xp = namespace(x)
        x = xp.matrix_transpose(x) if self.transposed else x
        return xp.flip(x, axis=self.axes) if self.axes else x

    def adjoint(self, y: Array) -> Array:
        xp = namespace(y)
        y = xp.flip(y, axis=self.axes) if self.axes else y
        return xp.matrix_transpose(y) if self.transposed else y


def turns() -> Iterator[Turned]:
    """Yield all eight symmetries."""
    for transposed in (False, True):
        for axes in ((), (-1,), (-2,), (-2, -1)):
            yield Turned(transposed, axes)


def _centred(x: Array, transform: str) -> Array:
    xp = namespace(x)
    x, axes, size = as_complex(x, xp), (-2, -1), tuple(x.shape[-2:])
    if 0 in x.shape:  # not every Fourier transform accepts empty arrays
        return x
    function = getattr(xp.fft, transform)
    if None in size or size[0] % 2 or size[1] % 2:
        shifted = xp.fft.ifftshift(x, axes=axes)
        return xp.fft.fftshift(function(shifted, axes=axes, norm="ortho"), axes=axes)
    # For even lengths a shift by half is an alternating sign on the other side of the
    # transform, which is much faster where shifting is not a mere copy.
    before = _signs(size, (0, 0), x, xp)
    after = _signs(size, (size[0] // 2, size[1] // 2), x, xp)
    return after * function(before * x, axes=axes, norm="ortho")


def _signs(
    size: tuple[int, int], origin: tuple[int, int], x: Array, xp: Namespace
) -> Array:
    """Return a chequerboard of +1 and -1, +1 at `origin`."""
    rows, columns = (
        xp.arange(n, dtype=xp.int32, **on_device(x)) - first
        for n, first in zip(size, origin, strict=True)
    )
    return xp.astype(1 - 2 * ((rows[:, None] + columns) % 2), x.dtype)


def _check_axes(x: Array, axes: Sequence[int]) -> None:
    if -min(axes) > len(x.shape):
        raise ValueError(f"no axis {min(axes)} in an array of shape {tuple(x.shape)}")
