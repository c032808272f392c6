"""D-bar method for impedance tomography of a disc.

Based on Nachman's proof (Ann. Math. 1996) and the method of Siltanen, Mueller and
Isaacson (Inverse Problems 2000), with the scattering transform in Born's approximation,
t^exp, regularised by a low-pass filter (Knudsen, Lassas, Mueller & Siltanen, Inverse
Problems and Imaging 2009).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_ACROSS = 17  # values of k along the diameter of the low-pass filter
_CHANGE = 1e-4  # of the solution, below which it has converged


def boundary_map(change: ArrayLike, angles: ArrayLike) -> NDArray[Any]:
    """Return the Dirichlet-to-Neumann map of the disc minus that for conductivity 1.

    `change` (electrodes, electrodes) holds the potentials for a unit current into each
    electrode minus those for conductivity 1, up to constants; `angles` holds the angles
    of the centres of the electrodes, which are equally spaced. The map is in the basis
    ``exp(i n theta)``, n = 1, 2, ..., up to the order that the electrodes resolve but
    at most 10, because the scattering transform divides order n by n!.
    """
    angles = np.asarray(angles)
    count = len(angles)
    order = min((count - 1) // 2, 10)
    n = np.concatenate([np.arange(-order, 0), np.arange(1, order + 1)])
    waves = np.exp(1j * np.outer(n, angles))
    # A current I spreads over the arc of one electrode and the gap beside it.
    R = waves.conj() @ np.asarray(change) @ waves.T * (2 * np.pi / count**2)
    difference = np.linalg.inv(np.diag(1 / np.abs(n)) + R) - np.diag(np.abs(n))
    return difference[order:, order:]


def dbar(boundary: ArrayLike, points: ArrayLike, cutoff: float) -> NDArray[np.float64]:
    """Reconstruct the conductivity of the unit disc, which is 1 near its boundary.

    `boundary` is the result of `boundary_map`; the conductivity is computed separately
    at each of the `points` (..., 2). `cutoff` > 0 is the largest magnitude of k; the
    shortest wavelength in the result is ``pi / cutoff``. Raises ValueError if it is not
    positive, or the iteration does not converge because noise or contrast make the
    scattering transform too large below the cutoff.
    """
    if not cutoff > 0:
        raise ValueError(f"cutoff must be positive, got {cutoff:g}")
    points = np.asarray(points, np.float64)
    z = (points[..., 0] + 1j * points[..., 1]).reshape(-1, 1)
    line = np.linspace(-cutoff, cutoff, _ACROSS)
    k = (line + 1j * line[:, None]).ravel()
    k = k[np.abs(k) < (1 + 1e-9) * cutoff]
    zero = int(np.abs(k).argmin())
    green = (line[1] - line[0]) ** 2 / np.pi * _inverse(k[:, None] - k)
    weight = _scattering(np.asarray(boundary), k) * _inverse(k.conj()) / (4 * np.pi)
    # dbar mu = weight exp(-i (k z + conj)) conj(mu), mu -> 1, by its integral equation.
    turned = weight * np.exp(-2j * (k * z).real)
    mu = np.ones_like(turned)
    for _ in range(10):
        before, mu = mu, 1 + (turned * mu.conj()) @ green.T
        if np.abs(mu - before).max() < _CHANGE:
            return (mu[:, zero].real ** 2).reshape(points.shape[:-1])
    raise ValueError(f"cutoff must be smaller for such data, got {cutoff:g}")


def _scattering(boundary: NDArray[Any], k: NDArray[Any]) -> NDArray[Any]:
    """Integrate ``exp(i conj(k z)) (Lambda - Lambda_1) exp(i k z)`` over the circle."""
    n = np.arange(1, len(boundary) + 1)
    factorials = np.cumprod(n, dtype=np.float64)
    right = (1j * k[:, None]) ** n / factorials
    left = (1j * k.conj()[:, None]) ** n / factorials
    return 2 * np.pi * np.sum((left @ boundary) * right, axis=1)


def _inverse(k: NDArray[Any]) -> NDArray[Any]:
    """Return 1 / k, and 0 at k = 0, the mean over a cell around the pole."""
    return k.conj() / np.maximum(np.abs(k) ** 2, 1e-12)
