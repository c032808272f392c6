"""Forward operators of imaging: sampling, coils, MRI, blur and dense matrices.

Arrays may come from any framework and have any batch axes in front; a series is a batch
of frames, with axes (..., T, H, W). Arrays of an operator, such as its mask, may be
NumPy arrays or of that framework, and are cast to the dtype of the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from svdinv.backends.tape import check_plain
from svdinv.operators._arguments import as_shape
from svdinv.unroll.arrays import (
    Array,
    Namespace,
    as_complex,
    cast_like,
    check_broadcast,
    conj,
    each_row,
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
    """Keep the entries where a mask is True; the others become 0.

    For an image this is inpainting, for k-space undersampling.

    Parameters
    ----------
    mask : array of bool
        True where sampled; its shape broadcasts to that of the data.

    Raises
    ------
    TypeError
        If `mask` is not an array of bool.
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
        check_plain(mask, "mask")
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
        """Insert the samples, exactly."""
        xp = namespace(x)
        return xp.where(self._mask(x, xp), y, x)

    def stacked(self, others: Sequence[Any], data: Array) -> Operator:
        batch = _of_one_class(self, others)
        return Sampling(stacked([each.mask for each in batch], len(data.shape)))

    def _mask(self, x: Array, xp: Namespace) -> Array:
        check_broadcast("mask", sizes(self.mask, xp), sizes(x, xp))
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
        check_plain(maps, "maps")
        if len(maps.shape) < 3:
            raise ValueError(f"maps must be (..., C, H, W), got {tuple(maps.shape)}")
        self.maps = maps

    def forward(self, x: Array) -> Array:
        """Map an image (..., H, W) to coil images (..., C, H, W)."""
        xp = namespace(x)
        *batch, H, W = sizes(x, xp)
        maps = sizes(self.maps, xp)
        check_broadcast("maps", maps, (*batch, maps[-3], H, W))
        return _product(cast_like(self.maps, x, xp), x[..., None, :, :], xp)

    def adjoint(self, y: Array) -> Array:
        xp = namespace(y)
        check_broadcast("maps", sizes(self.maps, xp), sizes(y, xp))
        return xp.sum(_product(conj(cast_like(self.maps, y, xp), xp), y, xp), axis=-3)

    def data_length(self, axis: int) -> int | None:
        """Return the number of coils for the axis -3, None for other axes."""
        return int(self.maps.shape[-3]) if axis == -3 else None


class MRI(Product):
    """Undersampled Cartesian magnetic resonance imaging.

    ``A = Sampling(mask) * Fourier() * Coils(maps)`` (Pruessmann et al., SENSE, MRM
    1999); without `maps`, ``Sampling(mask) * Fourier()``.

    Parameters
    ----------
    mask : array of bool, shape (..., H, W)
        True where the k-space is sampled; for a series (..., T, H, W).
    maps : array, shape (..., C, H, W), optional
        Coil sensitivity maps, whose squared magnitudes should sum to 1; for a batch of
        series ``maps[:, None]``, (B, 1, C, H, W).

    Raises
    ------
    TypeError
        If `mask` is not an array of bool.
    ValueError
        If the shapes of `mask` and `maps` do not match.
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
                "each frame: pass maps[:, None] or maps[None]"
            )
        _check_pair(mask, maps)
        super().__init__([Sampling(mask[..., None, :, :]), Fourier(), coils])

    def project_to_samples(self, y: Array) -> Array:
        if self.maps is not None and len(y.shape) <= len(self.mask.shape):
            raise ValueError(
                f"with maps of shape {tuple(self.maps.shape)} and a mask of shape "
                f"{tuple(self.mask.shape)} the k-space must have an axis of coils, "
                f"(..., C, H, W), got {tuple(y.shape)}"
            )
        return super().project_to_samples(y)

    def replace_arrays(self, convert: Callable[[Array], Array]) -> Operator:
        return Operator.replace_arrays(self, convert)

    def stacked(self, others: Sequence[Any], data: Array) -> Operator:
        batch = _of_one_class(self, others)
        axes = len(data.shape)
        mask = stacked([each.mask for each in batch], axes - (self.maps is not None))
        maps = [each.maps for each in batch]
        if any((m is None) != (maps[0] is None) for m in maps):
            raise ValueError("either all operators of a batch have coil maps, or none")
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
        Real or complex, no larger than the image. Its centre, the position of the
        identity, is (h // 2, w // 2).

    Raises
    ------
    ValueError
        If `kernel` has fewer than two axes.
    """

    keeps_size = True
    arrays = ("kernel",)

    def __init__(self, kernel: Array) -> None:
        check_plain(kernel, "kernel")
        if len(kernel.shape) < 2:
            raise ValueError(f"kernel must be (..., h, w), got {tuple(kernel.shape)}")
        self.kernel = kernel

    def forward(self, x: Array) -> Array:
        """Blur; a real image and a real kernel have a real result."""
        return self._filter(x, adjoint=False)

    def adjoint(self, y: Array) -> Array:
        return self._filter(y, adjoint=True)

    def _filter(self, x: Array, *, adjoint: bool) -> Array:
        xp, axes = namespace(x), (-2, -1)
        kernel = cast_like(self.kernel, x, xp)
        complex_ = is_complex(x, xp) or is_complex(kernel, xp)
        if 0 in x.shape:  # not every Fourier transform accepts empty arrays
            return as_complex(x, xp) if complex_ else x
        transfer = self._transfer(kernel, x, xp)
        transfer = xp.conj(transfer) if adjoint else transfer
        spectrum = xp.fft.fftn(as_complex(x, xp), axes=axes, norm="ortho")
        result = xp.fft.ifftn(transfer * spectrum, axes=axes, norm="ortho")
        return result if complex_ else xp.real(result)

    def _transfer(self, kernel: Array, x: Array, xp: Namespace) -> Array:
        """Return the unnormalised Fourier transform of the kernel at pixel (0, 0)."""
        h, w = self.kernel.shape[-2:]
        H, W = sizes(x, xp)[-2:]
        if any(isinstance(n, int) and k > n for k, n in ((h, H), (w, W))):
            raise ValueError(
                f"kernel {(h, w)} must not be larger than the image {(H, W)}"
            )
        kernels = sizes(self.kernel, xp)[:-2]
        check_broadcast("kernel", (*kernels, 1, 1), sizes(x, xp))
        padded = zero_padded(zero_padded(kernel, H - h, -2, xp), W - w, -1, xp)
        padded = xp.roll(padded, (-(h // 2), -(w // 2)), axis=(-2, -1))
        # norm="ortho" is the convention that all namespaces have.
        padded = as_complex(padded, xp)
        spectrum = xp.fft.fftn(padded, axes=(-2, -1), norm="ortho")
        return spectrum * _root(H * W, spectrum, xp)


class Dense(Operator):
    """Multiply a flattened image by a matrix, as in compressed sensing.

    Parameters
    ----------
    matrix : array, shape (m, n)
        Real or complex.
    image_shape : sequence of int
        Shape of an image with n elements; axes in front of it are batch axes.

    Raises
    ------
    TypeError
        If `matrix` is not an array, or `image_shape` is not integers.
    ValueError
        If `matrix` is not a matrix with one column for each element of the image.

    See Also
    --------
    gaussian_sensing : Compressed sensing with a random matrix.
    """

    def __init__(self, matrix: Array, image_shape: Sequence[int]) -> None:
        if not hasattr(matrix, "shape") or hasattr(matrix, "tocsr"):
            got = type(matrix).__name__
            hint = "; take from_matrix" if hasattr(matrix, "shape") else ""
            raise TypeError(f"matrix must be an array, got {got}{hint}")
        check_plain(matrix, "matrix")
        self.matrix = matrix
        self.image_shape = as_shape(image_shape, "image_shape")
        size, shape = math.prod(self.image_shape), tuple(matrix.shape)
        if len(shape) != 2 or shape[1] != size or not self.image_shape:
            raise ValueError(
                f"matrix must be (m, {size}) for images {self.image_shape}, got {shape}"
            )

    def forward(self, x: Array) -> Array:
        """Map images (..., *image_shape) to measurements (..., m)."""
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
        return each_row(rows, right, xp)


def gaussian_sensing(
    measurements: int,
    image_shape: Sequence[int],
    rng: np.random.Generator | int,
    *,
    dtype: Any = np.float32,
) -> Dense:
    """Return compressed sensing with a Gaussian random matrix.

    The elements are independent with mean 0 and variance 1 / `measurements`, so that
    the matrix preserves the norm of an image on average (Candès, Romberg & Tao, Comm.
    Pure Appl. Math. 2006). The NumPy array is real or circular complex by `dtype`; it
    is cast to that of the data. Raises ValueError if `measurements` is not positive.
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
    batch = [first, *others]
    if any(type(each) is not type(first) for each in batch):
        kinds = ", ".join(sorted({type(each).__name__ for each in batch}))
        raise ValueError(f"operators of a batch must be of one class, got {kinds}")
    return batch


def _product(weight: Array, x: Array, xp: Namespace) -> Array:
    return weight * (as_complex(x, xp) if is_complex(weight, xp) else x)


def _root(count: Any, x: Array, xp: Namespace) -> Any:
    """Return a square root; for a traced number in the dtype of `x`."""
    if isinstance(count, int):
        return math.sqrt(count)
    return xp.sqrt(xp.astype(count, x.dtype))


def _check_pair(mask: Array, maps: Array) -> None:
    *batch, H, W = mask.shape
    shapes = (*batch, 1, H, W), tuple(maps.shape)
    all_known = None not in (*shapes[0], *shapes[1])
    try:
        common = np.broadcast_shapes(*shapes) if all_known else None
    except ValueError:
        common = ()
    if common is not None and common[-2:] != (H, W):
        raise ValueError(
            f"mask (..., H, W) and maps (..., C, H, W) do not match: got shapes "
            f"{tuple(mask.shape)} and {tuple(maps.shape)}"
        )
