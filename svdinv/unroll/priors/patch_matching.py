"""Groups of similar patches of an image, which form matrices of low rank."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import array_api_compat as compat
import numpy as np
from numpy.typing import NDArray

from svdinv.unroll.arrays import (
    Array,
    Namespace,
    cast_like,
    is_tensorflow,
    namespace,
    on_device,
    sizes,
    to_numpy,
    zero_padded,
)
from svdinv.unroll.operators.wrapped import Linear

_VALUES = 2**21  # elements of the groups in one part


class Groups:
    """Positions of the patches of a guide that are similar to its reference patches.

    A reference patch, of all channels, lies at each point of a grid. Its group consists
    of the nearest patches in its neighbourhood, by the sum of squared differences
    (Buades, Coll & Morel, CVPR 2005; Dong, Shi, Li, Ma & Huang, IEEE TIP 2014).

    Parameters
    ----------
    guide : array, shape (C, H, W)
        Image, real or complex, of any framework, with concrete values (not traced).
    patch : int
        Height and width of a patch.
    stride : int
        Distance between neighbouring reference patches, at most `patch`.
    count : int
        Patches of a group including the reference; at most (reach + 1)^2, as many as a
        reference in the corner has within reach, and no more than there are.
    reach : int
        Maximum distance of a patch from the reference in rows and in columns.

    Raises
    ------
    ValueError
        If a number is not a positive integer, `stride` is larger than `patch`, or
        `guide` has other axes, is smaller than a patch or not finite.
    """

    def __init__(
        self, guide: Array, *, patch: int, stride: int, count: int, reach: int
    ) -> None:
        numbers = {"patch": patch, "stride": stride, "count": count, "reach": reach}
        for name, number in numbers.items():
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"{name} must be a positive integer, got {number!r}")
        if stride > patch:
            raise ValueError(f"stride must be at most patch, {patch}, got {stride}")
        shape = tuple(guide.shape)
        if len(shape) != 3 or min(shape[1:]) < patch:
            raise ValueError(
                f"guide must be (C, H, W) with H and W at least patch, {patch}, got "
                f"shape {shape}"
            )
        image = to_numpy(guide)
        if np.iscomplexobj(image):
            image = np.concatenate([image.real, image.imag])
        if not np.isfinite(image).all():
            raise ValueError("guide must be finite")
        self.patch, self._shape = patch, shape
        self._corners = shape[1] - patch + 1, shape[2] - patch + 1
        self._index = nearest_patches(image, patch, stride, count, reach)
        self._sum = _Sum(self._index.reshape(-1), math.prod(self._corners))
        # Number of patches at each pixel: positive, as references cover all pixels.
        counts = np.repeat(self._sum.counts[:, None] * 1.0, patch**2, axis=1)
        self._overlaps = folded(counts, patch, self._corners)

    @property
    def count(self) -> int:
        """Number of patches of a group."""
        return int(self._index.shape[1])

    @property
    def overlap(self) -> float:
        """Mean number of patches that contain a pixel."""
        return float(self._overlaps.mean())

    def cut(self, x: Array) -> Array:
        """Return the groups of (..., C, H, W): (..., groups, patches, C patch^2)."""
        return namespace(x).concat(list(self.parts(x)), axis=-3)

    def parts(self, x: Array) -> Iterator[Array]:
        """Yield the matrices of `cut` in parts; ValueError if x is misshapen."""
        shape = tuple(x.shape)
        pairs = zip(shape[-3:], self._shape, strict=False)
        if len(shape) < 3 or any(n not in (None, expected) for n, expected in pairs):
            raise ValueError(
                f"x must end in the guide's shape {self._shape}, got {shape}"
            )
        xp, size = namespace(x), self._shape[0] * self.patch**2
        patches = patches_of(x, self.patch)
        *batch, _, _ = sizes(patches, xp)
        step = max(1, _VALUES // (self.count * size))
        for first in range(0, len(self._index), step):
            index = self._index[first : first + step]
            rows = _taken(patches, index.reshape(-1), xp)
            yield xp.reshape(rows, (*batch, *index.shape, size))

    def join(self, groups: Array) -> Array:
        """Return an image whose pixels are means over the patches that contain them."""
        xp = namespace(groups)
        *batch, _, _, size = sizes(groups, xp)
        entries = xp.reshape(groups, (*batch, self._index.size, size))
        total = folded(self._sum(entries), self.patch, self._corners)
        return total / cast_like(self._overlaps, groups, xp)


def patches_of(x: Array, patch: int) -> Array:
    """Return all patches of (..., C, H, W), row by row: (..., positions, C patch^2)."""
    xp = namespace(x)
    *batch, C, _, _ = sizes(x, xp)
    rows, columns = (side - patch + 1 for side in x.shape[-2:])
    shifted = [
        x[..., i : i + rows, j : j + columns]
        for i in range(patch)
        for j in range(patch)
    ]
    patches, n = xp.stack(shifted, axis=-1), len(batch)
    patches = xp.permute_dims(patches, (*range(n), n + 1, n + 2, n, n + 3))
    return xp.reshape(patches, (*batch, rows * columns, C * patch**2))


def folded(patches: Array, patch: int, corners: tuple[int, int]) -> Array:
    """Add up patches (..., positions, C patch^2) to an image (..., C, H, W).

    There is one patch at each of the positions, which have `corners` rows and columns.
    """
    xp, p, (rows, columns) = namespace(patches), patch, corners
    *batch, _, size = sizes(patches, xp)
    n = len(batch)
    x = xp.reshape(patches, (*batch, rows, columns, size // (p * p), p, p))
    x = xp.permute_dims(x, (*range(n), n + 2, n + 3, n + 4, n, n + 1))
    for axis in (-1, -2):  # columns, then rows
        x = zero_padded(x, p - 1, axis, xp)
        x = sum(xp.roll(x[..., k, :, :], k, axis=axis) for k in range(p))
    return x


def gathered(rows: Array, index: Array) -> Array:
    """Select rows of (places, values) by indices (n,), with the shape (n, values)."""
    if _differentiates(rows):
        return namespace(rows).take(rows, index, axis=0)
    places = rows.shape[0]
    return Linear(lambda x: x[index], lambda g: _added(g, index, places))(rows)


def summed(rows: Array, index: Array, places: Any) -> Array:
    """Sum rows (n, values) with equal indices (n,), with shape (places, values)."""
    if not _differentiates(rows):
        return Linear(lambda x: _added(x, index, places), lambda g: g[index])(rows)
    if compat.is_torch_array(rows):
        return rows.new_zeros(places, rows.shape[1]).index_add(0, index, rows)
    if is_tensorflow(rows):
        add = sys.modules["tensorflow"].math.unsorted_segment_sum
        return add(rows, index, places)
    zeros = namespace(rows).zeros((places, rows.shape[1]), dtype=rows.dtype)
    return zeros.at[index].add(rows)


def _differentiates(x: Array) -> bool:
    """Return whether the framework can differentiate array functions itself."""
    return compat.is_torch_array(x) or compat.is_jax_array(x) or is_tensorflow(x)


def _added(rows: Any, index: Any, places: int) -> Any:
    """Add up rows by their indices, for NumPy or CuPy."""
    return _Sum(to_numpy(index), places)(rows)


def _taken(x: Array, index: NDArray[Any], xp: Namespace) -> Array:
    return xp.take(x, xp.asarray(index, **on_device(x)), axis=-2)


def group_shape(
    sides: Sequence[int], patch: int, stride: int, count: int, reach: int
) -> tuple[int, int]:
    """Return the number of groups of an image with these sides, and their size."""
    corners = [side - patch + 1 for side in sides]
    nearby = math.prod(min(reach, n - 1) + 1 for n in corners)  # of a corner patch
    references = math.prod(len({*range(0, n, stride), n - 1}) for n in corners)
    return references, min(count, nearby)


def nearest_patches(
    image: NDArray[Any],
    patch: int,
    stride: int,
    count: int,
    reach: int,
    leading: int | None = None,
) -> NDArray[Any]:
    """Return for each reference patch the positions of its nearest patches.

    The image (C, H, W) is real; the result has the shape `group_shape`. The `leading`
    nearest ones come first, the others in any order. Raises FloatingPointError if the
    image is not finite.
    """
    if not np.isfinite(image).all():
        raise FloatingPointError("the image whose patches are compared is not finite")
    # Normalised, since the scale does not matter, to avoid overflow of the squares.
    image = image - image.mean(axis=(-2, -1), keepdims=True)
    image = (image / (np.abs(image).max() or 1)).astype(np.float32)
    rows, columns = (size - patch + 1 for size in image.shape[1:])
    y, x = (
        np.unique([*range(0, places, stride), places - 1]) for places in (rows, columns)
    )
    offsets = [
        (a, b) for a in range(-reach, reach + 1) for b in range(-reach, reach + 1)
    ]
    _, count = group_shape(image.shape[1:], patch, stride, count, reach)
    distances = np.full((len(offsets), len(y), len(x)), np.inf, np.float32)
    for distance, (a, b) in zip(distances, offsets, strict=True):
        in_y, in_x = (y + a >= 0) & (y + a < rows), (x + b >= 0) & (x + b < columns)
        if not (in_y.any() and in_x.any()):
            continue
        first, second = _overlap(image, a, b), _overlap(image, -a, -b)
        squares = ((first - second) ** 2).sum(0)
        top, left = y[in_y] - max(0, -a), x[in_x] - max(0, -b)
        lines = sum(squares[top + k] for k in range(patch))
        distance[np.ix_(in_y, in_x)] = sum(lines[:, left + k] for k in range(patch))
    # The reference comes first, even if several patches are identical.
    distances[offsets.index((0, 0))] = -1
    flat = distances.reshape(len(offsets), -1)
    kth = {count - 1} if leading is None else {min(leading, count) - 1, count - 1}
    nearest = np.argpartition(flat, sorted(kth), axis=0)
    a, b = np.array(offsets).T[:, nearest[:count].T]
    top, left = (corner.reshape(-1, 1) for corner in np.meshgrid(y, x, indexing="ij"))
    return ((top + a) * columns + left + b).astype(np.int32)


def _overlap(image: NDArray[Any], a: int, b: int) -> NDArray[Any]:
    """Return the pixels of an image that have a neighbour at the offset (a, b)."""
    _, H, W = image.shape
    return image[:, max(0, -a) : H - max(0, a), max(0, -b) : W - max(0, b)]


class _Sum:
    """Add up entries by their indices, by gathering, which is faster than scattering.

    `counts` is the number of entries at each place. `levels[0]` lists one entry of each
    place that has any, places with most entries first; `levels[1]`, which is shorter, a
    second entry of each place that has two, and so on. `ranks` is the position of each
    place in that order; places without entries come last.
    """

    def __init__(self, index: NDArray[Any], places: int) -> None:
        self.counts = np.bincount(index, minlength=places)
        entries = np.argsort(index, kind="stable")
        first = np.cumsum(self.counts) - self.counts
        order = np.argsort(-self.counts, kind="stable")
        self.levels = [
            entries[first[order[: np.count_nonzero(self.counts > k)]] + k].astype(
                np.int32
            )
            for k in range(self.counts.max())
        ]
        ranks = np.empty_like(order)
        ranks[order] = np.arange(places)
        self.ranks = np.minimum(ranks, len(self.levels[0])).astype(np.int32)

    def __call__(self, entries: Array) -> Array:
        """Return the sums (..., places, values) of entries (..., n, values)."""
        xp = namespace(entries)
        total = _taken(entries, self.levels[-1], xp)
        for level, longer in zip(self.levels[:0:-1], self.levels[-2::-1], strict=True):
            rows = _taken(entries, longer, xp)
            head = rows[..., : len(level), :] + total
            total = xp.concat([head, rows[..., len(level) :, :]], axis=-2)
        return _taken(zero_padded(total, 1, -2, xp), self.ranks, xp)
