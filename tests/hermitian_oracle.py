"""Hermitian matrices with known factors, and exact derivatives of functions of them.

Losses are Re<G, V f(w) V^H> + sum_i g(w_i). Their gradient follows from the known
factors by the Daleckii-Krein formula, with divided differences of f in extended
precision: integrals of its derivatives for close values, quotients for others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from oracle import adjoint, random_unitary

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(10)
_UNIT = tuple(zip((_NODES + 1) / 2, _WEIGHTS / 2, strict=True))


def herm(X):
    return (X + adjoint(X)) / 2


@dataclass(frozen=True)
class Function:
    """f, f' and f''; `positive` if there is a singularity at 0.

    Values within `reach` count as close.
    """

    name: str
    value: object
    slope: object
    bend: object
    positive: bool = False
    reach: float = 0.5

    def difference(self, a, b):
        """First divided difference."""
        low, high = _sorted(a, b)
        near = self._near(low, high)
        step, gap = np.where(near, high - low, 0), np.where(near, 1, high - low)
        mean = sum(w * self.slope(low + x * step) for x, w in _UNIT)
        return np.where(near, mean, (self.value(high) - self.value(low)) / gap)

    def second_difference(self, a, b, c):
        """Second divided difference (Hermite and Genocchi)."""
        low, middle, high = _sorted(a, b, c)
        near = self._near(low, high)
        gap = np.where(near, 1, high - low)
        apart = self.difference(high, middle) - self.difference(middle, low)
        one, two = np.where(near, middle - low, 0), np.where(near, high - middle, 0)
        mean = 0
        for x, w in _UNIT:
            for y, v in _UNIT:
                mean = mean + w * v * x * self.bend(low + x * (one + y * two))
        return np.where(near, mean, apart / gap)

    def _near(self, low, high):
        return high - low <= (0.2 * low if self.positive else self.reach)

    def scaled(self, scale):
        """F(w) = scale f(w / scale)."""
        s = np.longdouble(scale)
        return Function(
            self.name,
            lambda w: s * self.value(w / s),
            lambda w: self.slope(w / s),
            lambda w: self.bend(w / s) / s,
            self.positive,
            self.reach * scale,
        )


def _sorted(*values):
    return np.sort(np.stack(np.broadcast_arrays(*values)).astype(np.longdouble), axis=0)


def power(q):
    q = np.longdouble(q)
    return Function(
        f"power {q}",
        lambda w: w**q,
        lambda w: q * w ** (q - 1),
        lambda w: q * (q - 1) * w ** (q - 2),
        positive=True,
    )


IDENTITY = Function("identity", lambda w: w, np.ones_like, np.zeros_like)
CUBE = Function("cube", lambda w: w**3, lambda w: 3 * w**2, lambda w: 6 * w)
EXP = Function("exp", np.exp, np.exp, np.exp)
COS = Function("cos", np.cos, lambda w: -np.sin(w), lambda w: -np.cos(w))
SHIFTED = Function(
    "shifted inverse",
    lambda w: 1 / (w + 3),
    lambda w: -1 / (w + 3) ** 2,
    lambda w: 2 / (w + 3) ** 3,
)
SQRT, INVERSE_SQRT = power(0.5), power(-0.5)
LOG = Function("log", np.log, lambda w: 1 / w, lambda w: -1 / w**2, positive=True)
FUNCTIONS = (IDENTITY, CUBE, EXP, COS, SHIFTED, SQRT, LOG)

# g', for a factor (the scale of A) times g(w / factor)
PENALTIES = {"none": np.zeros_like, "trace": np.ones_like, "square": lambda w: 0.8 * w}

GAPS = tuple(10.0**-i for i in range(1, 17))
REPEATED = ("pair", "triple", "two clusters", "all equal")
INDEFINITE = ("indefinite", "indefinite pairs", "opposite", "negative")
ZEROS = ("one zero", "zeros", "zeros and pairs", "definite zeros")
SPECTRA = (
    "distinct",
    *REPEATED,
    *INDEFINITE,
    *ZEROS,
    *(f"gap {gap:.0e}" for gap in GAPS),
    *(f"zero gap {gap:.0e}" for gap in GAPS[4:]),
    "condition 1e12",
)


def spectrum(name, n, rng):
    """Draw n >= 6 eigenvalues of moderate size, sorted upwards."""
    w = 0.4 + 0.2 * np.arange(n) + 0.05 * rng.random(n)
    signed = w * np.where(np.arange(n) % 2, -1, 1)
    if name == "distinct":
        pass
    elif name == "pair":
        w[2] = w[1]
    elif name == "triple":
        w[1] = w[3] = w[2]
    elif name == "two clusters":
        w[1] = w[0]
        w[3] = w[4] = w[2]
    elif name == "all equal":
        w[:] = w[0]
    elif name == "indefinite":
        w = signed
    elif name == "indefinite pairs":
        w = signed
        w[2], w[3] = w[0], w[1]
    elif name == "opposite":
        w[1], w[3] = -w[0], -w[2]
    elif name == "negative":
        w = -w
        w[2] = w[1]
    elif name == "one zero":
        w = signed
        w[0] = 0
    elif name == "zeros":
        w = signed
        w[:3] = 0
    elif name == "zeros and pairs":
        w = signed
        w[:2] = 0
        w[4] = w[2]
    elif name == "definite zeros":
        w[:2] = 0
    elif name == "condition 1e12":
        w = np.geomspace(1.0, 1e-12, n) * (1 + 0.1 * rng.random(n))
    elif name.startswith("gap "):
        w[2] = w[1] * (1 - float(name[4:]))
    elif name.startswith("zero gap "):
        w = signed
        w[0], w[1] = float(name[9:]) * (0.5 - rng.random()), 0
        w[1] = w[0] - float(name[9:])
    else:
        raise ValueError(name)
    return np.sort(w)


def positive(name):
    """Tell whether all eigenvalues of the spectrum are positive."""
    return name not in (*INDEFINITE, *ZEROS) and not name.startswith("zero")


def functions(name):
    """Functions whose derivative exists at the spectrum, and is well conditioned."""
    for f in FUNCTIONS:
        if not f.positive or (positive(name) and not name.startswith("cond")):
            yield f


@dataclass(frozen=True)
class Problem:
    """A batch of matrices A = V diag(w) V^H with known factors, in float64."""

    A: np.ndarray
    V: np.ndarray
    w: np.ndarray
    G: np.ndarray

    def value(self, f):
        return (self.V * f.value(self._wide()).astype(float)[..., None, :]) @ adjoint(
            self.V
        )

    def derivative(self, f, X, penalty=None):
        """V [f[w_i, w_j] o (V^H herm(X) V)] V^H, and V diag(g') V^H for a penalty."""
        w, V = self._wide(), self.V
        block = f.difference(w[..., :, None], w[..., None, :]).astype(float)
        block = block * self._inside(X)
        if penalty is not None:
            block = block + np.eye(w.shape[-1]) * penalty(self.w)[..., None]
        return V @ block @ adjoint(V)

    def second_derivative(self, f, X, Y):
        w, V = self._wide(), self.V
        n = w.shape[-1]
        # Of any order of three values it is the same, and takes long.
        orders = np.sort(np.indices((n, n, n)).reshape(3, -1), axis=0)
        once, where = np.unique(orders, axis=1, return_inverse=True)
        d = f.second_difference(*(w[..., i] for i in once)).astype(float)
        d = d[..., where].reshape(*w.shape[:-1], n, n, n)
        X, Y = self._inside(X), self._inside(Y)
        block = np.einsum("...ikj,...ik,...kj->...ij", d, X, Y)
        return V @ (block + adjoint(block)) @ adjoint(V)

    def cotangents(self, w, V, f, penalty):
        """Cotangents of (w, V), as autodiff would compute them from these factors."""
        H = herm(self.G).astype(V.dtype)
        x = w.astype(np.longdouble)
        gV = 2 * (H @ V) * f.value(x).astype(w.dtype)[..., None, :]
        K = np.sum(np.conj(V) * (H @ V), axis=-2).real
        gw = f.slope(x).astype(w.dtype) * K + penalty(w)
        return gw.astype(w.dtype), gV

    def _wide(self):
        return self.w.astype(np.longdouble)

    def _inside(self, X):
        return adjoint(self.V) @ herm(X) @ self.V


def draw(name, n=6, *, draws, dtype=np.float64, seed=0, scale=1.0):
    """Draw problems with the named spectrum times `scale`, rounded to `dtype`."""
    rng = np.random.default_rng(seed)
    is_complex = np.issubdtype(dtype, np.complexfloating)
    V = random_unitary((draws, n, n), rng, is_complex)
    w = np.stack([spectrum(name, n, rng) for _ in range(draws)]) * scale
    A = herm((V * w[..., None, :]) @ adjoint(V)).astype(dtype)
    return Problem(A, V, w, normal((draws, n, n), rng, dtype))


def normal(shape, rng, dtype):
    """Draw from the normal distribution, rounded to `dtype`, in double precision."""
    X = rng.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        X = X + 1j * rng.standard_normal(shape)
    return X.astype(dtype).astype(X.dtype)
