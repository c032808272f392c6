"""Forward operator of a tank: from a picture to conductivities to voltages."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from svdinv.numpy import svd_lowrank
from svdinv.unroll.arrays import Array, cast_like, namespace
from svdinv.unroll.operators import Operator, Wrapped, WrappedNonlinear
from svdinv.unroll.problem import Problem

Floats = NDArray[Any]

DECADE = math.log(10)
"""Logarithm of the range of a picture, above and below the water."""

RANK = 60
"""Number of leading singular values of the derivative that are computed."""

_FILTER = 0.02  # relative singular value at which the filter damps by half


class Voltages(WrappedNonlinear):
    """Operator from conductivities of triangles, relative to the water, to voltages.

    The voltages of the `Impedance` `model` are minus those of water with conductivity
    `water`, in units of their standard deviations `deviation` (patterns, measurements),
    which are infinite where nothing is measured. Raises ValueError if `deviation` has
    another shape or is not positive, or nothing is measured.
    """

    def __init__(self, model: Any, water: float, deviation: Floats) -> None:
        self.model, self.water = model, float(water)
        shape = model.data_shape
        if deviation.shape != shape or not (deviation > 0).all():
            raise ValueError(
                f"deviation must be positive, of the shape {shape}, got "
                f"{deviation.shape}"
            )
        self.weight = 1 / deviation
        if not self.weight.any():
            raise ValueError("deviation must be finite somewhere: nothing is measured")
        self.reference = model.forward(np.full(model.image_shape, self.water))
        self._factors: Any = None
        super().__init__(
            lambda s: self.weight * (self._model(s) - self.reference),
            lambda s, ds: self.weight * self._slope(s).forward(self._absolute(ds)),
            lambda s, y: self.water * self._slope(s).adjoint(
                self.weight * np.asarray(y, np.float64)
            ),
            model.image_shape,
            shape,
        )  # fmt: skip

    def project_to_samples(self, y: Array) -> Array:
        xp = namespace(y)
        return xp.where(cast_like(self.weight > 0, y, xp), y, xp.zeros_like(y))

    def approximate_inverse(self, y: Array) -> Array:
        """Return conductivities (..., triangles), relative to the water.

        The derivative at the water is inverted with its leading singular values; `y`
        is (..., patterns, measurements).
        """
        U, gains, V = self._leading()
        shape = self.data_shape
        A = Wrapped(
            lambda y: V @ (gains * (U.T @ np.asarray(y, np.float64).ravel())),
            lambda x: (U @ (gains * (V.T @ np.asarray(x, np.float64)))).reshape(shape),
            shape,
            self.image_shape,
        )
        return 1 + A.forward(self.project_to_samples(y))

    def _leading(self) -> Any:
        """Return singular vectors of the derivative at the water, and filter gains."""
        if self._factors is None:
            water = np.ones(self.image_shape)
            D, C = self.derivative(water), smooth(self.model.mesh)
            x = C.forward(np.zeros(C.image_shape))
            rank = min(RANK, int((self.weight > 0).sum()), x.size)
            U, S, Vh = svd_lowrank(
                (lambda w: D.forward(C.forward(w)), lambda y: C.adjoint(D.adjoint(y))),
                rank, seed=0, like=np.zeros(C.image_shape),
            )  # fmt: skip
            V = np.stack([C.forward(v) for v in Vh.reshape(rank, -1)], axis=1)
            gains = S / (S**2 + (_FILTER * S[0]) ** 2)
            self._factors = U.reshape(-1, rank), gains, V
        return self._factors

    def _absolute(self, s: Floats) -> Floats:
        return self.water * np.asarray(s, np.float64)

    def _model(self, s: Floats) -> Floats:
        s = self._absolute(s)
        if not (s > 0).all():  # NaN makes a fit or a line search step back
            return np.full(self.data_shape, np.nan)
        return self.model.forward(s)

    def _slope(self, s: Floats) -> Any:
        return self.model.derivative(self._absolute(s))


class Picture(WrappedNonlinear):
    """Operator from pictures to conductivities of triangles, relative to the water.

    The conductivity is ``10^(2 x - 1)``, where x is the mean of the picture over a
    triangle. The picture is centred at the origin, and its side is twice the largest
    distance of a node of the mesh from there.
    """

    def __init__(self, mesh: Any, size: int) -> None:
        from scipy.sparse import csr_array

        self.mesh, self.size = mesh, size
        radius = float(np.linalg.norm(mesh.nodes, axis=1).max())
        corners = mesh.nodes[mesh.triangles]
        inner = [(1 / 3,) * 3]
        inner += [(a, b, 1 - a - b) for a, b in ((0.6, 0.2), (0.2, 0.6), (0.2, 0.2))]
        points = np.einsum("pk,tkd->tpd", np.array(inner), corners)
        pixels = (points / radius + 1) / 2 * size - 0.5
        column, row = pixels[..., 0], size - 1 - pixels[..., 1]
        low = [np.floor(z).clip(0, size - 2) for z in (row, column)]
        share = [(z - l).clip(0, 1) for z, l in zip((row, column), low, strict=True)]
        count, each = len(mesh.triangles), len(inner)
        rows, columns, values = [], [], []
        for down in (0, 1):
            for right in (0, 1):
                pairs = zip(share, (down, right), strict=True)
                w = [s if d else 1 - s for s, d in pairs]
                index = (low[0] + down) * size + low[1] + right
                columns.append(index.astype(int).ravel())
                values.append((w[0] * w[1] / each).ravel())
                rows.append(np.repeat(np.arange(count), each))
        entries = tuple(np.concatenate(x) for x in (values, rows, columns))
        self._mean = csr_array((entries[0], entries[1:]), shape=(count, size**2))
        line = ((np.arange(size) + 0.5) / size * 2 - 1) * radius
        X, Y = np.meshgrid(line, -line)
        self._index = mesh.at(np.stack([X, Y], axis=-1))
        self._inside = np.hypot(X, Y) < radius
        shape = (1, size, size)
        super().__init__(
            self._value,
            lambda x, dx: 2 * DECADE * self._value(x) * self._averaged(dx),
            lambda x, y: (
                self._mean.T @ (2 * DECADE * self._value(x) * y)
            ).reshape(shape),
            shape,
            (count,),
        )  # fmt: skip

    def draw(self, values: Floats, around: float = 0.0) -> Floats:
        """Draw values of triangles, (1, size, size); pixels outside are `around`."""
        return np.where(self._inside, values[self._index], around)[None]

    def approximate_inverse(self, y: Array) -> Array:
        """Return the picture of conductivities, clipped to a decade around the water.

        `y` is (..., triangles), relative to the water; the result (..., 1, size, size).
        """
        xp = namespace(y)
        one = xp.ones_like(y)
        y = xp.where(y > 0.1, y, 0.1 * one)
        y = xp.where(y < 10, y, 10 * one)
        A = Wrapped(self.draw, self._draw_adjoint, self.data_shape, self.image_shape)
        return 0.5 + A.forward(xp.log(y) / (2 * DECADE))

    def _value(self, x: Floats) -> Floats:
        # Clipped to the range of single precision.
        return np.exp(np.clip(DECADE * (2 * self._averaged(x) - 1), -80, 80))

    def _averaged(self, x: Floats) -> Floats:
        return self._mean @ np.asarray(x, np.float64).ravel()

    def _draw_adjoint(self, x: Floats) -> Floats:
        """Apply the adjoint of `draw`."""
        values = np.where(self._inside, x[0], 0).ravel()
        return np.bincount(self._index.ravel(), values, len(self.mesh.triangles))


def penalties(mesh: Any) -> Any:
    """Return the matrix of differences between triangles, and a small identity."""
    from scipy.sparse import diags_array, vstack

    from svdinv.unroll.tasks.impedance.operator import neighbours

    area = np.sqrt(mesh.areas)
    mean = area.mean()
    return vstack([neighbours(mesh) / mean, 0.1 * diags_array(area / mean)])


def smooth(mesh: Any) -> Wrapped:
    """Return C such that the minimum-norm w with C w = x is ``L x`` (`penalties`)."""
    from scipy.sparse import csc_array
    from scipy.sparse.linalg import splu

    L = penalties(mesh)
    solve = splu(csc_array(L.T @ L)).solve
    return Wrapped(
        lambda w: solve(L.T @ w), lambda x: L @ solve(x), L.shape[:1], L.shape[1:]
    )


def logarithmic(voltages: Voltages) -> Operator:
    """Return the operator on the logarithm of the conductivities."""
    shape = voltages.image_shape
    return voltages * WrappedNonlinear(
        np.exp, lambda x, dx: np.exp(x) * dx, lambda x, y: np.exp(x) * y, shape, shape
    )


class Parts(NamedTuple):
    """The `scan` of voltages: the two factors of the operator."""

    voltages: Voltages
    picture: Picture

    def __str__(self) -> str:
        model = self.voltages.model
        return f"{len(model.contact)} electrodes, {len(model.mesh.triangles)} triangles"


def problem_of(
    model: Any, water: float, y: Floats, deviation: Floats, size: int
) -> Problem:
    """Return the problem of reconstructing a picture of `size` rows and columns.

    `model` is an `Impedance`, `y` holds voltages minus those of the water (patterns,
    measurements), and `deviation` their standard deviations; values that are not finite
    mark missing data. The data of the problem are in units of their noise. Raises
    ValueError as `Voltages` does.
    """
    measured = np.isfinite(y) & np.isfinite(deviation)
    voltages = Voltages(model, water, np.where(measured, deviation, np.inf))
    picture = picture_of_mesh(model.mesh, size)
    data = np.where(measured, y, 0) * voltages.weight
    scan = Parts(voltages, picture)
    return Problem(data.astype(np.float32), voltages * picture, scan=scan)


picture_of_mesh = functools.lru_cache(maxsize=4)(Picture)
"""`Picture`, cached for recent meshes."""
