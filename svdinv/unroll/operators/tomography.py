"""Tomography in two dimensions: line integrals along parallel or fan beams.

Lengths have an arbitrary common unit; the centre of rotation is that of the image. At
the angle t the detector lies along ``(cos t, sin t)``, and rays run along
``(-sin t, cos t)``, with x to the right and y up, as in scikit-image's ``radon``.

Rays are integrated by Joseph's method (IEEE TMI 1982): one sample in each row or column
(the axis nearer to the ray), interpolated between two pixels. The adjoint is exact.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svdinv._missing import needing
from svdinv.operators._arguments import as_integer
from svdinv.unroll.arrays import Array
from svdinv.unroll.operators.wrapped import Wrapped, products

Window = Literal["ram-lak", "shepp-logan", "cosine", "hamming", "hann"]

_WINDOWS: dict[str, Callable[[Any], Any]] = {
    "ram-lak": np.ones_like,
    "shepp-logan": lambda f: np.sinc(f / 2),
    "cosine": lambda f: np.cos(np.pi * f / 2),
    "hamming": lambda f: 0.54 + 0.46 * np.cos(np.pi * f),
    "hann": lambda f: 0.5 + 0.5 * np.cos(np.pi * f),
}
"""Windows of the ramp filter, as functions of frequency relative to the highest."""

# Up to _MISSING gaps between angles, fewer than half of all, count as missing views if
# they are _GAP times as large as the others.
_MISSING, _GAP = 3, 4

_NEAR = 30  # degrees: the largest gap between views that counts as covered

_FALL = math.radians(15)  # width of the taper at the ends of an arc that is too short
_TRANSITION = 8  # detectors; more increase the noise, fewer the error of a fan


class _Views:
    """A matrix in blocks of rows, one per view, stored or computed when needed."""

    def __init__(
        self,
        shape: tuple[int, int],
        count: int,
        block: Callable[[int], Any],
        stored: bool,
    ) -> None:
        self.shape, self.count, self.block, self.stored = shape, count, block, stored
        self._cache: dict[tuple[str, bool], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the matrices; another process recomputes them."""
        return self.__dict__ | {"_cache": {}}

    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        """Map (b, H, W) to (b, views, detectors)."""
        x = x.reshape(len(x), -1)
        if self.stored:
            y = products(self._matrix(x.dtype, False), x)
            return y.reshape(len(x), self.count, -1)
        views = [products(block.astype(x.dtype), x) for block in self._blocks()]
        return np.stack(views, axis=1)

    def adjoint(self, y: NDArray[Any]) -> Any:
        """Map (b, views, detectors) to (b, H, W)."""
        if self.stored:
            x = products(self._matrix(y.dtype, True), y.reshape(len(y), -1))
        else:
            pairs = zip(self._blocks(), y.swapaxes(0, 1), strict=True)
            x = sum(products(block.T.astype(y.dtype), view) for block, view in pairs)
        return x.reshape(-1, *self.shape)

    def _blocks(self) -> Iterator[Any]:
        return (self.block(k) for k in range(self.count))

    def _matrix(self, dtype: Any, transposed: bool) -> Any:
        """Return the matrix or its transpose in CSR format, which is fastest."""
        dtype = np.finfo(dtype).dtype
        key = (dtype.name, transposed)
        if key not in self._cache:
            if transposed:
                matrix = self._matrix(dtype, False).T.tocsr()
            else:
                blocks = [block.astype(dtype) for block in self._blocks()]
                matrix = _scipy().vstack(blocks, format="csr")
            self._cache[key] = matrix
        return self._cache[key]


class _Beam(Wrapped):
    """Base of both geometries; they set attributes of their rays before `__init__`."""

    _period = 180.0  # degrees after which views repeat

    def __init__(
        self,
        image_shape: Sequence[int],
        angles: ArrayLike,
        *,
        detectors: int | None = None,
        spacing: float | None = None,
        offset: float = 0.0,
        pixel: float = 1.0,
        matrix: bool = True,
    ) -> None:
        if len(image_shape) != 2:
            raise ValueError(f"image_shape must be (H, W), got {tuple(image_shape)}")
        rows, columns = (as_integer(n, "image_shape", 1) for n in image_shape)
        shape = rows, columns
        degrees = np.array(angles, dtype=np.float64)
        if degrees.ndim != 1 or not degrees.size or not np.isfinite(degrees).all():
            raise ValueError(
                f"angles must be a list of numbers, in degrees, got {angles!r}"
            )
        if not 0 < pixel < math.inf:
            raise ValueError(f"pixel must be positive, got {pixel}")
        if spacing is not None and not 0 < spacing < math.inf:
            raise ValueError(f"spacing must be positive, got {spacing}")
        if not math.isfinite(offset):
            raise ValueError(f"offset must be finite, got {offset}")
        self.angles = degrees
        self.pixel, self.offset = float(pixel), float(offset)
        self.radius = self.pixel * math.hypot(*shape) / 2
        self.spacing = self.pixel * self.magnification
        if spacing is not None:
            self.spacing = float(spacing)
        if detectors is None:
            width = 2 * (self._shadow() + abs(self.offset))
            detectors = math.ceil(round(width / self.spacing, 9))
        self.detectors = as_integer(detectors, "detectors", 1)
        self.matrix = bool(matrix)
        positions = np.arange(self.detectors) - (self.detectors - 1) / 2
        self._positions = positions * self.spacing + self.offset
        count = len(degrees)
        self._interpolations: dict[str, Any] = {}
        # Of a copy: a reference cycle would keep matrices until garbage is collected.
        block = partial(copy.copy(self)._block, shape)
        rays = _Views(shape, count, block, self.matrix)
        data_shape = count, self.detectors
        super().__init__(rays.forward, rays.adjoint, shape, data_shape, batched=True)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the cached matrices of filtered back-projection."""
        kept = {name: x for name, x in self.__dict__.items() if name != "_wide"}
        return kept | {"_interpolations": {}}

    @property
    def magnification(self) -> float:
        """Size on the detector relative to the size at the centre of rotation."""
        return 1.0

    @property
    def norm_bound(self) -> float:
        """Upper bound of the norm: square root of largest row sum times column sum.

        Schur's test for a nonnegative matrix, by one projection and back-projection.
        """
        rows = self.forward(np.ones(self.image_shape, np.float32)).max()
        columns = self.adjoint(np.ones(self.data_shape, np.float32)).max()
        return math.sqrt(float(rows) * float(columns))

    def filtered_back_projection(self, y: Array, window: Window = "ram-lak") -> Array:
        """Apply filtered back-projection (FBP), with linear interpolation.

        Maps line integrals (..., views, detectors) to images (..., H, W); linear and
        differentiable. Unevenly spaced angles are weighted by the arc they represent;
        missing views count as zero. With views of a whole turn, a detector may miss one
        side of the image because of `offset`, if it reaches beyond the centre; its rays
        are weighted as by Wang, Med. Phys. 2002. `window` is the window of the
        ramp filter: "ram-lak" for none, "shepp-logan", "cosine", "hamming" or "hann".
        Raises ValueError for any other window, or if the data have the wrong shape.
        """
        if window not in _WINDOWS:
            raise ValueError(f"window must be one of {list(_WINDOWS)}, got {window!r}")
        displaced = self._displaced()
        wide, period = (
            (self, self._period) if displaced is None else (self._wide, 360.0)
        )
        response = _ramp(wide.detectors, self.spacing / self.magnification, window)
        before, (arcs, *_) = self._ray_weights(displaced), _arcs(self.angles, period)
        after = arcs[:, None]  # weights of the filtered views
        extra = wide.detectors - self.detectors
        left = extra if self.offset > 0 else 0
        part = slice(left, left + self.detectors)

        def invert(y: NDArray[Any]) -> NDArray[Any]:
            whole = before * y
            if extra:
                whole = np.pad(whole, ((0, 0), (left, extra - left)))
            filtered = after * _filtered(whole, response)
            return wide._spread(filtered.astype(y.dtype)).reshape(self.image_shape)

        def transposed(x: NDArray[Any]) -> NDArray[Any]:
            blocks, x = wide._between(x.dtype), x.reshape(-1)
            gathered = np.stack([block.T @ x for block in blocks])
            return before * _filtered(after * gathered, response)[:, part]

        # As an adjoint, so that data of another shape are refused.
        return Wrapped(transposed, invert, self.image_shape, self.data_shape).adjoint(y)

    def approximate_inverse(self, y: Array) -> Array:
        return self.filtered_back_projection(y)

    def preconditioned(self, y: Array) -> Array:
        """Apply the ramp filter with mean 1, preserving the energy of white data."""
        response = 4 * _ramp(self.detectors, 1.0, "ram-lak")

        def filtered(y: NDArray[Any]) -> NDArray[Any]:
            return _filtered(y, response).astype(y.dtype)

        shape = self.data_shape
        return Wrapped(filtered, filtered, shape, shape).forward(y)

    def _shadow(self) -> float:
        """Return an upper bound of half the image's width on the detector."""
        raise NotImplementedError

    def _lines(self, k: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return a point on each ray of a view and its direction, (detectors, 2)."""
        raise NotImplementedError

    def _hits(self, k: int, x: Any, y: Any) -> tuple[Any, Any]:
        """Return the detector positions of points projected by a view, and weights."""
        raise NotImplementedError

    def _ray_weights(self, displaced: NDArray[Any] | None) -> NDArray[Any]:
        """Return the weights of line integrals before filtering."""
        raise NotImplementedError

    def _displaced(self) -> NDArray[Any] | None:
        """Return ray weights (views, detectors) for a displaced detector, or None.

        None unless views of more than half a turn miss one side of the image. The two
        weights of a ray that is measured twice add up to 1: they are 1/2, except near
        the end of the shorter side, where they go smoothly to 0 and 1.
        """
        short = self.detectors * self.spacing / 2 - abs(self.offset)
        if not 0 < short < self._shadow() or 2 * abs(self.offset) <= self.spacing:
            return None
        twice = _opposed(self.angles)
        if not twice.all() and (self._period == 360.0 or not twice.any()):
            return None  # Parker's weights are smoother where a fan's turn is not whole
        width = min(short, _TRANSITION * self.spacing)
        far = ((np.abs(self._positions) - short) / width + 1).clip(0, 1)
        signs = np.sign(self.offset * self._positions)
        weights = 0.5 + 0.5 * signs * np.sin(math.pi / 2 * far)
        return np.where(twice[:, None], weights, 1.0)

    @cached_property
    def _wide(self) -> _Beam:
        """The same views by detectors that cover the side that the offset misses."""
        wide = copy.copy(self)
        extra = math.ceil(2 * abs(self.offset) / self.spacing)
        wide.detectors, wide._interpolations = self.detectors + extra, {}
        first = self._positions[0] - self.spacing * extra * (self.offset > 0)
        wide._positions = first + self.spacing * np.arange(wide.detectors)
        return wide

    def _block(self, shape: tuple[int, int], k: int) -> Any:
        """Return the weights of pixels in a view's line integrals (Joseph's method)."""
        H, W = shape
        point, direction = (a / self.pixel for a in self._lines(k))
        # In pixels, from the first row and column.
        column = point[:, 0] + (W - 1) / 2
        row = (H - 1) / 2 - point[:, 1]
        right, down = direction[:, 0], -direction[:, 1]
        steep = np.abs(down) >= np.abs(right)
        along, across = np.where(steep, down, right), np.where(steep, right, down)
        length = self.pixel * np.hypot(along, across) / np.abs(along)
        slope = across / along
        first, second = np.where(steep, row, column), np.where(steep, column, row)
        step = np.arange(max(H, W))
        position = (second - slope * first)[:, None] + slope[:, None] * step
        low = np.floor(position)
        fraction = position - low
        neighbour = low.astype(np.int64)[..., None] + np.arange(2)
        weight = np.stack([1 - fraction, fraction], axis=-1) * length[:, None, None]
        steep_, step_ = steep[:, None, None], step[None, :, None]
        inside = (neighbour >= 0) & (neighbour < np.where(steep_, W, H))
        inside &= (step_ < np.where(steep_, H, W)) & (weight > 0)
        index = np.where(steep_, step_ * W + neighbour, neighbour * W + step_)
        ends = np.concatenate([[0], inside.sum(axis=(1, 2)).cumsum()])
        return _scipy().csr_array(
            (weight[inside], index[inside].astype(np.int32), ends.astype(np.int32)),
            shape=(self.detectors, H * W),
        )

    def _spread(self, y: NDArray[Any]) -> NDArray[Any]:
        """Back-project with interpolation, from (views, detectors) to (H W,)."""
        pairs = zip(self._between(y.dtype), y, strict=True)
        return sum(block @ view for block, view in pairs)

    def _between(self, dtype: Any) -> Iterable[Any]:
        """Return the matrices of `_spread`, (H W, detectors), one for each view."""
        name = np.finfo(dtype).dtype.name
        if name in self._interpolations:
            return self._interpolations[name]
        blocks = (self._weights(k).astype(name) for k in range(len(self.angles)))
        if not self.matrix:
            return blocks
        self._interpolations[name] = list(blocks)
        return self._interpolations[name]

    def _weights(self, k: int) -> Any:
        """Return the weights of the two detectors next to each pixel in a view."""
        H, W = self.image_shape
        x = (np.arange(W) - (W - 1) / 2) * self.pixel
        y = ((H - 1) / 2 - np.arange(H)) * self.pixel
        hit, share = self._hits(k, x, y[:, None])
        position = ((hit - self._positions[0]) / self.spacing).reshape(-1, 1)
        low = np.floor(position)
        neighbour = low.astype(np.int32) + np.arange(2, dtype=np.int32)
        weight = np.concatenate([low + 1 - position, position - low], axis=1)
        weight *= share.reshape(-1, 1)
        weight[(neighbour < 0) | (neighbour >= self.detectors)] = 0
        neighbour = neighbour.clip(0, self.detectors - 1).reshape(-1)
        ends = np.arange(0, 2 * H * W + 1, 2, dtype=np.int32)
        shape = (H * W, self.detectors)
        return _scipy().csr_array((weight.reshape(-1), neighbour, ends), shape=shape)


class ParallelBeam(_Beam):
    """Sampled Radon transform: line integrals along parallel rays.

    Parameters
    ----------
    image_shape : sequence of int
        (H, W).
    angles : array_like, shape (views,)
        In degrees, in any order and range.
    detectors : int, optional
        Detectors of a view; by default enough to cover the image.
    spacing : float, optional
        Distance between neighbouring detectors; by default `pixel`.
    offset : float
        Position of the detector's middle relative to the projected centre of rotation.
    pixel : float
        Side of a pixel.
    matrix : bool
        Whether to store the matrix when it is first needed, with about
        ``1.5 * 8 * views * detectors * max(H, W)`` bytes in single precision, and as
        many for the adjoint. Otherwise each view is recomputed in every application,
        which is much slower and needs hardly any memory.

    Raises
    ------
    ValueError
        If a number is out of range, or `image_shape` does not have two axes.

    Examples
    --------
    >>> import numpy as np
    >>> from svdinv.unroll.operators import ParallelBeam
    >>> A = ParallelBeam((5, 5), [0, 90])
    >>> A(np.eye(5)).shape
    (2, 8)
    """

    def _shadow(self) -> float:
        return self.radius

    def _lines(self, k: int) -> tuple[NDArray[Any], NDArray[Any]]:
        along, beam = _axes(self.angles[k])
        point = self._positions[:, None] * along
        return point, np.broadcast_to(beam, point.shape)

    def _hits(self, k: int, x: Any, y: Any) -> tuple[Any, Any]:
        along, _ = _axes(self.angles[k])
        hit = along[0] * x + along[1] * y
        return hit, np.ones_like(hit)

    def _ray_weights(self, displaced: NDArray[Any] | None) -> NDArray[Any]:
        return np.ones((1, 1)) if displaced is None else displaced


class FanBeam(_Beam):
    """Line integrals along rays from a point source to a flat detector.

    At the angle t the source is at ``source (sin t, -cos t)``. The detector is on the
    opposite side, perpendicular to the line through the centre of rotation.

    Parameters
    ----------
    image_shape : sequence of int
        (H, W).
    angles : array_like, shape (views,)
        In degrees, in any order and range.
    source : float
        Distance of the source from the centre of rotation; larger than the image.
    distance : float
        Distance of the source from the detector; at least `source`.
    detectors, offset, pixel, matrix
        As for `ParallelBeam`.
    spacing : float, optional
        Distance of neighbouring detectors; by default the size of a projected pixel.

    Raises
    ------
    ValueError
        If a number is out of range, or the source lies within the image.

    Examples
    --------
    >>> import numpy as np
    >>> from svdinv.unroll.operators import FanBeam
    >>> A = FanBeam((16, 16), np.arange(0, 360, 10), source=40, distance=80)
    >>> A.filtered_back_projection(A(np.ones((16, 16)))).shape
    (16, 16)
    """

    _period = 360.0

    def __init__(
        self,
        image_shape: Sequence[int],
        angles: ArrayLike,
        *,
        source: float,
        distance: float,
        detectors: int | None = None,
        spacing: float | None = None,
        offset: float = 0.0,
        pixel: float = 1.0,
        matrix: bool = True,
    ) -> None:
        self.source, self.distance = float(source), float(distance)
        for name in ("source", "distance"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.distance < self.source:
            raise ValueError(
                f"distance, from the source to the detector, must be at least source, "
                f"that to the centre, {self.source}, got {self.distance}"
            )
        super().__init__(
            image_shape,
            angles,
            detectors=detectors,
            spacing=spacing,
            offset=offset,
            pixel=pixel,
            matrix=matrix,
        )
        self._check_source()

    @property
    def magnification(self) -> float:
        return self.distance / self.source

    def _check_source(self) -> None:
        if self.source <= self.radius:
            raise ValueError(
                f"source must lie beyond the image, whose corners are {self.radius:g} "
                f"from its centre, got {self.source:g}"
            )

    def _shadow(self) -> float:
        self._check_source()  # before the square root below
        return self.distance * self.radius / math.sqrt(self.source**2 - self.radius**2)

    def _lines(self, k: int) -> tuple[NDArray[Any], NDArray[Any]]:
        along, beam = _axes(self.angles[k])
        direction = self.distance * beam + self._positions[:, None] * along
        return np.broadcast_to(-self.source * beam, direction.shape), direction

    def _hits(self, k: int, x: Any, y: Any) -> tuple[Any, Any]:
        along, beam = _axes(self.angles[k])
        depth = self.source + beam[0] * x + beam[1] * y
        hit = self.distance * (along[0] * x + along[1] * y) / depth
        return hit, (self.source / depth) ** 2

    def _ray_weights(self, displaced: NDArray[Any] | None) -> NDArray[Any]:
        """Return cosines of the rays times weights of rays that are measured twice."""
        cosine = self.distance / np.hypot(self.distance, self._positions)
        if displaced is not None:
            return cosine * displaced
        fan = np.arctan(-self._positions / self.distance)
        return cosine * _redundancy(self.angles, fan)


def _scipy() -> Any:
    with needing("scipy", "train"):
        import scipy.sparse
    return scipy.sparse


def _axes(degrees: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the directions of the detector and of the beam."""
    t = math.radians(degrees)
    return np.array([math.cos(t), math.sin(t)]), np.array([-math.sin(t), math.cos(t)])


def _arcs(
    angles: NDArray[Any], period: float
) -> tuple[NDArray[Any], NDArray[Any], float]:
    """Return the arc of each angle, its distance from the first angle, and the range.

    In radians. Repeated angles share their arc.
    """
    wrapped = np.round(angles % period, 9) % period
    unique, index, counts = np.unique(wrapped, return_inverse=True, return_counts=True)
    gaps = np.diff(unique, append=unique[0] + period)
    begin, span = unique[(int(gaps.argmax()) + 1) % len(unique)], period
    ordered = np.sort(gaps)[::-1]
    jumps = np.flatnonzero(ordered[:-1] > _GAP * ordered[1:])
    if len(jumps) and jumps[0] < min(_MISSING, (len(gaps) - 1) / 2):
        missing = gaps >= ordered[jumps[0]]
        usual = float(np.median(gaps[~missing]))
        span = period - gaps.max() + usual
        gaps = np.where(missing, usual, gaps)
    arcs = (gaps + np.roll(gaps, 1)) / 2 / counts
    # Rounded above: otherwise an angle just before the first would be a turn after it.
    beyond = (wrapped - begin) % period
    return np.radians(arcs)[index], np.radians(beyond), math.radians(span)


def _opposed(angles: NDArray[Any]) -> NDArray[np.bool_]:
    """Return for each angle whether there are views around the opposite direction."""
    unique = np.unique(np.round(angles % 360, 9) % 360)
    gaps = np.diff(unique, append=unique[0] + 360)
    beyond = np.round((angles + 180) % 360, 9) % 360
    opposite = np.searchsorted(unique, beyond, side="right") - 1
    return gaps[opposite] <= _NEAR


def _redundancy(angles: NDArray[Any], fan: NDArray[Any]) -> NDArray[Any]:
    """Return ray weights (views, detectors), as some are measured in both directions.

    The weights of the two opposite measurements add up to 1. For arcs between half a
    turn plus the fan and a whole turn they vary smoothly (Parker, Med. Phys. 1982; for
    any such arc, Silver, Med. Phys. 2000); for shorter arcs they fall off at both ends
    (Noo et al., Phys. Med. Biol. 47, 2002); for a whole turn they are 1/2.
    """
    _, b, span = _arcs(angles, 360.0)
    if span > 2 * math.pi - 1e-6:
        return np.full((1, 1), 0.5)
    half = (span - math.pi) / 2
    b = b[:, None]
    # A ray of the fan angle g is measured again after half a turn plus 2 g.
    if half < np.abs(fan).max():
        own, *others = (
            _taper(b + turn, span)
            for turn in (0 * fan, 2 * fan + math.pi, 2 * fan - math.pi)
        )
        return own / (own + sum(others))
    with np.errstate(divide="ignore", invalid="ignore"):
        rising = np.sin(math.pi / 4 * b / (half - fan)) ** 2
        falling = np.sin(math.pi / 4 * (span - b) / (half + fan)) ** 2
    weights = np.where(b < 2 * (half - fan), rising, 1.0)
    return np.where(b > math.pi - 2 * fan, falling, weights)


def _taper(angle: NDArray[Any], span: float) -> NDArray[Any]:
    """Return a function of the angle that falls to nearly 0 at the ends of an arc."""
    distance = np.minimum(angle, span - angle) / _FALL
    return np.sin(math.pi / 2 * distance.clip(1e-3, 1)) ** 2 * (distance >= 0)


def _ramp(detectors: int, spacing: float, window: Window) -> NDArray[Any]:
    """Return the frequency response of the ramp filter, sampled in space.

    Sampling in space preserves the mean (Ramachandran & Lakshminarayanan, Proc. Natl.
    Acad. Sci. 1971).
    """
    size = 2 ** math.ceil(math.log2(2 * detectors))
    n = np.fft.fftfreq(size, 1 / size)
    odd = n % 2 == 1
    kernel = np.where(odd, -1 / (np.pi * np.where(odd, n, 1)) ** 2, 0.0)
    kernel[0] = 0.25
    response = np.fft.rfft(kernel).real / spacing
    return response * _WINDOWS[window](np.linspace(0, 1, len(response)))


def _filtered(y: NDArray[Any], response: NDArray[Any]) -> NDArray[Any]:
    if np.iscomplexobj(y):
        return _filtered(y.real, response) + 1j * _filtered(y.imag, response)
    size = 2 * (len(response) - 1)
    return np.fft.irfft(np.fft.rfft(y, size) * response, size)[..., : y.shape[-1]]
