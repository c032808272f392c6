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


def procrustes(A, B):
    # min |A R - B|
    return recomposed(adjoint(A) @ B, np.ones_like)


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
           "spectral_map", "sure", "sqrtm", "eigh")  # fmt: skip
_REAL = {
    "kabsch": _case(
        lambda f, P, Q: tuple(f.kabsch(P, Q)), kabsch, _points((2, 6, 3))
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


def direction(case, inputs, seed=10):
    """Direction of length 1 to move the inputs in: Hermitian, where they stay it."""
    found = [matrices(x.shape, x.dtype, seed + i) for i, x in enumerate(inputs)]
    if case.hermitian:
        found[0] = (found[0] + adjoint(found[0])) / 2
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
    dtype, case = CASES[name]
    inputs = [*case.draw(spectrum, dtype), *map(np.asarray, case.parameters)]
    results = as_tuple(case.reference(*inputs))
    return inputs, direction(case, inputs), weights(results)


@functools.cache
def bound(name, framework):
    """The operator of a framework, the same function whenever it is asked for."""
    _, case = CASES[name]
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
