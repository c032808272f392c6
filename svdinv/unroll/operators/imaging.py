"""Forward operators: what a measurement makes of an image, and its adjoint.

``y = A(x)`` measures, ``A.H(y)`` is the adjoint; ``A * B`` is A after B, ``A + B``
their sum, ``2 * A`` a multiple. The arrays may come from any framework and carry any
batch axes in front; a series is a batch of frames, with the axes (..., T, H, W). What
an operator is made of, such as its mask, may be of NumPy or of that framework, and is
taken in the precision of the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from svdinv.unroll.arrays import (
    Array,
    Namespace,
    as_complex,
    cast_like,
    check_broadcast,
    conj,
    is_bool,
    is_complex,
    namespace,
    sizes,
    stacked,
    zero_padded,
)
from svdinv.unroll.operators.linear import Operator, Product
from svdinv.unroll.operators.transforms import Fourier


class Sampling(Operator):
    """Measure the entries that a mask marks; the others become 0.

    Of an image this is inpainting, of a k-space undersampling.

    Parameters
    ----------
    mask : array of bool
        True where sampled; its shape broadcasts to that of the data.

    Raises
    ------
    TypeError
        If `mask` is no array of bool.
    """

    tight = True
    keeps_size = True
    arrays = ("mask",)

    def __init__(self, mask: Array) -> None:
        if not is_bool(mask):
            got = getattr(mask, "dtype", type(mask).__name__)
            raise TypeError(
                f"mask must be an array of bool, such as mask > 0, got {got}"
            )
        self.mask = mask

    @property
    def pixel_mask(self) -> Array:  # type: ignore[override]
        """The mask."""
        return self.mask

    def forward(self, x: Array) -> Array:
        xp = namespace(x)
        zero = xp.zeros_like(x[..., :1])
        return xp.where(self._mask(x, xp), x, zero)

    adjoint = project_to_samples = forward  # type: ignore[assignment]

    def consistent(self, x: Array, y: Array) -> Array:
        """Put the samples back in, bit by bit."""
        xp = namespace(x)
        return xp.where(self._mask(x, xp), y, x)

    def stacked(self, others: Sequence[Any], data: Array) -> Operator:
        every = _of_one_class(self, others)
        return Sampling(stacked([each.mask for each in every], len(data.shape)))

    def _mask(self, x: Array, xp: Namespace) -> Array:
        check_broadcast("mask", self.mask.shape, x.shape)
        return cast_like(self.mask, x, xp)


class Coils(Operator):
    """Weight an image by the sensitivity of each coil.

    Parameters
    ----------
    maps : array, shape (..., C, H, W)
        Sensitivity maps; for a batch of series (B, 1, C, H, W).

    Raises
    ------
    ValueError
        If `maps` has fewer than three axes.
    """

    arrays = ("maps",)

    def __init__(self, maps: Array) -> None:
        if len(maps.shape) < 3:
            raise ValueError(f"maps must be (..., C, H, W), got {tuple(maps.shape)}")
        self.maps = maps

    def forward(self, x: Array) -> Array:
        """From an image (..., H, W) to coil images (..., C, H, W)."""
        *batch, H, W = x.shape
        check_broadcast("maps", self.maps.shape, (*batch, self.maps.shape[-3], H, W))
        xp = namespace(x)
        return _product(cast_like(self.maps, x, xp), x[..., None, :, :], xp)

    def adjoint(self, y: Array) -> Array:
        check_broadcast("maps", self.maps.shape, y.shape)
        xp = namespace(y)
        return xp.sum(_product(conj(cast_like(self.maps, y, xp), xp), y, xp), axis=-3)

    def data_length(self, axis: int) -> int | None:
        """Return the number of coils, or None without coil maps."""
        return int(self.maps.shape[-3]) if axis == -3 else None


class MRI(Product):
    """Undersampled Cartesian magnetic resonance imaging.

    ``A = Sampling(mask) * Fourier() * Coils(maps)`` (Pruessmann et al., SENSE, MRM
    1999), without the coils where there are no maps.

    Parameters
    ----------
    mask : array of bool, shape (..., H, W)
        True where the k-space is sampled, of a series (..., T, H, W).
    maps : array, shape (..., C, H, W), optional
        Coil sensitivity maps, whose squared magnitudes should add up to 1; for a
        batch of series ``maps[:, None]``, (B, 1, C, H, W).

    Raises
    ------
    TypeError
        If `mask` is no array of bool.
    ValueError
        If the shapes of `mask` and `maps` do not go together.
    """

    arrays = ("mask", "maps")

    def __init__(self, mask: Array, maps: Array | None = None) -> None:
        self.mask, self.maps = mask, maps
        if maps is None:
            super().__init__([Sampling(mask), Fourier()])
            return
        coils = Coils(maps)
        if len(mask.shape) == len(maps.shape) == 4 and maps.shape[0] not in (1, None):
            raise ValueError(
                f"maps of shape {tuple(maps.shape)} may be those of each series or of "
                "each frame: give maps[:, None] or maps[None]"
            )
        _check_pair(mask, maps)
        super().__init__([Sampling(mask[..., None, :, :]), Fourier(), coils])

    def replace_arrays(self, convert: Callable[[Array], Array]) -> Operator:
        return Operator.replace_arrays(self, convert)

    def stacked(self, others: Sequence[Any], data: Array) -> Operator:
        every = _of_one_class(self, others)
        axes = len(data.shape)
        mask = stacked([each.mask for each in every], axes - (self.maps is not None))
        maps = [each.maps for each in every]
        if any((m is None) != (maps[0] is None) for m in maps):
            raise ValueError("of a batch, all have coil maps or none has")
        if maps[0] is None:
            return MRI(mask)
        return MRI(mask, stacked(maps, axes))

    def __repr__(self) -> str:
        return Operator.__repr__(self)


class Blur(Operator):
    """Circular convolution with a kernel, along the last two axes.

    Parameters
    ----------
    kernel : array, shape (..., h, w)
        Real or complex, no larger than the image. Its centre, which leaves an image
        where it is, lies at (h // 2, w // 2).

    Raises
    ------
    ValueError
        If `kernel` has fewer than two axes.
    """

    keeps_size = True
    arrays = ("kernel",)

    def __init__(self, kernel: Array) -> None:
        if len(kernel.shape) < 2:
            raise ValueError(f"kernel must be (..., h, w), got {tuple(kernel.shape)}")
        self.kernel = kernel

    def forward(self, x: Array) -> Array:
        """Blur; of a real image and a real kernel the result is real."""
        return self._filter(x, adjoint=False)

    def adjoint(self, y: Array) -> Array:
        return self._filter(y, adjoint=True)

    def _filter(self, x: Array, *, adjoint: bool) -> Array:
        xp, axes = namespace(x), (-2, -1)
        kernel = cast_like(self.kernel, x, xp)
        both = is_complex(x, xp) or is_complex(kernel, xp)
        if 0 in x.shape:  # which not every Fourier transform takes
            return as_complex(x, xp) if both else x
        transfer = self._transfer(kernel, x, xp)
        transfer = xp.conj(transfer) if adjoint else transfer
        spectrum = xp.fft.fftn(as_complex(x, xp), axes=axes, norm="ortho")
        result = xp.fft.ifftn(transfer * spectrum, axes=axes, norm="ortho")
        return result if both else xp.real(result)

    def _transfer(self, kernel: Array, x: Array, xp: Namespace) -> Array:
        """Fourier transform, not normalised, of the kernel around pixel (0, 0)."""
        h, w = self.kernel.shape[-2:]
        H, W = sizes(x, xp)[-2:]
        if any(isinstance(n, int) and k > n for k, n in ((h, H), (w, W))):
            raise ValueError(
                f"kernel {(h, w)} must not be larger than the image {(H, W)}"
            )
        padded = zero_padded(zero_padded(kernel, H - h, -2, xp), W - w, -1, xp)
        padded = xp.roll(padded, (-(h // 2), -(w // 2)), axis=(-2, -1))
        # Not normalised, in terms of the convention that all namespaces have.
        padded = as_complex(padded, xp)
        spectrum = xp.fft.fftn(padded, axes=(-2, -1), norm="ortho")
        return spectrum * _root(H * W, spectrum, xp)


class Dense(Operator):
    """Multiply an image, flattened, by a matrix: compressed sensing.

    Parameters
    ----------
    matrix : array, shape (m, n)
        Real or complex.
    image_shape : sequence of int
        Shape of an image, of n elements; axes of the data in front of it are a batch.

    Raises
    ------
    ValueError
        If `matrix` is no matrix with as many columns as the image has elements.

    See Also
    --------
    gaussian_sensing : A random matrix.
    """

    def __init__(self, matrix: Array, image_shape: Sequence[int]) -> None:
        self.matrix = matrix
        self.image_shape = tuple(int(n) for n in image_shape)
        size, shape = math.prod(self.image_shape), tuple(matrix.shape)
        if len(shape) != 2 or shape[1] != size or not self.image_shape:
            raise ValueError(
                f"matrix must be (m, {size}) for images {self.image_shape}, got {shape}"
            )

    def forward(self, x: Array) -> Array:
        """From images (..., *image_shape) to measurements (..., m)."""
        xp, count = namespace(x), len(self.image_shape)
        if tuple(x.shape)[-count:] != self.image_shape:
            raise ValueError(
                f"images must be (..., {', '.join(map(str, self.image_shape))}), "
                f"got {tuple(x.shape)}"
            )
        flat = xp.reshape(x, (*sizes(x, xp)[:-count], self.matrix.shape[1]))
        return self._multiply(
            xp.matrix_transpose(cast_like(self.matrix, x, xp)), flat, xp
        )

    def adjoint(self, y: Array) -> Array:
        xp, count = namespace(y), self.matrix.shape[0]
        if not len(y.shape) or y.shape[-1] not in (count, None):
            raise ValueError(
                f"measurements must be (..., {count}), got {tuple(y.shape)}"
            )
        flat = self._multiply(conj(cast_like(self.matrix, y, xp), xp), y, xp)
        return xp.reshape(flat, (*sizes(y, xp)[:-1], *self.image_shape))

    def data_length(self, axis: int) -> int | None:
        if axis != -1:
            raise NotImplementedError
        return int(self.matrix.shape[0])

    def replace_arrays(self, convert: Callable[[Array], Array]) -> Operator:
        return Dense(convert(self.matrix), self.image_shape)

    def extra_repr(self) -> str:
        return f"matrix {tuple(self.matrix.shape)}, image_shape={self.image_shape}"

    def _multiply(self, right: Array, rows: Array, xp: Namespace) -> Array:
        rows = as_complex(rows, xp) if is_complex(right, xp) else rows
        count, length = right.shape
        # One product of matrices: a batch of vectors would read `right` for each.
        product = xp.reshape(rows, (-1, count)) @ right
        return xp.reshape(product, (*sizes(rows, xp)[:-1], length))


def gaussian_sensing(
    measurements: int,
    image_shape: Sequence[int],
    rng: np.random.Generator | int,
    *,
    dtype: Any = np.float32,
) -> Dense:
    """Compressed sensing with a Gaussian random matrix, for images of some shape.

    Its elements are independent with mean 0 and variance 1 / `measurements`, so that it
    keeps the length of an image on average (Candès, Romberg & Tao, Comm. Pure Appl.
    Math. 2006). It is of NumPy, real or complex and then circular, of the `dtype`, and
    applied in the precision of the data. Raises ValueError if `measurements` is not
    positive.
    """
    if measurements < 1:
        raise ValueError(f"measurements must be at least 1, got {measurements}")
    rng, dtype = np.random.default_rng(rng), np.dtype(dtype)
    shape = (measurements, math.prod(image_shape))
    matrix = rng.standard_normal(shape)
    if dtype.kind == "c":
        matrix = (matrix + 1j * rng.standard_normal(shape)) / math.sqrt(2)
    return Dense((matrix / math.sqrt(measurements)).astype(dtype), image_shape)


def _of_one_class(first: Operator, others: Sequence[Any]) -> list[Any]:
    every = [first, *others]
    if any(type(each) is not type(first) for each in every):
        kinds = ", ".join(sorted({type(each).__name__ for each in every}))
        raise ValueError(f"operators of a batch must be of one class, got {kinds}")
    return every


def _product(weight: Array, x: Array, xp: Namespace) -> Array:
    return weight * (as_complex(x, xp) if is_complex(weight, xp) else x)


def _root(count: Any, x: Array, xp: Namespace) -> Any:
    """Square root of a number, or of a traced one in the dtype of `x`."""
    if isinstance(count, int):
        return math.sqrt(count)
    return xp.sqrt(xp.astype(count, x.dtype))


def _check_pair(mask: Array, maps: Array) -> None:
    *batch, H, W = mask.shape
    shapes = (*batch, 1, H, W), tuple(maps.shape)
    known = None not in (*shapes[0], *shapes[1])
    try:
        both = np.broadcast_shapes(*shapes) if known else None
    except ValueError:
        both = ()
    if both is not None and both[-2:] != (H, W):
        raise ValueError(
            f"mask {tuple(mask.shape)}, which is (..., H, W), does not go with maps "
            f"{tuple(maps.shape)}, which are (..., C, H, W)"
        )
