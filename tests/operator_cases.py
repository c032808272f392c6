"""Every operator with inputs to differentiate it in, and what it is in plain NumPy.

The references are the formulas of the literature by NumPy's own decompositions,
and know nothing of svdinv. Their derivatives are differences of high order.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np
from frameworks import as_tuple

from svdinv.core.hermitian import Exponential
from svdinv.core.thresholds import Firm

DTYPES = [np.float64, np.complex128]


def matrices(shape, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        A = A + 1j * rng.standard_normal(shape)
    return A.astype(dtype)


def adjoint(x):
    return np.conj(np.swapaxes(x, -1, -2))


def unitary(n, dtype, seed, batch=()):
    return np.linalg.qr(matrices((*batch, n, n), dtype, seed))[0]


def with_values(s, shape, dtype=np.float64, seed=0):
    """Matrices with the singular values given."""
    *batch, m, n = shape
    U = unitary(m, dtype, 100 + seed, batch)[..., : len(s)]
    V = unitary(n, dtype, 200 + seed, batch)[..., : len(s)]
    return (U * np.array(s)) @ adjoint(V)


def _tau(*shape, seed=1):
    return 0.3 + 0.8 * np.random.default_rng(seed).random(shape)


# References.


def recomposed(A, f):
    """U f(S) V^H; f of S of shape (..., k)."""
    U, S, Vh = np.linalg.svd(A, full_matrices=False)
    return (U * f(S)[..., None, :]) @ Vh


def _per_value(tau, A):
    tau = np.asarray(tau)
    return tau if tau.ndim == A.ndim - 1 else tau[..., None]


def soft(A, tau):
    return recomposed(A, lambda s: np.maximum(s - _per_value(tau, A), 0))


def soft_relative(A, tau):
    return recomposed(A, lambda s: np.maximum(s - s[..., :1] * _per_value(tau, A), 0))


def hard(A, tau):
    return recomposed(A, lambda s: np.where(s > tau[..., None], s, 0))


def firm(A, tau, gamma):
    def f(s):
        t = tau[..., None]
        line = (s - t) * gamma / (gamma - 1)
        return np.where(s > gamma * t, s, np.maximum(line, 0))

    return recomposed(A, f)


def huber(A, tau, delta):
    def f(s):
        t = tau[..., None]
        return np.where(s < delta + t, s * delta / (delta + t), s - t)

    return recomposed(A, f)


def log_sum(A, tau, epsilon):
    def f(s):
        t = tau[..., None]
        root = np.sqrt(np.maximum((s + epsilon) ** 2 - 4 * t, 0))
        y = (s - epsilon + root) / 2
        cost = (y - s) ** 2 / 2 + t * np.log1p(np.maximum(y, 0) / epsilon)
        real = (s + epsilon) ** 2 > 4 * t
        return np.where(real & (y > 0) & (cost < s**2 / 2), y, 0)

    return recomposed(A, f)


def schatten(A, tau, p):
    def f(s):
        t = tau[..., None] + 0 * s
        if p == 1:
            return np.maximum(s - t, 0)
        if p == 2:
            return s / (1 + 2 * t)
        least = (2 * t * (1 - p)) ** (1 / (2 - p))
        y = np.maximum(s, least)
        for _ in range(100):  # Newton's iteration for the larger root
            slope = 1 + t * p * (p - 1) * y ** (p - 2)
            y = np.maximum(y - (y + t * p * y ** (p - 1) - s) / slope, least)
        return np.where(s > least + t * p * least ** (p - 1), y, 0)

    return recomposed(A, f)


def leading(A, rank):
    return recomposed(A, lambda s: np.where(np.arange(s.shape[-1]) < rank, s, 0))


def values(A):
    return np.linalg.svd(A, compute_uv=False)


def null_vector(A):
    v = np.conj(np.linalg.svd(A)[2][..., -1, :])
    size = np.abs(v)
    first = np.argmax(size > size.max(-1, keepdims=True) / 2, axis=-1)
    pivot = np.take_along_axis(v, first[..., None], axis=-1)
    return v * np.conj(pivot) / np.abs(pivot)


def least_squares(A, b, damping=0):
    t = np.asarray(damping)[..., None]
    return adjoint(recomposed(A, lambda s: s / (s**2 + t**2))) @ b


def procrustes(A, B):
    # min |A R - B|
    return recomposed(adjoint(A) @ B, np.ones_like)


def nearest_rotation(A):
    U, _, Vh = np.linalg.svd(A)
    signs = np.ones(U.shape[:-1])
    signs[..., -1] = np.sign(np.linalg.det(U @ Vh))
    return (U * signs[..., None, :]) @ Vh


def similarity(P, Q, weights=None, reflection=False):
    w = np.ones(P.shape[:-1]) if weights is None else weights
    w = (w / w.sum(-1, keepdims=True))[..., None]
    p, q = ((w * x).sum(-2, keepdims=True) for x in (P, Q))
    C = np.swapaxes(Q - q, -1, -2) @ (w * (P - p))
    R = recomposed(C, np.ones_like) if reflection else nearest_rotation(C)
    c = (R * C).sum((-2, -1)) / (w * (P - p) ** 2).sum((-2, -1))
    t = q[..., 0, :] - np.einsum("...,...ij,...j->...i", c, R, p[..., 0, :])
    moved = c[..., None, None] * P @ np.swapaxes(R, -1, -2) + t[..., None, :]
    return R, t, np.sqrt((w * (moved - Q) ** 2).sum((-2, -1))), c


def kabsch(P, Q, weights=None):
    w = np.ones(P.shape[:-1]) if weights is None else weights
    w = (w / w.sum(-1, keepdims=True))[..., None]
    p, q = ((w * x).sum(-2, keepdims=True) for x in (P, Q))
    U, _, Vh = np.linalg.svd(np.swapaxes(Q - q, -1, -2) @ (w * (P - p)))
    signs = np.ones(U.shape[:-1])
    signs[..., -1] = np.sign(np.linalg.det(U @ Vh))
    R = (U * signs[..., None, :]) @ Vh
    t = q[..., 0, :] - np.einsum("...ij,...j->...i", R, p[..., 0, :])
    distance = P @ np.swapaxes(R, -1, -2) + t[..., None, :] - Q
    return R, t, np.sqrt((w[..., 0] * (distance**2).sum(-1)).sum(-1))


def tsvt(X, tau, axis=-1):
    spectrum = np.moveaxis(np.fft.fft(X, axis=axis), axis, 0)
    result = np.moveaxis(soft(spectrum, np.asarray(tau)), 0, axis)
    result = np.fft.ifft(result, axis=axis)
    return result if np.iscomplexobj(X) else result.real


def local_low_rank(x, tau, block, stride, shift):
    *batch, frames, height, width = x.shape
    steps = [range(0, b, s) for b, s in zip(block, stride, strict=True)]
    padded = [-(-n // b) * b for n, b in zip((height, width), block, strict=True)]
    total = np.zeros_like(x)
    for dy, dx in itertools.product(*steps):
        whole = np.zeros((*batch, frames, *padded), x.dtype)
        rolled = np.roll(x, (-shift[0] - dy, -shift[1] - dx), axis=(-2, -1))
        whole[..., :height, :width] = rolled
        for i in range(0, padded[0], block[0]):
            for j in range(0, padded[1], block[1]):
                part = whole[..., i : i + block[0], j : j + block[1]]
                columns = part.reshape(*batch, frames, -1)
                whole[..., i : i + block[0], j : j + block[1]] = soft(
                    columns, tau
                ).reshape(part.shape)
        back = whole[..., :height, :width]
        total = total + np.roll(back, (shift[0] + dy, shift[1] + dx), axis=(-2, -1))
    return total / math.prod(map(len, steps))


def divergence(A, tau):
    """Candes, Sing-Long and Trzasko, equations 9 and 10."""
    m, n = A.shape[-2:]
    s = values(A)
    f = np.maximum(s - tau[..., None], 0)
    kept = (s > tau[..., None]) + 0.0
    c = 2 if np.iscomplexobj(A) else 1
    gap = s[..., :, None] ** 2 - s[..., None, :] ** 2
    pairs = np.where(gap == 0, 0, s[..., :, None] * f[..., :, None]) / np.where(
        gap == 0, 1, gap
    )
    own = kept + (c - 1 + c * abs(m - n)) * f / s
    return own.sum(-1) + 2 * c * pairs.sum((-2, -1))


def sure(A, tau, sigma):
    m, n = A.shape[-2:]
    count = (2 if np.iscomplexobj(A) else 1) * m * n
    residual = (np.minimum(values(A), tau[..., None]) ** 2).sum(-1)
    return residual + sigma**2 * (2 * divergence(A, tau) - count)


def hermitian(A, f):
    w, V = np.linalg.eigh(np.tril(A) + adjoint(np.tril(A, -1)))
    return (V * f(w)[..., None, :]) @ adjoint(V)


def generalized(A, B):
    A, B = (A + adjoint(A)) / 2, (B + adjoint(B)) / 2
    L = np.linalg.inv(np.linalg.cholesky(B))
    w, Y = np.linalg.eigh(L @ A @ adjoint(L))
    return w, adjoint(L) @ Y


def density(w, V):
    """V w^2 V^T, in operators of arrays that all frameworks have."""
    rows, columns = (V * (w * w)[..., None, :])[..., :, None, None, :], V[..., None]
    return (rows @ columns[..., None, :, :, :])[..., 0, 0]


def whiten(X, t=0.0):
    m = X.mean(-2)
    Y = X - m[..., None, :]
    C = adjoint(Y) @ Y / X.shape[-2]
    ridge = np.asarray(t)[..., None, None] * np.eye(X.shape[-1])
    return Y @ hermitian(C + ridge, lambda w: w**-0.5), m, C


def correlations(X, Y, t=0.0):
    X, Y = (x - x.mean(-2, keepdims=True) for x in (X, Y))
    ridge = np.asarray(t)[..., None, None]
    one, other = (
        hermitian(
            adjoint(x) @ x / x.shape[-2] + ridge * np.eye(x.shape[-1]),
            lambda w: w**-0.5,
        )
        for x in (X, Y)
    )
    return values(one @ adjoint(X) @ Y @ other / X.shape[-2])


def robust_pca(A, weight, penalty, iterations, growth):
    S = Y = np.zeros_like(A)
    for _ in range(iterations):
        mu = penalty[..., None, None]
        L = soft(A - S + Y / mu, 1 / penalty)
        X = A - L + Y / mu
        S = X * np.maximum(1 - weight[..., None, None] / mu / np.abs(X), 0)
        Y, penalty = Y + mu * (A - L - S), penalty * growth
    return L, S


def bures(A, B):
    A, B = (A + adjoint(A)) / 2, (B + adjoint(B)) / 2
    one, other = hermitian(A, np.sqrt), hermitian(B, np.sqrt)
    Q = recomposed(other @ one, np.ones_like)
    return (np.abs(one - other @ Q) ** 2).sum((-2, -1))


# Inputs.

# The largest is single: a relative threshold and the norm take it. Far from all kinks.
REPEATED = (2.2, 1.4, 1.4)
TWICE = (2.2, 2.2, 0.2)  # for a cut after two


def _anything(*shapes):
    def draw(spectrum, dtype):
        if spectrum == "distinct":
            return [matrices(s, dtype, seed) for seed, s in enumerate(shapes)]
        return [with_values(REPEATED, s, dtype, seed) for seed, s in enumerate(shapes)]

    return draw


def _cut(*shapes):
    def draw(spectrum, dtype):
        if spectrum == "distinct":
            return _anything(*shapes)(spectrum, dtype)
        return [with_values(TWICE, s, dtype, seed) for seed, s in enumerate(shapes)]

    return draw


def _samples(shape):
    """Features of which, but for the mean, some have equal variances."""

    def draw(spectrum, dtype):
        if spectrum == "distinct":
            return _anything(shape)(spectrum, dtype)
        *batch, _, features = shape
        Y = matrices(shape, dtype)
        Y = np.linalg.qr(Y - Y.mean(-2, keepdims=True))[0]
        Y = (Y * np.array([3.0, 2.0, 2.0])) @ unitary(features, dtype, 3, batch)
        return [Y + 0.5]

    return draw


def _system(shape, columns):
    def draw(spectrum, dtype):
        (A,) = _anything(shape)(spectrum, dtype)
        return [A, matrices((*shape[:-1], columns), dtype, 7)]

    return draw


def _pairs(spectrum, dtype):
    """Point sets whose product has the spectrum."""
    if spectrum == "distinct":
        return [matrices((5, 3), dtype), matrices((5, 3), dtype, 1)]
    Q = unitary(5, dtype, 1)
    return [Q[:, :3], Q @ np.r_[with_values(REPEATED, (3, 3), dtype), np.ones((2, 3))]]


def _points(shape):
    def draw(spectrum, dtype):
        if spectrum == "distinct":
            return [matrices(shape, dtype), matrices(shape, dtype, 1)]
        *batch, count, _ = shape
        ones = np.ones((count, 1)) / count**0.5
        P = np.linalg.qr(np.c_[ones, matrices((count, 3))])[0][:, 1:]
        C = with_values(REPEATED, (3, 3))
        Q = P @ (C * np.sign(np.linalg.det(C))) + 1
        return [np.broadcast_to(x, (*batch, count, 3)).copy() for x in (P, Q)]

    return draw


def _slices(spectrum, dtype):
    """Tensor with one slice in frequency, of the spectrum, besides zeros."""
    if spectrum == "distinct":
        return [matrices((2, 3, 5, 4), dtype)]
    A = with_values(REPEATED, (2, 3, 4), dtype)[:, :, None]
    return [np.repeat(A, 5, axis=2) / 5]


def _definite(shape, values=(2.0, 2.0, 1.0, 0.5)):
    def draw(spectrum, dtype):
        n = shape[-1]
        w = np.array(values[:n]) + (spectrum == "distinct") * 0.3 * np.arange(n)
        V = unitary(n, dtype, 3, shape[:-2])
        return [(V * w) @ adjoint(V)]

    return draw


def _two_definite(shape, size=1.0):
    def draw(spectrum, dtype):
        (B,) = _definite(shape)("distinct", dtype)
        if spectrum == "distinct":
            C = matrices(shape, dtype, 8) / 4
            return [size * (B + C @ adjoint(C) + np.eye(shape[-1])), size * B]
        L = np.linalg.cholesky(B)
        w = np.array([2.0, 2.0, 0.7])
        V = unitary(shape[-1], dtype, 9, shape[:-2])
        return [size * L @ ((V * w) @ adjoint(V)) @ adjoint(L), size * B]

    return draw


@dataclass(frozen=True)
class Case:
    """An operator, its reference, what draws its matrices, and its real arrays."""

    call: object
    reference: object
    draw: object
    parameters: tuple = ()
    repeated: bool = True  # whether there is a derivative at repeated values
    bends: bool = True  # and a second one
    hermitian: bool = False


def _case(call, reference, draw, *parameters, **options):
    return Case(call, reference, draw, parameters, **options)


_tall, _wide = _anything((2, 4, 3)), _anything((3, 5))
_CASES = {
    "svt": _case(lambda f, A, t: f.svt(A, t), soft, _tall, _tau(2)),
    "svt, wide": _case(lambda f, A, t: f.svt(A, t), soft, _wide, _tau()),
    "svt, weighted": _case(
        lambda f, A, t: f.svt(A, t), soft, _anything((2, 3, 4)), _tau(2, 3),
        repeated=False,  # each value has a weight of its own: there is no derivative
    ),
    "svt, relative": _case(
        lambda f, A, t: f.svt(A, t, relative=True), soft_relative, _tall,
        np.array([0.28, 0.53]),
    ),
    "svt, gram": _case(
        lambda f, A, t: f.svt(A, t, method="gram"),
        soft,
        _anything((2, 3, 5)),
        _tau(2),
    ),
    "svht": _case(lambda f, A, t: f.svht(A, t), hard, _tall, _tau(2)),
    "firm_threshold": _case(
        lambda f, A, t: f.firm_threshold(A, t, 2.5),
        lambda A, t: firm(A, t, 2.5),
        _tall,
        _tau(2),
    ),
    "huber_threshold": _case(
        lambda f, A, t: f.huber_threshold(A, t, 0.9),
        lambda A, t: huber(A, t, 0.9),
        _tall,
        _tau(2),
    ),
    "log_sum_threshold": _case(
        lambda f, A, t: f.log_sum_threshold(A, t, 0.5),
        lambda A, t: log_sum(A, t, 0.5),
        _tall,
        _tau(2),
    ),
    **{
        f"schatten_prox, {p:.1f}": _case(
            lambda f, A, t, p=p: f.schatten_prox(A, t, p),
            lambda A, t, p=p: schatten(A, t, p),
            _tall,
            0.5 * _tau(2) if p < 1 else _tau(2),
        )
        for p in (1 / 2, 2 / 3, 1, 2)
    },
    "low_rank": _case(
        lambda f, A: f.low_rank(A, 2), lambda A: leading(A, 2), _cut((2, 4, 3))
    ),
    "polar": _case(
        lambda f, A: f.polar(A),
        lambda A: recomposed(A, np.ones_like),
        _anything((2, 3, 4)),
    ),
    "nuclear_norm": _case(
        lambda f, A: f.nuclear_norm(A), lambda A: values(A).sum(-1), _tall
    ),
    "spectral_norm": _case(
        lambda f, A: f.spectral_norm(A), lambda A: values(A)[..., 0], _tall
    ),
    "ky_fan_norm": _case(
        lambda f, A: f.ky_fan_norm(A, 2),
        lambda A: values(A)[..., :2].sum(-1),
        _cut((2, 4, 3)),
    ),
    **{
        f"schatten_norm, {p}": _case(
            lambda f, A, p=p: f.schatten_norm(A, p),
            lambda A, p=p: (values(A) ** p).sum(-1) ** (1 / p),
            draw,
        )
        for p, draw in ((1.5, _tall), (0.5, _anything((3, 4))), (3, _tall))
    },
    "svdvals": _case(
        lambda f, A: f.svdvals(A), values, _tall, repeated=False
    ),
    "null_vector": _case(
        lambda f, A: f.null_vector(A), null_vector, _tall, repeated=False,
    ),
    "null_vector, wide": _case(
        lambda f, A: f.null_vector(A), null_vector, _anything((2, 2, 3)),
        repeated=False,
    ),
    "pinv": _case(lambda f, A: f.pinv(A), np.linalg.pinv, _tall),
    "pinv, wide": _case(lambda f, A: f.pinv(A), np.linalg.pinv, _wide),
    "pinv, cut": _case(
        lambda f, A: f.pinv(A, 0.4),
        lambda A: adjoint(recomposed(A, lambda s: (s > 0.4 * s[..., :1]) / s)),
        _cut((2, 4, 3)),
    ),
    "lstsq": _case(lambda f, A, b: f.lstsq(A, b), least_squares, _system((2, 4, 3), 2)),
    "lstsq, vector": _case(
        lambda f, A, b: f.lstsq(A, b[:, 0]),
        lambda A, b: least_squares(A, b)[:, 0],
        _system((3, 5), 1),
    ),
    "lstsq, damping": _case(
        lambda f, A, b, t: f.lstsq(A, b, damping=t),
        least_squares,
        _system((2, 4, 3), 2),
        _tau(2),
    ),
    "lstsq, damping, wide": _case(
        lambda f, A, b, t: f.lstsq(A, b, damping=t),
        least_squares,
        _system((3, 5), 2),
        _tau(),
    ),
    "procrustes": _case(lambda f, A, B: f.procrustes(A, B), procrustes, _pairs),
    "tsvt": _case(
        lambda f, A, t: f.tsvt(A, t, axis=-2),
        lambda A, t: tsvt(A, t, -2),
        _slices,
        0.3 * _tau(2),
    ),
    "tsvt, even": _case(
        lambda f, A, t: f.tsvt(A, t), tsvt, _anything((3, 2, 4)), _tau(),
        repeated=False,
    ),
    "local_low_rank": _case(
        lambda f, A, t: f.local_low_rank(A, t, (2, 3), stride=(1, 3), shift=1),
        lambda A, t: local_low_rank(A, t, (2, 3), (1, 3), (1, 1)),
        _anything((2, 3, 4, 5)),
        _tau(2),
        repeated=False,
    ),
    "spectral_map": _case(
        lambda f, A, t: f.spectral_map(A, lambda s: s**3 / (s**2 + t)),
        lambda A, t: recomposed(A, lambda s: s**3 / (s**2 + t)),
        _tall,
        _tau(),
        bends=False,
    ),
    "spectral_map, df": _case(
        lambda f, A: f.spectral_map(A, lambda s: s**2, lambda s: 2 * s),
        lambda A: recomposed(A, lambda s: s**2),
        _anything((3, 4)),
        bends=False,
    ),
    "svt_divergence": _case(
        lambda f, A, t: f.svt_divergence(A, t), divergence, _tall, _tau(2),
        repeated=False,  # of the reference, which has a quotient
    ),
    "sure": _case(
        lambda f, A, t, s: f.sure(A, t, s), sure, _tall, _tau(2), np.array([0.5, 0.7]),
        repeated=False,
    ),
    **{
        name: _case(
            lambda f, A, name=name: getattr(f, name)(A),
            lambda A, g=g: hermitian(A, g),
            _definite((2, 3, 3)),
            hermitian=True,
        )
        for name, g in (
            ("expm", np.exp),
            ("logm", np.log),
            ("sqrtm", np.sqrt),
            ("inv_sqrtm", lambda w: w**-0.5),
        )
    },
    "powm": _case(
        lambda f, A, p: f.powm(A, p),
        lambda A, p: hermitian(A, lambda w: w ** p[..., None]),
        _definite((2, 3, 3)),
        np.array([-0.7, 1.3]),
        hermitian=True,
    ),
    "psd_project": _case(
        lambda f, A, t: f.psd_project(A, t),
        lambda A, t: hermitian(A, lambda w: np.maximum(w, t[..., None])),
        _definite((2, 4, 4), (1.0, 1.0, -0.4, -0.4)),
        np.array([0.3, 0.0]),
        hermitian=True,
    ),
    "eigh_generalized": _case(
        lambda f, A, B: f.eigh_generalized(A, B)[0],
        lambda A, B: generalized(A, B)[0],
        _two_definite((2, 3, 3)),
        repeated=False,
        hermitian=True,
    ),
    **{
        f"bures_distance{name}": _case(
            lambda f, A, B, s=s: f.bures_distance(A, B, squared=s),
            lambda A, B, p=p: bures(A, B) ** p,
            _two_definite((2, 3, 3), 0.2),
            hermitian=True,
        )
        for name, s, p in (("", False, 0.5), (", squared", True, 1))
    },
    "eigh": _case(
        lambda f, A: f.eigh(A)[0],
        lambda A: np.linalg.eigvalsh(A),
        _definite((2, 4, 4)),
        repeated=False,
        hermitian=True,
    ),
}  # fmt: skip
# Where a formula differs for complex matrices.
COMPLEX = ("svt", "polar", "null_vector", "schatten_norm, 1.5", "procrustes", "tsvt",
           "spectral_map", "sure", "pinv", "lstsq", "sqrtm", "powm", "bures",
           "eigh")  # fmt: skip
_REAL = {
    "kabsch": _case(
        lambda f, P, Q: tuple(f.kabsch(P, Q)), kabsch, _points((2, 6, 3))
    ),
    "eigh_generalized, function": _case(
        lambda f, A, B: density(*f.eigh_generalized(A, B)),
        lambda A, B: density(*generalized(A, B)),
        _two_definite((2, 3, 3)),
        repeated=False,  # forward mode leaves the rotation in a multiplet out
        hermitian=True,
    ),
    "whiten": _case(
        lambda f, X, t: (*f.whiten(X, t), f.whiten(X).white),
        lambda X, t: (*whiten(X, t), whiten(X)[0]),
        _samples((2, 8, 3)),
        _tau(2),
    ),
    "cca": _case(
        lambda f, X, Y: f.cca(X, Y).correlations,
        correlations,
        _anything((9, 3), (9, 4)),
        repeated=False,
    ),
    "cca, ridge": _case(
        lambda f, X, Y, t: f.cca(X, Y, 2, ridge=t).correlations,
        lambda X, Y, t: correlations(X, Y, t)[..., :2],
        _anything((2, 6, 3), (2, 6, 2)),
        _tau(2),
        repeated=False,
    ),
    "robust_pca": _case(
        lambda f, A, t, mu: tuple(
            f.robust_pca(A, t, penalty=mu, iterations=3, growth=1.2)
        ),
        lambda A, t, mu: robust_pca(A, t, mu, 3, 1.2),
        _anything((2, 4, 3)),
        np.array([0.3, 0.35]),
        np.array([0.7, 1.1]),
        repeated=False,
    ),
    "polar, special": _case(
        lambda f, A: f.polar(A, special=True), nearest_rotation, _anything((6, 3, 3)),
    ),
    "kabsch, scale": _case(
        lambda f, P, Q: tuple(f.kabsch(P, Q, scale=True)),
        similarity,
        _points((2, 6, 3)),
    ),
    "kabsch, scale, reflection": _case(
        lambda f, P, Q, w: tuple(f.kabsch(P, Q, w, scale=True, reflection=True)),
        lambda P, Q, w: similarity(P, Q, w, True),
        _points((4, 5, 3)),
        _tau(4, 5),
        repeated=False,
    ),
    "kabsch, weights": _case(
        lambda f, P, Q, w: tuple(f.kabsch(P, Q, w)),
        kabsch,
        _points((5, 3)),
        _tau(5),
        repeated=False,
    ),
}  # fmt: skip
CASES = {
    f"{name}, {np.dtype(dtype).name}": (np.dtype(dtype), case)
    for dtype in DTYPES
    for name, case in {**_CASES, **(_REAL if dtype == np.float64 else {})}.items()
}


def _product(f, U, S, Vh):
    """U S^2 V^H by functions of a framework, of whose module is `f`."""
    if f.__name__ == "svdinv.tf":
        import tensorflow as tf

        S = tf.cast(S, U.dtype)  # TensorFlow mixes no dtypes
    return (U * S[..., None, :] ** 2) @ Vh


def _adjoint(f, x):
    if f.__name__ == "svdinv.tf":
        import tensorflow as tf

        return tf.linalg.adjoint(x)
    if f.__name__ == "svdinv.mlx":
        import mlx.core as mx

        return mx.conj(mx.swapaxes(x, -1, -2))
    if f.__name__ == "svdinv.torch":
        return x.mH
    return x.mT.conj() if f.__name__ == "svdinv.jax" else adjoint(x)


def _squared(f, A):
    if f.__name__ == "svdinv.tf":  # which returns V, and in another order
        S, U, V = f.svd(A)
        return _product(f, U, S, _adjoint(f, V))
    return _product(f, *f.svd(A))


def _eigh_squared(f, A):
    w, V = f.eigh(A)
    return _product(f, V, w, _adjoint(f, V))


def residual(A, U, Vh, S):
    V, u = adjoint(Vh), np.linalg.norm
    left = u(A @ V - U * S[..., None, :], axis=-2)
    right = u(adjoint(A) @ U - V * S[..., None, :], axis=-2)
    return np.sqrt((left**2 + right**2) / 2)


# What gives or takes vectors, or an object: tests of their own differentiate these.
_FURTHER = {
    "svd": _case(_squared, lambda A: recomposed(A, np.square), _tall),
    "svd_lowrank": _case(
        lambda f, A: _product(f, *f.svd_lowrank(A, 2, seed=0)),
        lambda A: recomposed(leading(A, 2), np.square),
        _cut((2, 4, 3)),
    ),
    "svd_residual": _case(
        lambda f, A, U, Vh, S: f.svd_residual(A, U, S, Vh),
        residual,
        _anything((2, 4, 3), (2, 4, 2), (2, 2, 3)),
        _tau(2, 2),
    ),
    "spectral_operator": _case(
        lambda f, A, t: f.spectral_operator(A, Firm(2.5), t),
        lambda A, t: firm(A, t, 2.5),
        _tall,
        _tau(2),
    ),
    "hermitian_map": _case(
        lambda f, A: f.hermitian_map(A, Exponential()),
        lambda A: hermitian(A, np.exp),
        _definite((2, 3, 3)),
        hermitian=True,
    ),
    "eigh, vectors": _case(
        _eigh_squared,
        lambda A: hermitian(A, np.square),
        _definite((2, 4, 4)),
        hermitian=True,
    ),
}
FURTHER = {
    f"{name}, {np.dtype(dtype).name}": (np.dtype(dtype), case)
    for dtype in DTYPES
    for name, case in _FURTHER.items()
}
ALL_CASES = CASES | FURTHER


def direction(case, inputs, seed=10):
    """Direction of length 1 to move the inputs in: Hermitian, where they stay it."""
    found = [matrices(x.shape, x.dtype, seed + i) for i, x in enumerate(inputs)]
    if case.hermitian:
        found = [
            (x + adjoint(x)) / 2 if x.shape[-1:] == x.shape[-2:-1] else x for x in found
        ]
    length = inner(found, found) ** 0.5
    return [x / length for x in found]


def weights(results):
    """A cotangent for each result."""
    return [
        matrices(x.shape, x.dtype, 20 + i).reshape(x.shape)
        for i, x in enumerate(results)
    ]


@functools.cache
def problem(name, spectrum="distinct"):
    """Inputs, directions and cotangents of a case."""
    dtype, case = ALL_CASES[name]
    inputs = [*case.draw(spectrum, dtype), *map(np.asarray, case.parameters)]
    results = as_tuple(case.reference(*inputs))
    return inputs, direction(case, inputs), weights(results)


@functools.cache
def bound(name, framework):
    """The operator of a framework, the same function whenever it is asked for."""
    _, case = ALL_CASES[name]
    return functools.partial(case.call, framework.module)


def inner(a, b):
    """Sum of Re <a, b>."""
    return sum(np.sum((np.conj(x) * y).real) for x, y in zip(a, b, strict=True))


# Of a central difference with 12 points: exact up to the step's 12th power.
POINTS = range(1, 7)
_COEFFICIENTS = [
    2 * (-1) ** (i + 1) * math.factorial(6) ** 2
    / (math.factorial(6 - i) * math.factorial(6 + i)) / (2 * i)
    for i in POINTS
]  # fmt: skip


def difference(f, inputs, directions, step=5e-3):
    """Derivative along a direction of a function with a list of results."""
    total = None
    for i, c in zip(POINTS, _COEFFICIENTS, strict=True):
        up, down = (
            f(*(x + t * d for x, d in zip(inputs, directions, strict=True)))
            for t in (i * step, -i * step)
        )
        term = [c / step * (a - b) for a, b in zip(up, down, strict=True)]
        if total is not None:
            term = [a + b for a, b in zip(total, term, strict=True)]
        total = term
    return total
