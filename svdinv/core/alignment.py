"""Nearest rigid motion between two sets of points: its derivative, chained by hand.

With shares a_i = w_i / sum w, centred points p_i and q_i, and R the nearest proper
rotation to C = sum_i a_i q_i p_i^T [1]_,

    t = mean q - R mean p    rmsd^2 = sum_i a_i |R p_i - q_i|^2

.. [1] W. Kabsch, "A discussion of the solution for the best rotation to relate two
   sets of vectors", Acta Cryst. A34, 1978.
"""

from __future__ import annotations

from typing import NamedTuple

from svdinv.core.chains import Map
from svdinv.core.namespace import Array, Namespace, safe_divide
from svdinv.core.spectral import spectral_map
from svdinv.core.tolerances import rounding_rtol

__all__ = ["Motion", "nearest_motion"]


class Motion(NamedTuple):
    """The nearest motion at one point: what `nearest_motion` keeps."""

    P: Array
    Q: Array
    mass: Array
    share: Array
    mean_P: Array
    mean_Q: Array
    centred_P: Array
    centred_Q: Array
    R: Array
    residual: Array
    rmsd: Array
    proper: Map

    def push(
        self, dP: Array, dQ: Array, dw: Array, xp: Namespace
    ) -> tuple[Array, Array, Array]:
        """Tangents of R, t and rmsd.

        Parameters
        ----------
        dP, dQ : array
            Tangents of the points, shape (..., N, d).
        dw : array
            Tangent of the weights, shape (..., N).
        xp : namespace
            Array namespace.

        Returns
        -------
        tuple of array
            Shapes (..., d, d), (..., d) and (...).
        """
        a, p, q = self.share, self.centred_P, self.centred_Q
        moved = xp.sum(dw, axis=-1, keepdims=True)[..., None]
        da = (dw[..., None] - a * moved) / self.mass
        dmean_P = xp.sum(da * self.P + a * dP, axis=-2, keepdims=True)
        dmean_Q = xp.sum(da * self.Q + a * dQ, axis=-2, keepdims=True)
        dp, dq = dP - dmean_P, dQ - dmean_Q
        dC = xp.matrix_transpose(da * q + a * dq) @ p
        dC = dC + xp.matrix_transpose(a * q) @ dp
        dR = self.proper.push(dC, None, xp)
        turned, dturned = xp.matrix_transpose(self.R), xp.matrix_transpose(dR)
        dt = dmean_Q - dmean_P @ turned - self.mean_P @ dturned
        r = self.residual
        dr = dp @ turned + p @ dturned - dq
        dsquare = xp.sum(da * r * r + 2 * a * r * dr, axis=(-2, -1))
        return dR, dt[..., 0, :], self._half_over_rmsd(dsquare, xp)

    def pull(
        self,
        gR: Array | None,
        gt: Array | None,
        grmsd: Array | None,
        xp: Namespace,
    ) -> tuple[Array, Array, Array]:
        """Cotangents of P, Q and the weights.

        Parameters
        ----------
        gR, gt, grmsd : array or None
            Cotangents of the results, shapes (..., d, d), (..., d) and (...); None
            for zero.
        xp : namespace
            Array namespace.

        Returns
        -------
        tuple of array
            Shapes (..., N, d), (..., N, d) and (..., N).
        """
        a, p, q, r = self.share, self.centred_P, self.centred_Q, self.residual
        gR = xp.zeros_like(self.R) if gR is None else gR
        gp, gq, ga = xp.zeros_like(p), xp.zeros_like(q), xp.zeros_like(a)
        gmean_P, gmean_Q = xp.zeros_like(self.mean_P), xp.zeros_like(self.mean_Q)
        if grmsd is not None:
            gsquare = self._half_over_rmsd(grmsd, xp)[..., None, None]
            ga = gsquare * xp.sum(r * r, axis=-1, keepdims=True)
            gr = 2 * gsquare * a * r
            gp, gq = gr @ self.R, -gr
            gR = gR + xp.matrix_transpose(gr) @ p
        if gt is not None:
            gt = gt[..., None, :]
            gmean_P, gmean_Q = -gt @ self.R, gt
            gR = gR - xp.matrix_transpose(gt) @ self.mean_P
        gC, _ = self.proper.pull(gR, xp)
        qC = q @ gC
        gp, gq = gp + a * qC, gq + a * (p @ xp.matrix_transpose(gC))
        ga = ga + xp.sum(p * qC, axis=-1, keepdims=True)
        gmean_P = gmean_P - xp.sum(gp, axis=-2, keepdims=True)
        gmean_Q = gmean_Q - xp.sum(gq, axis=-2, keepdims=True)
        ga = ga + xp.sum(self.P * gmean_P + self.Q * gmean_Q, axis=-1, keepdims=True)
        gw = (ga - xp.sum(a * ga, axis=-2, keepdims=True)) / self.mass
        return gp + a * gmean_P, gq + a * gmean_Q, gw[..., 0]

    def _half_over_rmsd(self, x: Array, xp: Namespace) -> Array:
        """Chain of the root, with 0 at its kink."""
        return safe_divide(x, 2 * self.rmsd, self.rmsd > 0, xp)


def nearest_motion(P: Array, Q: Array, w: Array, proper: Map, xp: Namespace) -> Motion:
    """Compute what the derivatives of the nearest motion need.

    Parameters
    ----------
    P, Q : array
        Points, shape (..., N, d), real.
    w : array
        Weights, shape (..., N).
    proper : Map
        From the covariance to R.
    xp : namespace
        Array namespace.

    Returns
    -------
    Motion
        With its derivatives.
    """
    mass = xp.sum(w, axis=-1)[..., None, None]
    mass = xp.where(mass == 0, xp.ones_like(mass), mass)
    share = w[..., None] / mass
    mean_P = xp.sum(share * P, axis=-2, keepdims=True)
    mean_Q = xp.sum(share * Q, axis=-2, keepdims=True)
    p, q = P - mean_P, Q - mean_Q
    R = spectral_map(proper.function, proper.A, proper.tau, proper.factors, xp=xp)
    r = p @ xp.matrix_transpose(R) - q
    square = xp.sum(share * r * r, axis=(-2, -1))
    size = xp.sum(share * (p * p + q * q), axis=(-2, -1))
    exact = square <= rounding_rtol(square, xp) ** 2 * size
    rmsd = xp.sqrt(xp.where(exact, xp.zeros_like(square), square))
    return Motion(P, Q, mass, share, mean_P, mean_Q, p, q, R, r, rmsd, proper)
