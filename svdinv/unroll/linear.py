"""The algebra of linear operators: products, sums, multiples, adjoints, norms.

``A(x)`` applies, ``A.H(y)`` is the adjoint; ``A * B`` is A after B, ``A + B`` their
sum, ``2 * A`` a multiple. An operator of one's own defines `forward` and `adjoint`.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from svdinv.unroll.arrays import (
    Array,
    as_complex,
    as_float,
    fitted,
    inner,
    is_complex,
    namespace,
    norm,
)

__all__ = ["Identity", "Operator", "operator_norm"]


class Operator:
    """A linear operator: subclasses define `forward` and `adjoint`.

    Attributes
    ----------
    tight : bool
        Whether ``A A^H`` is the identity on what A can give, so that
        ``x - A^H(A x - y)`` is the image nearest to x that explains y.
    unitary : bool
        Whether ``A^H`` is the inverse of A.
    """

    tight = False
    unitary = False

    # A NumPy number on the left then leaves the multiplication to __rmul__.
    __array_ufunc__ = None

    def forward(self, x: Array) -> Array:
        """Apply the operator."""
        raise NotImplementedError

    def adjoint(self, y: Array) -> Array:
        """Apply the adjoint."""
        raise NotImplementedError

    def __call__(self, x: Array) -> Array:
        """Measure `x`."""
        return self.forward(x)

    @property
    def H(self) -> Operator:
        """The adjoint, an operator itself."""
        return _Adjoint(self)

    def consistent(self, x: Array, y: Array) -> Array:
        """Project `x` onto the images that explain `y`, of a tight operator.

        Parameters
        ----------
        x : array
            An image.
        y : array
            Measurements.

        Returns
        -------
        array
            ``x - A^H(A x - y)``.
        """
        return x - self.adjoint(self.forward(x) - y)

    def measured(self, y: Array) -> Array:
        """Set to 0 what is no measurement in an array of them, such as NaN.

        Parameters
        ----------
        y : array
            Measurements.

        Returns
        -------
        array
            The same, where `y` is measured; here everywhere.
        """
        return y

    def __mul__(self, other: Any) -> Operator:
        """Give A B, that is B first; or a multiple."""
        if isinstance(other, Operator):
            return _Product([*_factors(self), *_factors(other)])
        return self.__rmul__(other)

    def __rmul__(self, scalar: Any) -> Operator:
        """Give a multiple."""
        if not isinstance(scalar, numbers.Number):
            return NotImplemented
        return _Multiple(scalar, self)

    def __truediv__(self, scalar: complex) -> Operator:
        """Give a fraction."""
        if not isinstance(scalar, numbers.Number):
            return NotImplemented
        return (1 / scalar) * self

    def __add__(self, other: Operator) -> Operator:
        """Give A + B."""
        if not isinstance(other, Operator):
            return NotImplemented
        return _Sum(self, other)

    def __sub__(self, other: Operator) -> Operator:
        """Give A - B."""
        if not isinstance(other, Operator):
            return NotImplemented
        return self + (-1) * other

    def __neg__(self) -> Operator:
        """Give -A."""
        return (-1) * self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        """Describe the parameters, for ``repr``."""
        return ""


class Identity(Operator):
    """Leave an image as it is: the measurement of denoising."""

    tight = True
    unitary = True

    def forward(self, x: Array) -> Array:
        """Give `x`."""
        return x

    def adjoint(self, y: Array) -> Array:
        """Give `y`."""
        return y


class _Adjoint(Operator):
    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.tight, self.unitary = operator.tight, operator.unitary

    def forward(self, x: Array) -> Array:
        return self.operator.adjoint(x)

    def adjoint(self, y: Array) -> Array:
        return self.operator.forward(y)

    @property
    def H(self) -> Operator:
        return self.operator

    def __repr__(self) -> str:
        compound = isinstance(self.operator, _Product | _Multiple)
        return f"({self.operator!r}).H" if compound else f"{self.operator!r}.H"


class _Product(Operator):
    def __init__(self, factors: Sequence[Operator]) -> None:
        self.factors = tuple(factors)
        others = [factor for factor in self.factors if not factor.unitary]
        self.unitary = not others
        # Of two projections the product need not be one.
        self.tight = len(others) < 2 and all(factor.tight for factor in others)

    def forward(self, x: Array) -> Array:
        for factor in reversed(self.factors):
            x = factor.forward(x)
        return x

    def adjoint(self, y: Array) -> Array:
        for factor in self.factors:
            y = factor.adjoint(y)
        return y

    def measured(self, y: Array) -> Array:
        return self.factors[0].measured(y)

    def __repr__(self) -> str:
        return " * ".join(map(repr, self.factors))


def _factors(operator: Operator) -> tuple[Operator, ...]:
    return operator.factors if type(operator) is _Product else (operator,)


class _Sum(Operator):
    def __init__(self, first: Operator, second: Operator) -> None:
        self.first, self.second = first, second

    def forward(self, x: Array) -> Array:
        return self.first.forward(x) + self.second.forward(x)

    def adjoint(self, y: Array) -> Array:
        return self.first.adjoint(y) + self.second.adjoint(y)

    def __repr__(self) -> str:
        return f"({self.first!r} + {self.second!r})"


class _Multiple(Operator):
    def __init__(self, scalar: Any, operator: Operator) -> None:
        # Python's numbers: NumPy's would raise the precision of the arrays.
        number = complex(scalar)
        self.scalar = number if number.imag else number.real
        self.operator = operator

    def forward(self, x: Array) -> Array:
        return _times(self.scalar, self.operator.forward(x))

    def adjoint(self, y: Array) -> Array:
        return _times(self.scalar.conjugate(), self.operator.adjoint(y))

    def measured(self, y: Array) -> Array:
        return self.operator.measured(y)

    def __repr__(self) -> str:
        return f"{self.scalar} * {self.operator!r}"


def _times(scalar: complex, x: Array) -> Array:
    return scalar * (as_complex(x, namespace(x)) if isinstance(scalar, complex) else x)


def operator_norm(
    A: Operator,
    like: Array,
    *,
    iterations: int = 100,
    rtol: float = 1e-4,
    rng: np.random.Generator | int = 0,
) -> float:
    """Largest singular value of an operator, by Lanczos's method on A^H A.

    From a random start it finds the largest eigenvalue where it belongs to a few
    pixels only, too, which power iteration would take long to notice (Kuczynski &
    Wozniakowski, SIAM J. Matrix Anal. Appl. 1992).

    Parameters
    ----------
    A : Operator
        Linear operator.
    like : array
        An image that A can be applied to; of it the shape, the dtype and the
        framework matter. Of a batch the largest norm is found.
    iterations : int
        Most iterations.
    rtol : float
        Stop once the residual of the squared norm, as an eigenvalue of A^H A, is less
        than this times it.
    rng : numpy.random.Generator or int
        Source of the first image, or its seed.

    Returns
    -------
    float
        The norm, from below: the true one is larger by a little where the largest
        singular values are close to each other. 0 for the zero operator, NaN where
        A gives what is not finite.

    Raises
    ------
    ValueError
        If `iterations` is not positive.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    xp, rng = namespace(like), np.random.default_rng(rng)
    shape = tuple(like.shape)
    start = rng.standard_normal(shape)
    if is_complex(like, xp):
        start = start + 1j * rng.standard_normal(shape)
    x = fitted(start, like, xp)
    x = x / as_float(norm(x))
    before, off = xp.zeros_like(x), 0.0
    T = np.zeros((iterations, iterations))
    squared = 0.0
    for k in range(iterations):
        following = A.adjoint(A.forward(x)) - off * before
        along = as_float(inner(x, following))
        following = following - along * x
        off = as_float(norm(following))
        if not math.isfinite(off):
            return math.nan
        T[k, k] = along
        values, vectors = np.linalg.eigh(T[: k + 1, : k + 1])
        squared = max(float(values[-1]), 0.0)
        if off * abs(vectors[-1, -1]) <= rtol * squared or k + 1 == iterations:
            break
        T[k, k + 1] = T[k + 1, k] = off
        before, x = x, following / off
    return math.sqrt(squared)
