"""Why an untrained convolutional generator prefers smooth signals.

The two-layer generator of Heckel and Soltanolkotabi ("Denoising and regularization via
exploiting the structural bias of convolutional generators", ICLR 2020; "Compressive
sensing with un-trained neural networks: gradient descent finds a smooth
approximation", ICML 2020) makes a signal of n samples from coefficients C, shape
(n, k), of which alone it is a function::

    G(C) = ReLU(U C) v,    v = (1, ..., 1, -1, ..., -1) / sqrt(k).

U is a circular convolution with a fixed kernel u. With D = [U C > 0], the Jacobian J of
G in C has ::

    J J^T = (D D^T / k) * (U U^T)    (elementwise product),

because the column of C with the index l moves G along v_l diag(D_l) U. For a Gaussian
C, entries of D D^T / k are means over k columns of the event that two Gaussians with
the correlation rho_ij = <u_i, u_j> / <u, u> are both positive, whose probability is
(1 - arccos(rho_ij) / pi) / 2 (W. F. Sheppard, 1899; the arc-cosine kernel of degree 0
of Cho and Saul, NIPS 2009). So ::

    E J J^T = <u, u> g(rho),    g(t) = (1 - arccos(t) / pi) t / 2,

a circulant matrix: its eigenvectors are the trigonometric basis, and its eigenvalues
the discrete Fourier transform of its first row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "TwoLayer",
    "circulant",
    "error_bound",
    "expected_values",
    "gaussian_kernel",
    "smoothest",
    "triangular_kernel",
    "trigonometric_basis",
]

Real = NDArray[np.float64]


def triangular_kernel(n: int, width: float) -> Real:
    """Kernel of linear interpolation, as by bilinear upsampling.

    Parameters
    ----------
    n : int
        Length, that of the signals.
    width : float
        Distance in samples at which it is 0, above 0.

    Returns
    -------
    ndarray, shape (n,)
        Of sum 1, its centre at index 0, periodic.

    Raises
    ------
    ValueError
        If `n` or `width` is not positive.
    """
    return _normalised(np.maximum(1 - _distance(n, width) / width, 0))


def gaussian_kernel(n: int, width: float) -> Real:
    """Gaussian kernel.

    Parameters
    ----------
    n : int
        Length, that of the signals.
    width : float
        Standard deviation in samples, above 0.

    Returns
    -------
    ndarray, shape (n,)
        Of sum 1, its centre at index 0, periodic.

    Raises
    ------
    ValueError
        If `n` or `width` is not positive.
    """
    return _normalised(np.exp(-0.5 * (_distance(n, width) / width) ** 2))


def _distance(n: int, width: float) -> Real:
    for name, value in (("n", n), ("width", width)):
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    index = np.arange(n)
    return np.minimum(index, n - index).astype(float)


def _normalised(kernel: Real) -> Real:
    return kernel / kernel.sum()


def circulant(kernel: Real) -> Real:
    """Matrix of the circular convolution with a kernel.

    Parameters
    ----------
    kernel : ndarray, shape (n,)
        Its first column.

    Returns
    -------
    ndarray, shape (n, n)
        ``circulant(u) @ x`` is the convolution of u and x.
    """
    index = np.arange(len(kernel))
    return kernel[(index[:, None] - index) % len(kernel)]


def trigonometric_basis(n: int) -> Real:
    """Orthonormal cosines and sines of n samples, the slowest first.

    Parameters
    ----------
    n : int
        Length.

    Returns
    -------
    ndarray, shape (n, n)
        In its columns the constant, then a cosine and a sine of each frequency up to
        n / 2; the singular vectors of all circulant matrices that are symmetric.
    """
    phase = 2 * np.pi * np.outer(np.arange(n), np.arange(n // 2 + 1)) / n
    both = np.stack([np.cos(phase), np.sin(phase)], axis=2).reshape(n, -1)
    # No sine of frequency 0, nor of n / 2.
    kept = both[:, [0, *range(2, n + 1)]]
    return kept / np.linalg.norm(kept, axis=0)


def expected_values(kernel: Real) -> Real:
    """Singular values of the expected Jacobian of the generator, by their formula.

    The roots of the eigenvalues of E J J^T, which are <u, u> times the Fourier
    transform of g of the autocorrelation of the kernel, see the module.

    Parameters
    ----------
    kernel : ndarray, shape (n,)
        The kernel u.

    Returns
    -------
    ndarray, shape (n,)
        In the order of `trigonometric_basis`: one for the constant, and two of each
        frequency. Largest for low frequencies if u is a smoothing kernel.
    """
    n, spectrum = len(kernel), np.fft.rfft(kernel)
    square = kernel @ kernel
    rho = np.fft.irfft(abs(spectrum) ** 2, n) / square
    rho[0] = 1  # but for rounding, at which the slope of arccos is infinite
    g = 0.5 * (1 - np.arccos(np.clip(rho, -1, 1)) / np.pi) * rho
    values = np.sqrt(np.maximum(square * np.fft.rfft(g).real, 0))
    return np.repeat(values, 2)[1 : n + 1]


def smoothest(J: Real, A: Real, y: Real) -> Real:
    """Signal of the least coefficients that has given measurements.

    What gradient descent from 0 finds for the linear generator c -> J c, if it goes
    on to the end.

    Parameters
    ----------
    J : ndarray, shape (n, p)
        The linear generator; only J J^T matters.
    A : ndarray, shape (m, n)
        Measurements.
    y : ndarray, shape (m,)
        Their values.

    Returns
    -------
    ndarray, shape (n,)
        J c for the c of least norm with A J c = y.
    """
    return J @ np.linalg.lstsq(A @ J, y, rcond=None)[0]


def error_bound(J: Real, A: Real, x: Real) -> float:
    """Bound the error of `smoothest` for noiseless measurements of a signal.

    With the singular vectors w_i and values s_i of J, the signal is J c for a c of
    squared norm sum_i <w_i, x>^2 / s_i^2. The error is -J P c, P the projection onto
    the null space of A J, and so at most norm(J P) norm(c). For Gaussian A the square
    of the first factor is of the order of 1 / m times the sum of the s_i^2 behind the
    first of about m: the bound is small where x is smooth, and the values decay.

    Parameters
    ----------
    J : ndarray, shape (n, p)
        The linear generator, of rank n.
    A : ndarray, shape (m, n)
        Measurements.
    x : ndarray, shape (n,)
        The signal.

    Returns
    -------
    float
        What ``norm(smoothest(J, A, A @ x) - x)`` is never above.
    """
    W, s, _ = np.linalg.svd(J, full_matrices=False)
    rows = np.linalg.svd(A @ (W * s))[2]
    kept = rows[np.linalg.matrix_rank(A @ (W * s)) :]
    gain = np.linalg.norm(s[:, None] * kept.T, 2) if len(kept) else 0.0
    return float(gain * np.linalg.norm((W.T @ x) / s))


@dataclass(frozen=True)
class TwoLayer:
    """The generator G(C) = ReLU(U C) v and what follows from its formula.

    Parameters
    ----------
    kernel : ndarray, shape (n,)
        The kernel u of the convolution U.
    width : int
        Number k of columns of C, even.

    Raises
    ------
    ValueError
        If `width` is odd or not positive.
    """

    kernel: Real
    width: int

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise ValueError(f"width must be even and positive, got {self.width}")

    @property
    def U(self) -> Real:
        """Matrix of the convolution, shape (n, n)."""
        return circulant(self.kernel)

    @property
    def v(self) -> Real:
        """Fixed weights of the second layer, shape (k,)."""
        signs = np.repeat([1.0, -1.0], self.width // 2)
        return signs / np.sqrt(self.width)

    def start(self, rng: np.random.Generator | int, scale: float = 1.0) -> Real:
        """Draw coefficients.

        Parameters
        ----------
        rng : Generator or int
            Random numbers, or a seed.
        scale : float
            Standard deviation; the Jacobian does not depend on it.

        Returns
        -------
        ndarray, shape (n, k)
            Normal and independent; the second half is equal to the first, so that the
            image is 0.
        """
        half = (len(self.kernel), self.width // 2)
        C = scale * np.random.default_rng(rng).standard_normal(half)
        return np.concatenate([C, C], axis=1)

    def __call__(self, C: Real) -> Real:
        """Make the signal, shape (n,), of coefficients (n, k)."""
        return np.maximum(self.U @ C, 0) @ self.v

    def gram(self, C: Real, other: Real | None = None) -> Real:
        """J J^T at coefficients, or of the difference to J at others.

        Parameters
        ----------
        C : ndarray, shape (n, k)
            Coefficients.
        other : ndarray, shape (n, k), optional
            Others, whose J is subtracted.

        Returns
        -------
        ndarray, shape (n, n)
            Its eigenvalues are the squared singular values.
        """
        D = (self.U @ C > 0).astype(float)
        if other is not None:
            D -= self.U @ other > 0
        return (D @ D.T / self.width) * (self.U @ self.U.T)

    def descend(
        self,
        C: Real,
        slope: Callable[[Real], Real],
        step: float,
    ) -> Iterator[tuple[Real, Real]]:
        """Gradient descent on the coefficients, without end.

        Parameters
        ----------
        C : ndarray, shape (n, k)
            Where to start.
        slope : callable
            From a signal to the gradient of the loss in it: ``lambda x: x - y``, or
            ``lambda x: A.T @ (A @ x - y)``.
        step : float
            Step size.

        Yields
        ------
        signal : ndarray, shape (n,)
            At the start, and behind each step.
        C : ndarray, shape (n, k)
            The coefficients.
        """
        U, v = self.U, self.v
        while True:
            before = U @ C
            signal = np.maximum(before, 0) @ v
            yield signal, C
            C = C - step * (U.T @ (slope(signal)[:, None] * (before > 0) * v))


if __name__ == "__main__":
    print("A module: docs/untrained-theory.md has programs that import it.")
