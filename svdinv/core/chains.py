"""Derivatives of the low-rank operators, chained by hand.

For frameworks without automatic differentiation. `push` takes tangents to tangents,
`pull` cotangents to cotangents; a cotangent g of x means dL = Re tr(g^H dx).
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from svdinv.core.functions import Leading, Power, SpectralFunction
from svdinv.core.namespace import (
    Array,
    Namespace,
    adjoint,
    cast,
    conj,
    inner,
    is_complex,
    real,
)
from svdinv.core.sampled import sampled_derivative
from svdinv.core.spectral import spectral_derivative, spectral_map
from svdinv.core.tensors import Tiling, fourier_slices

__all__ = [
    "Map",
    "fourier_pull",
    "fourier_push",
    "procrustes_pull",
    "procrustes_push",
    "product",
    "sampled_map_derivative",
    "schatten_gradient",
    "tiled_pull",
    "tiled_push",
    "values_pull",
    "values_push",
]

Factors: TypeAlias = tuple[Array, ...]


def product(g: Array, G: Array, xp: Namespace) -> Array:
    """`g` G, with one real number for each matrix."""
    return cast(g, G, xp)[..., None, None] * G


class Map(NamedTuple):
    """A spectral map U f(S) V^H at one point.

    Attributes
    ----------
    function, A, tau, factors
        As for `svdinv.core.spectral.spectral_map`.
    relative : array or None
        Where tau = relative * top, with top the largest singular value, shape
        (..., 1).
    top : array or None
        That value.
    """

    function: SpectralFunction
    A: Array
    tau: Array
    factors: Factors
    relative: Array = None
    top: Array = None

    def push(self, dA: Array, dtau: Array | None, xp: Namespace) -> Array:
        """Tangent of the map from those of A and of tau, or of what it is relative to.

        Parameters
        ----------
        dA : array
            Shape (..., m, n).
        dtau : array or None
            Of the shape of tau; None for zero.
        xp : namespace
            Array namespace.

        Returns
        -------
        array
            Shape (..., m, n).
        """
        if self.relative is not None:
            dtop = inner(self._leading(xp), dA, xp)[..., None]
            moved = None if dtau is None else self.top * dtau
            dtau = self.relative * dtop
            dtau = dtau if moved is None else dtau + moved
        return spectral_derivative(
            self.function, self.A, self.tau, self.factors, dA, dtau, xp=xp
        )[0]

    def pull(self, G: Array, xp: Namespace) -> tuple[Array, Array]:
        """Cotangents of A and of tau, or of what tau is relative to.

        Parameters
        ----------
        G : array
            Cotangent of the map, shape (..., m, n).
        xp : namespace
            Array namespace.

        Returns
        -------
        array
            Shape (..., m, n).
        array or None
            Of the shape of tau, if there is one.
        """
        return spectral_derivative(
            self.function,
            self.A,
            self.tau,
            self.factors,
            G,
            transposed=True,
            ratio=self.relative,
            xp=xp,
        )

    def _leading(self, xp: Namespace) -> Array:
        """Gradient of `top`."""
        return spectral_map(Leading(1), self.A, None, self.factors, xp=xp)


def schatten_gradient(
    scaled: Array, total: Array, p: float, factors: Factors, xp: Namespace
) -> Array:
    """Gradient of the Schatten norm, U diag((s / norm)^(p - 1)) V^H, and 0 at A = 0.

    Parameters
    ----------
    scaled : array
        A over its largest singular value, to which it is insensitive.
    total : array
        Sum of the p-th powers of the singular values of `scaled`, shape (...).
    p : float
        Exponent.
    factors : tuple of array
        Of `scaled`.
    xp : namespace
        Array namespace.

    Returns
    -------
    array
        Shape (..., m, n).
    """
    positive = total > 0
    root = xp.where(positive, total, xp.ones_like(total)) ** (1 / p - 1)
    root = xp.where(positive, root, xp.zeros_like(root))
    powers = spectral_map(Power(p - 1), scaled, None, factors, xp=xp)
    return product(root, powers, xp)


def values_push(U: Array, Vh: Array, dA: Array, xp: Namespace) -> Array:
    """Tangent of the singular values, Re diag(U^H dA V); shape (..., k)."""
    return xp.sum(real(conj(U, xp) * (dA @ adjoint(Vh, xp)), xp), axis=-2)


def values_pull(U: Array, Vh: Array, gS: Array, xp: Namespace) -> Array:
    """Cotangent of A from that of the singular values, U diag(gS) V^H."""
    return (U * cast(gS, U, xp)[..., None, :]) @ Vh


def sampled_map_derivative(
    U: Array, S: Array, Vh: Array, y: Array, minus: Array, X: Array, *, xp: Namespace
) -> Array:
    """Differentiate U f(S) V^H with sampled divided differences; its own transpose.

    Parameters
    ----------
    U, S, Vh, y, minus, X
        As for `svdinv.core.sampled.sampled_derivative`.
    xp : namespace
        Array namespace.

    Returns
    -------
    array
        Shape (..., m, n).
    """
    result, K = sampled_derivative(U, S, Vh, y, minus, X, xp=xp)
    slope = xp.linalg.diagonal(minus)
    return result + values_pull(U, Vh, slope * real(xp.linalg.diagonal(K), xp), xp)


def procrustes_push(
    A: Array, B: Array, dA: Array, dB: Array, polar: Map, xp: Namespace
) -> Array:
    """Tangent of the polar factor of A^H B, of which `polar` is the map."""
    return polar.push(adjoint(dA, xp) @ B + adjoint(A, xp) @ dB, None, xp)


def procrustes_pull(
    A: Array, B: Array, G: Array, polar: Map, xp: Namespace
) -> tuple[Array, Array]:
    """Cotangents of A and B from that of the polar factor of A^H B."""
    gC, _ = polar.pull(G, xp)
    return B @ adjoint(gC, xp), A @ gC


def fourier_push(
    dX: Array, dtau: Array | None, axis: int, slices: Map, xp: Namespace
) -> Array:
    """Tangent of a map of the Fourier slices of X.

    Parameters
    ----------
    dX : array
        Tangent of X, as for `svdinv.core.tensors.fourier_slices`.
    dtau : array or None
        Tangent of tau, shape (..., 1).
    axis : int
        As for `fourier_slices`.
    slices : Map
        The map of the slices.
    xp : namespace
        Array namespace.

    Returns
    -------
    array
        Shape of X.
    """
    tangents, back = fourier_slices(dX, axis, xp)
    if dtau is not None:
        dtau = xp.broadcast_to(dtau[..., None, :], slices.tau.shape)
    return back(slices.push(tangents, dtau, xp))


def fourier_pull(
    G: Array, axis: int, slices: Map, xp: Namespace
) -> tuple[Array, Array]:
    """Cotangents of X and tau from that of a map of the Fourier slices of X.

    The transforms are unitary but for a factor, and the inverse has the inverse one:
    the chain is transposed by transposing the map alone. In the cotangent of tau that
    factor, 1 / length, is left, and twice that for a frequency that stands for its
    conjugate as well.

    Parameters
    ----------
    G : array
        Cotangent of the result, of the shape of X.
    axis, slices, xp
        As for `fourier_push`.

    Returns
    -------
    array
        Shape of X.
    array
        Shape (..., 1).
    """
    length = G.shape[axis]
    cotangents, back = fourier_slices(G, axis, xp)
    gX, gtau = slices.pull(cotangents, xp)
    total = xp.sum(gtau, axis=-2)
    if not is_complex(G, xp):
        total = 2 * total - gtau[..., 0, :]
        if length % 2 == 0:
            total = total - gtau[..., -1, :]
    return back(gX), total / length


def tiled_push(
    dx: Array,
    dtau: Array | None,
    tilings: list[Tiling],
    maps: list[Map],
    xp: Namespace,
) -> Array:
    """Tangent of the mean, over tilings, of a map of the blocks.

    Parameters
    ----------
    dx : array
        Tangent of the series, shape (..., T, H, W).
    dtau : array or None
        Tangent of tau, shape (..., 1).
    tilings : list of Tiling
        How the series is cut.
    maps : list of Map
        For each tiling, the map of its blocks.
    xp : namespace
        Array namespace.

    Returns
    -------
    array
        Shape (..., T, H, W).
    """
    parts = []
    for tiling, blocks in zip(tilings, maps, strict=True):
        moved = None
        if dtau is not None:
            moved = xp.broadcast_to(dtau[..., None, None, :], blocks.tau.shape)
        parts.append(tiling.join(blocks.push(tiling.cut(dx, xp), moved, xp), xp))
    return sum(parts[1:], parts[0]) / len(parts)


def tiled_pull(
    G: Array, tilings: list[Tiling], maps: list[Map], xp: Namespace
) -> tuple[Array, Array]:
    """Cotangents of a series and of tau from that of a mean over tilings.

    Cutting and joining are each other's transposes: what one fills up with zeros, the
    other leaves out.

    Parameters
    ----------
    G : array
        Cotangent of the result, shape (..., T, H, W).
    tilings, maps, xp
        As for `tiled_push`.

    Returns
    -------
    array
        Shape (..., T, H, W).
    array
        Shape (..., 1).
    """
    gx, gtau = [], []
    for tiling, blocks in zip(tilings, maps, strict=True):
        gA, g = blocks.pull(tiling.cut(G, xp), xp)
        gx.append(tiling.join(gA, xp))
        gtau.append(xp.sum(g, axis=(-3, -2)))
    count = len(tilings)
    return sum(gx[1:], gx[0]) / count, sum(gtau[1:], gtau[0]) / count
