"""Matrices with known factors, and the exact gradients of losses in them.

The losses are Re<G, U f(S) V^H> + sum_i g(s_i), projectors on a leading subspace,
and losses in S alone. Their gradient follows from the *known* factors by the
Daleckii-Krein formula with divided differences in closed form, in float64; the
cotangents that a framework's autodiff would hand to the SVD are computed from the
factors *that the framework returned*, in its own precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def adjoint(x):
    return np.conj(np.swapaxes(x, -1, -2))


@dataclass(frozen=True)
class SpectralFunction:
    """f, f', (f(a) - f(b)) / (a - b), (f(a) + f(b)) / (a + b) and f(s) / s."""

    name: str
    value: object
    derivative: object
    difference: object
    total: object
    over_s: object
    smooth_at_zero: bool = True


def _positive(x):
    return np.where(x > 0, x, 1)


def _soft(tau):
    def difference(a, b):
        large, small = np.maximum(a, b), np.minimum(a, b)
        gap = _positive(large - small)
        above = np.where(small > tau, 1.0, (large - tau) / gap)
        return np.where(large > tau, above, 0.0)

    def soft(s):
        return np.maximum(s - tau, 0)

    return SpectralFunction(
        "soft threshold",
        soft,
        lambda s: (s > tau).astype(s.dtype),
        difference,
        lambda a, b: (soft(a) + soft(b)) / _positive(a + b),
        lambda s: soft(s) / _positive(s),
    )


def _sinhc(x):
    return np.where(np.abs(x) < 1e-4, 1 + x * x / 6, np.sinh(x) / np.where(x, x, 1))


SOFT = _soft(0.35)
TANH = SpectralFunction(
    "tanh",
    np.tanh,
    lambda s: 1 / np.cosh(s) ** 2,
    lambda a, b: _sinhc(a - b) / (np.cosh(a) * np.cosh(b)),
    lambda a, b: _sinhc(a + b) / (np.cosh(a) * np.cosh(b)),
    lambda s: _sinhc(s) / np.cosh(s),
)
CUBE = SpectralFunction(
    "cube",
    lambda s: s**3,
    lambda s: 3 * s**2,
    lambda a, b: a * a + a * b + b * b,
    lambda a, b: a * a - a * b + b * b,
    lambda s: s * s,
)
IDENTITY = SpectralFunction(
    "identity",
    lambda s: s,
    np.ones_like,
    lambda a, b: np.ones_like(a + b),
    lambda a, b: np.ones_like(a + b),
    np.ones_like,
)
POLAR = SpectralFunction(
    "polar",
    np.ones_like,
    np.zeros_like,
    lambda a, b: np.zeros_like(a + b),
    lambda a, b: 2 / _positive(a + b),
    lambda s: 1 / _positive(s),
    smooth_at_zero=False,
)
FUNCTIONS = {f.name: f for f in (SOFT, TANH, CUBE, IDENTITY, POLAR)}

# derivative of the penalty, and whether it is smooth at zero singular values
PENALTIES = {
    "none": (np.zeros_like, True),
    "nuclear": (lambda s: np.full_like(s, 0.5), False),
    "schatten": (lambda s: 0.8 * s, True),  # 0.4 ||A||_F^2
}

GAPS = tuple(10.0**-i for i in range(1, 17))


def spectrum(name: str, k: int, rng: np.random.Generator) -> np.ndarray:
    """Draw k >= 6 singular values in (0, 1.5], sorted downwards."""
    # Steps of 0.1 and more: distinct, and no value near the soft threshold, 0.35.
    s = 0.45 + 0.15 * np.arange(k)[::-1] + 0.05 * rng.random(k)
    s[-1] = 0.2 + 0.05 * rng.random()
    if name == "distinct":
        pass
    elif name == "pair":
        s[2] = s[1]
    elif name == "triple":
        s[1] = s[3] = s[2]
    elif name == "two clusters":
        s[1] = s[0]
        s[3] = s[4] = s[2]
    elif name == "all equal":
        s[:] = s[0]
    elif name == "zeros":
        s[-2:] = 0
    elif name == "one zero":
        s[-1] = 0
    elif name == "repeated and zeros":
        s[1] = s[0]
        s[-3:] = 0
    elif name == "condition 1e12":
        s = np.geomspace(1.0, 1e-12, k) * (1 + 0.1 * rng.random(k))
        s = np.sort(s)[::-1]
    elif name == "condition 1e6":
        s = np.geomspace(1.0, 1e-6, k) * (1 + 0.1 * rng.random(k))
        s = np.sort(s)[::-1]
    elif name.startswith("gap "):
        s[2] = s[1] * (1 - float(name[4:]))
    else:
        raise ValueError(name)
    return s


EXACTLY_REPEATED = ("pair", "triple", "two clusters", "all equal")
WITH_ZEROS = ("one zero", "zeros", "repeated and zeros")
SPECTRA = (
    "distinct",
    *EXACTLY_REPEATED,
    *(f"gap {gap:.0e}" for gap in GAPS),
    *WITH_ZEROS,
    "condition 1e12",
)


def differentiable(spectrum):
    """Functions and penalties whose gradient exists at the spectrum."""
    # The polar factor and the nuclear norm have no derivative at zero singular
    # values, and one of size 1 / s_min near them: rounding A changes it entirely.
    singular = spectrum in WITH_ZEROS or spectrum == "condition 1e12"
    for f in FUNCTIONS.values():
        for penalty, (_, smooth) in PENALTIES.items():
            if not singular or (f.smooth_at_zero and smooth):
                yield f, penalty


def random_unitary(shape, rng, is_complex):
    x = rng.standard_normal(shape)
    if is_complex:
        x = x + 1j * rng.standard_normal(shape)
    return np.linalg.qr(x)[0]


@dataclass(frozen=True)
class Problem:
    """A batch of matrices A = U diag(s) V^H with known factors, in float64."""

    A: np.ndarray
    U: np.ndarray
    s: np.ndarray
    V: np.ndarray
    G: np.ndarray

    def exact_gradient(self, f: SpectralFunction, penalty: str = "none"):
        """Gradient of Re<G, U f(S) V^H> + sum g(s) by Daleckii-Krein."""
        U, s, V, G = self.U, self.s, self.V, self.G
        a, b = s[..., :, None], s[..., None, :]
        K = adjoint(U) @ G @ V
        H, W = (K + adjoint(K)) / 2, (K - adjoint(K)) / 2
        eye = np.eye(s.shape[-1])
        block = f.difference(a, b) * H + f.total(a, b) * W
        block = block + eye * PENALTIES[penalty][0](s)[..., None]
        phi = f.over_s(s)[..., None, :]
        gA = U @ block @ adjoint(V)
        gA = gA + ((G @ V - U @ K) * phi) @ adjoint(V)
        return gA + (U * phi) @ (adjoint(U) @ G - K @ adjoint(V))

    def cotangents(self, factors, f: SpectralFunction, penalty: str = "none"):
        """Cotangents of (U, S, Vh), as autodiff would compute them."""
        U, S, Vh = factors
        G = self.G.astype(U.dtype)
        value = f.value(S).astype(S.dtype)
        gU = (G @ adjoint(Vh)) * value[..., None, :]
        gVh = value[..., :, None] * (adjoint(U) @ G)
        K = np.sum(np.conj(U) * (G @ adjoint(Vh)), axis=-2).real
        gS = f.derivative(S) * K + PENALTIES[penalty][0](S)
        return gU, gS.astype(S.dtype), gVh


def draw(
    name: str,
    shape: tuple[int, int],
    *,
    draws: int,
    dtype=np.float64,
    seed: int = 0,
) -> Problem:
    """Draw a batch of problems with the named spectrum, rounded to `dtype`."""
    rng = np.random.default_rng(seed)
    m, n = shape
    k = min(m, n)
    is_complex = np.issubdtype(dtype, np.complexfloating)
    U = random_unitary((draws, m, k), rng, is_complex)
    V = random_unitary((draws, n, k), rng, is_complex)
    s = np.stack([spectrum(name, k, rng) for _ in range(draws)])
    G = rng.standard_normal((draws, m, n))
    if is_complex:
        G = G + 1j * rng.standard_normal((draws, m, n))
    G = G.astype(dtype).astype(np.complex128 if is_complex else np.float64)
    A = ((U * s[..., None, :]) @ adjoint(V)).astype(dtype)
    return Problem(A, U, s, V, G)


def relative_error(x, exact):
    """Frobenius norm of the error over that of the exact value, per matrix."""
    error = np.linalg.norm(np.asarray(x) - exact, axis=(-2, -1))
    return error / np.linalg.norm(exact, axis=(-2, -1))
